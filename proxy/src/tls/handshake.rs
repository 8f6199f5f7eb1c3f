//! Handshakes over a socket, up to where records are ours.

use std::io;

use futures_util::FutureExt as _;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::session::{Secrets, Session};
use super::stream::{TlsStream, failed};

/// Received at once.
const RECEIVE_BYTES: usize = 4096;

/// Most that is kept of a handshake that goes on: the longest message, in its records.
const KEPT_MAX: usize = 128 << 10;

/// The handshake of one side.
pub(super) trait Side: std::ops::Deref<Target: std::ops::Deref<Target = CommonState>> + Sized {
    /// What the library knows of this side.
    type Data;

    /// Takes the library's next step with what was received.
    fn step<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Ends the library's part.
    fn into_session(self) -> Result<Session, Error>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn into_session(self) -> Result<Session, Error> {
        let (extracted, secrets) = self.dangerous_into_kernel_connection()?;
        Session::new(extracted, Secrets::Server(secrets))
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn into_session(self) -> Result<Session, Error> {
        let (extracted, secrets) = self.dangerous_into_kernel_connection()?;
        Session::new(extracted, Secrets::Client(secrets))
    }
}

/// A handshake under way, on a socket.
pub(super) struct Handshake<S> {
    side: S,
    socket: TcpStream,
    received: Vec<u8>,
    /// End of the records that the library has seen; what is behind them may not be the handshake's.
    seen: usize,
    unsent: Vec<u8>,
}

/// What the library asks for.
enum Next {
    Step,
    Sending,
    Receiving,
    Done,
}

impl<S: Side> Handshake<S> {
    /// `received` came from the socket already.
    pub(super) fn new(side: S, socket: TcpStream, received: &[u8]) -> Self {
        Self { side, socket, received: received.to_vec(), seen: 0, unsent: Vec::new() }
    }

    /// Shakes hands. Cancelling closes.
    ///
    /// # Errors
    /// The connection broke, or a side refuses; the peer was told then if its socket took that at once.
    pub(super) async fn shake(mut self) -> io::Result<Self> {
        let mut visible = 0;
        loop {
            match self.step(visible) {
                Ok(Next::Step) => {}
                Ok(Next::Sending) => {
                    self.socket.write_all(&self.unsent).await?;
                    self.unsent = Vec::new();
                }
                Ok(Next::Receiving) => {
                    let is_seen = self.see_record();
                    if !is_seen {
                        self.receive().await?;
                    }
                    // Of what is no record, or not yet, the library says what is wrong as soon as it can be seen.
                    visible = if is_seen || self.see_record() { self.seen } else { self.received.len() };
                    continue;
                }
                Ok(Next::Done) => return Ok(self),
                Err(error) => {
                    self.complain();
                    return Err(failed(error));
                }
            }
            visible = self.seen;
        }
    }

    /// What was agreed on.
    pub(super) fn agreed(&self) -> &CommonState {
        &self.side
    }

    /// The connection, once hands are shaken.
    pub(super) fn into_stream(self) -> Result<TlsStream, Error> {
        Ok(TlsStream::new(self.socket, self.side.into_session()?, &self.received))
    }

    fn step(&mut self, visible: usize) -> Result<Next, Error> {
        let UnbufferedStatus { discard, state } = self.side.step(self.received.get_mut(..visible).unwrap_or_default());
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.unsent).map(|()| Next::Step),
            Ok(ConnectionState::TransmitTlsData(sending)) => {
                sending.done();
                Ok(Next::Sending)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Next::Receiving),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
            // Closed, or data before its time, neither of which can be.
            Ok(_) => Err(Error::HandshakeNotComplete),
            Err(error) => Err(error),
        };
        self.received.drain(..discard.min(self.received.len()));
        self.seen = self.seen.saturating_sub(discard);
        next
    }

    /// Shows the library one more record; false when there is none that is whole.
    fn see_record(&mut self) -> bool {
        let behind = self.received.get(self.seen..).unwrap_or_default();
        let Some(&[_, _, _, high, low]) = behind.first_chunk() else { return false };
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        let is_whole = behind.len() >= length;
        if is_whole {
            self.seen += length;
        }
        is_whole
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() >= KEPT_MAX {
            return Err(failed(rustls::InvalidMessage::HandshakePayloadTooLarge.into()));
        }
        self.received.reserve(RECEIVE_BYTES);
        if self.socket.read_buf(&mut self.received).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
        }
        Ok(())
    }

    /// Tells the peer what is wrong, if the socket takes it at once.
    fn complain(&mut self) {
        while self.agreed().wants_write() && matches!(self.step(0), Ok(Next::Step)) {}
        match self.socket.write(&self.unsent).now_or_never() {
            Some(Ok(_)) | None => {}
            Some(Err(error)) => tracing::trace!(%error, "peer was gone before it could be told what is wrong"),
        }
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    loop {
        match data.encode(out.get_mut(start..).unwrap_or_default()) {
            Ok(_) => return Ok(()),
            Err(EncodeError::InsufficientSize(needs)) => out.resize(start + needs.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return Err(Error::General("said twice".to_owned())),
        }
    }
}
