//! A socket of an epoll loop with what has been read and what is to be written.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::Context as _;
use mio::net::TcpStream;

/// Size of the buffer that all connections of a loop share.
pub const READ_BYTES: usize = 64 * 1024;

/// One connection. Register it for reading and writing at once: nothing is read or written in vain after that.
#[derive(Debug)]
pub struct Pipe {
    stream: TcpStream,
    input: Vec<u8>,
    /// What is to be written by [`Self::flush`].
    pub out: Vec<u8>,
    written: usize,
}

/// What a look at a connection found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filled {
    /// Nothing to read for now.
    Empty,
    /// There is input, and more to read.
    More,
    /// There is input, and nothing else for now.
    Last,
    /// The other side has ended.
    End,
}

impl Pipe {
    /// Of a connection that does not block.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self { stream, input: Vec::new(), out: Vec::new(), written: 0 }
    }

    /// The socket, to register it.
    pub const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads what is there once, by way of `buffer`.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn fill(&mut self, buffer: &mut [u8]) -> anyhow::Result<Filled> {
        match self.stream.read(buffer) {
            Ok(0) => Ok(Filled::End),
            Ok(length) => {
                self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                // After a short read the kernel says when there is more.
                Ok(if length < buffer.len() { Filled::Last } else { Filled::More })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Filled::Empty),
            Err(error) => Err(error).context("cannot receive"),
        }
    }

    /// Takes what has been read; give the rest back by [`Self::put_back`].
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Keeps what is left of the input after its first `used` bytes, and the buffer.
    pub fn put_back(&mut self, mut input: Vec<u8>, used: usize) {
        input.drain(..used);
        self.input = input;
    }

    /// Writes what the kernel takes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}
