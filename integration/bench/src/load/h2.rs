//! HTTP/2: requests, gRPC calls, and messages on long gRPC streams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Kind, LoadArgs, Recorder};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, Head, Link, PREFACE, grpc_message, put, put_settings,
};
use crate::pipe::{Filled, Pipe, READ_BYTES};

/// So that the end of the window is seen.
const LOOK_UP: Duration = Duration::from_millis(10);
/// A path on which nothing moves for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub(super) struct Talk {
    kind: Kind,
    pipe: Pipe,
    link: Link,
    head: Head,
    /// The message of a gRPC call, nothing of others.
    message: Vec<u8>,
    /// Bytes of DATA that every answer has.
    wanted: usize,
    next_stream: u32,
    flights: Vec<Flight>,
}

/// A request that is not answered.
struct Flight {
    stream: u32,
    since: Instant,
    /// Whether `:status 200` has come.
    headed: bool,
    received: usize,
}

impl Talk {
    fn connect(kind: Kind, target: SocketAddr, body: usize) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(target).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let grpc = kind != Kind::H2;
        let fields: &[(&str, &str)] = if grpc {
            &[
                (":path", "/bench.Bench/Call"),
                (":authority", "bench.default"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", "weft-bench"),
            ]
        } else {
            &[(":path", "/bench"), (":authority", "bench.default"), ("user-agent", "weft-bench"), ("accept", "*/*")]
        };
        // Of the static table: `:method GET` or `POST`, `:scheme http`.
        let head = Head::new(if grpc { &[3, 6] } else { &[2, 6] }, fields);
        let message = if grpc { grpc_message(body) } else { Vec::new() };
        let wanted = if grpc { message.len() } else { body };
        let mut talk = Self {
            kind,
            pipe: Pipe::new(TcpStream::from_std(stream)),
            link: Link::default(),
            head,
            message,
            wanted,
            next_stream: 1,
            flights: Vec::new(),
        };
        talk.pipe.out.extend_from_slice(PREFACE);
        put_settings(&mut talk.pipe.out);
        Ok(talk)
    }

    /// Asks until there are so many streams, and sends.
    fn fill_up(&mut self, streams: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        while self.flights.len() < streams {
            self.ask(now);
        }
        self.pipe.flush()
    }

    fn ask(&mut self, since: Instant) {
        let (stream, out) = (self.next_stream, &mut self.pipe.out);
        self.next_stream += 2;
        let end_of_head = if self.message.is_empty() { END_STREAM | END_HEADERS } else { END_HEADERS };
        put(out, HEADERS, end_of_head, stream, self.head.block());
        if !self.message.is_empty() {
            let end = if self.kind == Kind::GrpcStream { 0 } else { END_STREAM };
            put(out, DATA, end, stream, &self.message);
        }
        self.flights.push(Flight { stream, since, headed: false, received: 0 });
    }

    fn ready(&mut self, buffer: &mut [u8], recorder: &mut Recorder) -> anyhow::Result<()> {
        loop {
            let filled = self.pipe.fill(buffer)?;
            anyhow::ensure!(filled != Filled::End, "the connection was closed");
            let input = self.pipe.take_input();
            let mut rest = input.as_slice();
            while let Some((frame, after)) = Frame::split(rest) {
                self.take(&frame, recorder)?;
                rest = after;
            }
            let used = input.len() - rest.len();
            self.pipe.put_back(input, used);
            if filled != Filled::More {
                return Ok(());
            }
        }
    }

    fn take(&mut self, frame: &Frame<'_>, recorder: &mut Recorder) -> anyhow::Result<()> {
        self.link.take(frame, &mut self.pipe.out)?;
        anyhow::ensure!(!self.link.spelt, "the client counts on a usual HPACK table");
        if !matches!(frame.kind, DATA | HEADERS) {
            return Ok(());
        }
        let place = self.flights.iter().position(|flight| flight.stream == frame.stream);
        let flight = place.and_then(|place| self.flights.get_mut(place)).context("a frame of an unknown stream")?;
        if frame.kind == DATA {
            flight.received += frame.content().context("a broken frame")?.len();
        } else if !flight.headed {
            anyhow::ensure!(frame.is_200(), "an answer other than 200");
            flight.headed = true;
        }
        if self.kind == Kind::GrpcStream {
            self.echoed(frame, place, recorder)
        } else {
            self.ended(frame, place, recorder)
        }
    }

