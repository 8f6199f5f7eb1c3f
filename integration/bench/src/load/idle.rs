//! Connections that have been used once and wait.

use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use super::churn::{ask, open};
use super::tls::TlsStream;
use super::{Kind, LoadArgs, Recorder, tls};

/// What is held open.
pub(super) enum Held {
    Plain(#[expect(dead_code, reason = "it is only kept open")] Vec<TcpStream>),
    Tls(#[expect(dead_code, reason = "it is only kept open")] Vec<TlsStream>),
}

/// All connections first, then the window; connections are what is counted.
pub(super) fn run(args: &LoadArgs) -> anyhow::Result<(Recorder, Held)> {
    let held = if args.kind == Kind::IdleTls {
        let config = tls::config(args)?;
        let connect = || {
            let mut stream = tls::connect(open(args)?, &config)?;
            ask(&mut stream, args.body, false).map(|()| stream)
        };
        Held::Tls((0..args.connections).map(|_| connect()).collect::<anyhow::Result<_>>()?)
    } else {
        let connect = || {
            let mut stream = open(args)?;
            ask(&mut stream, args.body, false).map(|()| stream)
        };
        Held::Plain((0..args.connections).map(|_| connect()).collect::<anyhow::Result<_>>()?)
    };
    // What proxies give back after a while is not to be counted.
    let done = args.connections.try_into()?;
    let mut recorder = Recorder { done, ..Recorder::new(args) };
    while recorder.goes_on(Instant::now())? {
        thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok((recorder, held))
}
