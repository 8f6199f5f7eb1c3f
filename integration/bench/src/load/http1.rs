//! HTTP/1.1 on connections that stay.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::answer::Answer;
use super::{LoadArgs, Recorder, http1_request};

/// Readiness of the timer; connections are below.
const TIMER: Token = Token(usize::MAX - 1);
/// So that the end of the window is seen.
const LOOK_UP: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 64 * 1024;

/// All connections of the client.
pub(super) struct Client {
    poll: Poll,
    talks: Vec<Talk>,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

struct Talk {
    stream: TcpStream,
    answer: Answer,
    /// When the answer in flight was asked for, or should have been.
    since: Instant,
}

impl Client {
    fn connect(args: &LoadArgs) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let targets = std::iter::once(&args.target).chain(&args.also).cycle();
        let talks = (0..args.connections)
            .zip(targets)
            .map(|(index, target)| {
                let stream = std::net::TcpStream::connect(target).context("cannot connect")?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
                Ok(Talk { stream, answer: Answer::new(args.body), since: Instant::now() })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { poll, talks, request: http1_request(false), buffer: vec![0; READ_BYTES] })
    }

    fn ask(&mut self, index: usize, since: Instant) -> anyhow::Result<()> {
        let talk = self.talks.get_mut(index).context("no such connection")?;
        talk.since = since;
        // One request is in flight, so there is always room for the next.
        let sent = talk.stream.write(&self.request).context("cannot send")?;
        anyhow::ensure!(sent == self.request.len(), "a request was taken in part");
        Ok(())
    }

    /// Whether the answer has come, and since when it was awaited.
    fn read(&mut self, index: usize) -> anyhow::Result<Option<Instant>> {
        let talk = self.talks.get_mut(index).context("no such connection")?;
        loop {
            let length = match talk.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                read => read.context("cannot receive")?,
            };
            anyhow::ensure!(length > 0, "the connection was closed");
            if talk.answer.take(self.buffer.get(..length).unwrap_or_default())? {
                return Ok(Some(talk.since));
            }
            if length < self.buffer.len() {
                return Ok(None);
            }
        }
    }
}

/// Every connection always has one request in flight.
pub(super) fn closed(args: &LoadArgs, mut recorder: Recorder) -> anyhow::Result<(Recorder, Client)> {
    let mut client = Client::connect(args)?;
    let mut events = Events::with_capacity(args.connections);
    for index in 0..args.connections {
        client.ask(index, Instant::now())?;
    }
    while recorder.goes_on(Instant::now())? {
        client.poll.poll(&mut events, Some(LOOK_UP))?;
        for event in &events {
            let Token(index) = event.token();
            let now = Instant::now();
            let next = client.read(index).and_then(|answered| {
                let Some(since) = answered else { return Ok(()) };
                recorder.answered(now, since);
                client.ask(index, now)
            });
            if let Err(error) = next {
                recorder.fail(format!("{error:#}"));
            }
        }
    }
    Ok((recorder, client))
}

/// Requests leave at fixed moments; one that finds no free connection waits, and its wait counts.
pub(super) fn paced(args: &LoadArgs, mut recorder: Recorder) -> anyhow::Result<(Recorder, Client)> {
    let mut client = Client::connect(args)?;
    let interval = Duration::from_secs(1) / args.rate;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
    let timer_fd = timer.as_fd().as_raw_fd();
    client.poll.registry().register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE)?;

    let mut events = Events::with_capacity(args.connections + 1);
    let mut free: VecDeque<usize> = (0..args.connections).collect();
    let mut due = VecDeque::new();
    let mut next = Instant::now() + interval;
    while recorder.goes_on(Instant::now())? {
        client.poll.poll(&mut events, Some(LOOK_UP))?;
        for event in &events {
            match event.token() {
                // Only clears it: what is due is known by the clock.
                TIMER => timer.wait()?,
                Token(index) => match client.read(index) {
                    Ok(None) => {}
                    Ok(Some(since)) => {
                        recorder.answered(Instant::now(), since);
                        free.push_back(index);
                    }
                    Err(error) => recorder.fail(format!("{error:#}")),
                },
            }
        }
        while next <= Instant::now() {
            due.push_back(next);
            next += interval;
        }
        while !due.is_empty()
            && let (Some(index), Some(since)) = (free.pop_front(), due.pop_front())
        {
            if let Err(error) = client.ask(index, since) {
                recorder.fail(format!("{error:#}"));
            }
        }
    }
    Ok((recorder, client))
}