    fn ended(&mut self, frame: &Frame<'_>, place: Option<usize>, recorder: &mut Recorder) -> anyhow::Result<()> {
        let Some(place) = place.filter(|_| frame.ends_stream()) else { return Ok(()) };
        let flight = self.flights.swap_remove(place);
        // A refusal of gRPC is a head that ends its stream; an answer ends in trailers.
        let trailers = frame.kind == HEADERS;
        anyhow::ensure!(trailers == (self.kind == Kind::GrpcUnary), "an answer without its end");
        anyhow::ensure!(flight.received == self.wanted, "{} bytes of {}", flight.received, self.wanted);
        recorder.answered(Instant::now(), flight.since);
        Ok(())
    }

    fn echoed(&mut self, frame: &Frame<'_>, place: Option<usize>, recorder: &mut Recorder) -> anyhow::Result<()> {
        anyhow::ensure!(!frame.ends_stream(), "a stream of messages was ended");
        let flight = place.and_then(|place| self.flights.get_mut(place)).context("an unknown stream")?;
        anyhow::ensure!(flight.received <= self.wanted, "more bytes than were sent");
        if flight.received == self.wanted {
            let now = Instant::now();
            recorder.answered(now, flight.since);
            (flight.received, flight.since) = (0, now);
            put(&mut self.pipe.out, DATA, 0, flight.stream, &self.message);
        }
        Ok(())
    }
}

/// All streams of all connections always have a request or message in flight.
pub(super) fn run(args: &LoadArgs, mut recorder: Recorder) -> anyhow::Result<(Recorder, Vec<Talk>)> {
    let mut poll = Poll::new()?;
    let connect = |_| Talk::connect(args.kind, args.target, args.body);
    let mut talks = (0..args.connections).map(connect).collect::<anyhow::Result<Vec<_>>>()?;
    for (index, talk) in talks.iter_mut().enumerate() {
        let wanted = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(talk.pipe.stream(), Token(index), wanted)?;
        talk.fill_up(args.streams)?;
    }
    let (mut events, mut buffer) = (Events::with_capacity(args.connections), vec![0; READ_BYTES]);
    while recorder.goes_on(Instant::now())? {
        poll.poll(&mut events, Some(LOOK_UP))?;
        for event in &events {
            let Token(index) = event.token();
            let talk = talks.get_mut(index).context("an event of an unknown connection")?;
            if let Err(error) = talk.ready(&mut buffer, &mut recorder).and_then(|()| talk.fill_up(args.streams)) {
                recorder.fail(format!("{error:#}"));
            }
        }
    }
    Ok((recorder, talks))
}

/// So many requests at once on one connection, and the next when all are answered: however busy the machine, as many frames
/// come together each time.
pub(super) fn rounds(
    kind: Kind,
    target: SocketAddr,
    body: usize,
    (streams, rounds): (usize, usize),
) -> anyhow::Result<()> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1));
    let (mut talk, mut buffer) = (Talk::connect(kind, target, body)?, vec![0; READ_BYTES]);
    poll.registry().register(talk.pipe.stream(), Token(0), Interest::READABLE | Interest::WRITABLE)?;
    let mut unheard = Recorder::between(Instant::now(), Instant::now());
    for _ in 0..rounds {
        talk.fill_up(streams)?;
        while !talk.flights.is_empty() {
            poll.poll(&mut events, Some(PATIENCE))?;
            anyhow::ensure!(!events.is_empty(), "no answer");
            talk.ready(&mut buffer, &mut unheard)?;
            talk.pipe.flush()?;
        }
    }
    Ok(())
}
