//! The application's side: a process of its own on the load's processor, as cheap as can be.
//!
//! It writes its port on a line and serves until its standard input ends.

mod http1;
mod http2;
mod sink;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::process;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::pipe::{Filled, Pipe, READ_BYTES};

/// What the backend speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Speech {
    /// HTTP/1.1: a fixed answer to every request.
    Http1,
    /// HTTP/2 in the clear: a fixed answer to every request.
    H2,
    /// As H2: a gRPC message to every call.
    GrpcUnary,
    /// gRPC: what comes goes back.
    GrpcStream,
    /// Counts bytes.
    Sink,
}

/// Flags of `weft-bench backend`.
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    /// What to speak.
    #[arg(long)]
    pub speech: Speech,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Bytes of every answer's body.
    #[arg(long, default_value_t = 100)]
    pub body: usize,
}

/// Serves.
///
/// # Errors
/// It cannot listen.
#[expect(clippy::print_stdout, reason = "its starter reads the port")]
pub fn run(args: &BackendArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        // However it ends, whoever started this has.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap_or_default();
        process::exit(0);
    });
    match args.speech {
        Speech::Http1 => serve(listener, || http1::Talk::new(args.body), http1::Talk::take),
        Speech::Sink => sink::serve(&listener),
        speech @ (Speech::H2 | Speech::GrpcUnary | Speech::GrpcStream) => {
            serve(listener, || http2::Talk::new(speech, args.body), http2::Talk::take)
        }
    }
}

/// What a protocol made of its input.
struct Taken {
    /// Bytes it has used up.
    used: usize,
    /// Close when all is written.
    last: bool,
}

/// The loop of all protocols: `take` uses input up and appends what is to be written.
fn serve<T>(
    listener: TcpListener,
    open: impl Fn() -> T,
    take: impl Fn(&mut T, &[u8], &mut Vec<u8>) -> anyhow::Result<Taken>,
) -> anyhow::Result<()> {
    const LISTENER: Token = Token(usize::MAX - 1);
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut buffer) = (Events::with_capacity(256), vec![0; READ_BYTES]);
    let mut talks: Vec<Option<(Pipe, T)>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(index) = event.token();
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let place = free.pop().unwrap_or(talks.len());
                    let pipe = register(&poll, stream, place)?;
                    match talks.get_mut(place) {
                        Some(slot) => *slot = Some((pipe, open())),
                        None => talks.push(Some((pipe, open()))),
                    }
                }
                continue;
            }
            let Some(slot) = talks.get_mut(index) else { continue };
            let Some((pipe, talk)) = slot else { continue };
            // A connection that ends in any way is the client's to judge.
            if !ready(pipe, talk, &mut buffer, &take).unwrap_or(false) {
                *slot = None;
                free.push(index);
            }
        }
    }
}

fn register(poll: &Poll, stream: TcpStream, place: usize) -> anyhow::Result<Pipe> {
    stream.set_nodelay(true)?;
    let mut pipe = Pipe::new(stream);
    poll.registry().register(pipe.stream(), Token(place), Interest::READABLE | Interest::WRITABLE)?;
    Ok(pipe)
}

/// Whether the connection goes on.
fn ready<T>(
    pipe: &mut Pipe,
    talk: &mut T,
    buffer: &mut [u8],
    take: &impl Fn(&mut T, &[u8], &mut Vec<u8>) -> anyhow::Result<Taken>,
) -> anyhow::Result<bool> {
    loop {
        let filled = pipe.fill(buffer)?;
        if filled == Filled::End {
            return Ok(false);
        }
        let input = pipe.take_input();
        let taken = take(talk, &input, &mut pipe.out)?;
        pipe.put_back(input, taken.used);
        if filled != Filled::More || taken.last {
            pipe.flush()?;
            return Ok(!taken.last);
        }
    }
}
