//! Counts the bytes of each connection and says the count at its end.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

const READ_BYTES: usize = 256 * 1024;

pub(super) fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // A connection that ends in another way is the client's to judge: it gets no count.
            count(stream).unwrap_or_default();
        });
    }
    Ok(())
}

fn count(mut stream: TcpStream) -> anyhow::Result<()> {
    let (mut buffer, mut total) = (vec![0; READ_BYTES], 0_u64);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        total += u64::try_from(length)?;
    }
    stream.write_all(&total.to_be_bytes())?;
    Ok(())
}
