//! One stream of bytes, as fast as it is taken.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use anyhow::Context as _;

use super::{LoadArgs, Recorder};

const WRITE_BYTES: usize = 128 * 1024;

/// The other end counts and says how many bytes have come.
pub(super) fn run(args: &LoadArgs, mut recorder: Recorder) -> anyhow::Result<(Recorder, TcpStream)> {
    let mut stream = TcpStream::connect(args.target).context("cannot connect")?;
    let block = vec![b'x'; WRITE_BYTES];
    let (mut total, written) = (0, WRITE_BYTES.try_into()?);
    while recorder.goes_on(Instant::now())? {
        if let Err(error) = stream.write_all(&block) {
            recorder.fail(format!("cannot send: {error}"));
            break;
        }
        total += written;
        recorder.moved(written);
    }
    if recorder.failed == 0
        && let Err(error) = confirm(&mut stream, total)
    {
        recorder.fail(format!("{error:#}"));
    }
    Ok((recorder, stream))
}

fn confirm(stream: &mut TcpStream, total: u64) -> anyhow::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("the other end does not say how much has come")?;
    let count = u64::from_be_bytes(count);
    anyhow::ensure!(count == total, "{total} bytes sent, {count} received");
    Ok(())
}
