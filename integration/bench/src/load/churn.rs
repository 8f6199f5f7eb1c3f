//! A connection for each request: threads that do nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustls::ClientConfig;

use super::answer::Answer;
use super::{Kind, LoadArgs, Recorder, http1_request, tls};

/// A proxy that answers nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(args: &LoadArgs, recorder: Recorder) -> anyhow::Result<(Recorder, ())> {
    let config = (args.kind == Kind::ChurnTls).then(|| tls::config(args)).transpose()?;
    // The first keeps the window and says when it opens; the others' windows are silent copies of its own.
    let (opens, closes) = (recorder.opens, recorder.closes);
    let others: Vec<_> = (1..args.connections)
        .map(|_| {
            let (args, config) = (args.clone(), config.clone());
            thread::spawn(move || {
                let mut own = Recorder { opens, closes, ..Recorder::new(&args) };
                while Instant::now() < closes && own.failed == 0 {
                    own.open = Instant::now() >= opens;
                    once(&args, config.as_ref(), &mut own);
                }
                own
            })
        })
        .collect();
    let mut recorder = recorder;
    while recorder.goes_on(Instant::now())? {
        once(args, config.as_ref(), &mut recorder);
    }
    for other in others {
        recorder.absorb(other.join().map_err(|_| anyhow::anyhow!("a thread of the load has failed"))?);
    }
    Ok((recorder, ()))
}

fn once(args: &LoadArgs, config: Option<&Arc<ClientConfig>>, recorder: &mut Recorder) {
    let since = Instant::now();
    match exchange(args, config) {
        Ok(()) => recorder.answered(Instant::now(), since),
        Err(error) => recorder.fail(format!("{error:#}")),
    }
}

fn exchange(args: &LoadArgs, config: Option<&Arc<ClientConfig>>) -> anyhow::Result<()> {
    let stream = open(args)?;
    match config {
        None => ask(stream, args.body, true),
        Some(config) => ask(tls::connect(stream, config)?, args.body, true),
    }
}

pub(super) fn open(args: &LoadArgs) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(args.target).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request and its answer; if it is the last, the server closes.
pub(super) fn ask(mut stream: impl Read + Write, body: usize, last: bool) -> anyhow::Result<()> {
    stream.write_all(&http1_request(last)).context("cannot send")?;
    let (mut answer, mut buffer) = (Answer::new(body), [0; 16 * 1024]);
    loop {
        let length = stream.read(&mut buffer).context("cannot receive")?;
        anyhow::ensure!(length > 0, "closed before the answer");
        if answer.take(buffer.get(..length).unwrap_or_default())? {
            break;
        }
    }
    if last {
        anyhow::ensure!(stream.read(&mut buffer).context("no orderly end")? == 0, "bytes after the answer");
    }
    Ok(())
}
