//! Interim (1xx) responses on their way from upstream to downstream.

use std::cell::Cell;
use std::task::{Context, Poll};

use weft_core::h1::encode_response_head;
use weft_core::message::{BodyFraming, ResponseHead};
use weft_core::translate::response_for_h1;

use super::conn::Shared;
use super::h2_stream::H2Stream;
use super::limits::OUT_BYTES_MAX;

/// Where interim responses of one request go.
///
/// They are hints, but for the first 100: one that cannot be delivered is dropped, never an error. HTTP/1.0 clients get none (RFC 9110 section
/// 15.2).
pub struct Interim {
    sink: Sink,
    continued: Cell<bool>,
}

enum Sink {
    None,
    H1(Shared),
    H2(H2Stream),
}

impl std::fmt::Debug for Interim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interim").finish_non_exhaustive()
    }
}

impl Interim {
    /// Drops them all; for requests of the proxy's own.
    #[must_use]
    pub const fn none() -> Self {
        Self { sink: Sink::None, continued: Cell::new(false) }
    }

    pub(crate) const fn h1(conn: Shared) -> Self {
        Self { sink: Sink::H1(conn), continued: Cell::new(false) }
    }

    pub(crate) const fn h2(stream: H2Stream) -> Self {
        Self { sink: Sink::H2(stream), continued: Cell::new(false) }
    }

    /// Queues an interim head (status 100 to 199 without 101); it leaves with the connection's next flush, which the
    /// server does before it waits.
    pub fn send(&self, mut head: ResponseHead) {
        if !(100..200).contains(&head.status) || head.status == 101 {
            return;
        }
        // A client may wait for its first 100 for ever, and by HTTP/2 it is others who may be behind with reading.
        let continues = head.status == 100 && !self.continued.get();
        if self.is_full() && !continues {
            return;
        }
        if head.status == 100 {
            self.continued.set(true);
        }
        match &self.sink {
            Sink::None => {}
            Sink::H1(conn) => {
                response_for_h1(&mut head, BodyFraming::None);
                encode_response_head(&head, conn.borrow_mut().out.tail());
            }
            // A head that HTTP/2 cannot carry is dropped too.
            Sink::H2(stream) => stream.send_response(&head, false).unwrap_or_default(),
        }
    }

    /// Whether the client is so far behind with reading that hints would only pile up.
    fn is_full(&self) -> bool {
        match &self.sink {
            Sink::None => false,
            Sink::H1(conn) => conn.borrow().out.len() >= OUT_BYTES_MAX,
            Sink::H2(stream) => stream.is_behind(),
        }
    }

    /// Whether the client was told to go on with its body.
    pub(crate) const fn continued(&self) -> bool {
        self.continued.get()
    }

    /// Ready when the HTTP/2 stream is reset by its client, or its connection is gone.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.sink {
            Sink::None | Sink::H1(_) => Poll::Pending,
            Sink::H2(stream) => stream.poll_broken(cx).map(drop),
        }
    }

    /// The way to the final response, for HTTP/2.
    pub(crate) fn into_h2(self) -> Option<H2Stream> {
        match self.sink {
            Sink::None | Sink::H1(_) => None,
            Sink::H2(stream) => Some(stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use bytes::BytesMut;
    use weft_core::http2::connection::{Config, Connection, Role};
    use weft_core::http2::frame::{PREFACE, flag, kind, put_frame, put_settings};
    use weft_core::http2::hpack::Block;

    use super::*;
    use crate::http::HttpLimits;

    /// While another stream of its connection fills what is to be written.
    #[test]
    fn who_waits_to_go_on_with_its_body_is_told_so() {
        let limits = HttpLimits::default();
        let mut connection = Connection::new(Config {
            role: Role::Server,
            message: limits.message,
            list_bytes_max: 1 << 16,
            streams_max: 2,
            stream_window: 1 << 16,
            connection_window: 1 << 17,
            connect_protocol: false,
            pending_resets_max: 1,
            resets_remembered_max: 1,
            interims_max: 8,
        });
        let mut said = BytesMut::from(PREFACE.as_slice());
        put_settings(&mut said, &[]);
        for stream in [1, 3] {
            // GET / of a.
            put_frame(&mut said, kind::HEADERS, flag::END_HEADERS, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'a']);
        }
        connection.receive(&said, &mut Block::new()).unwrap();
        let [other, asking] = [(); 2].map(|()| connection.next_opened().unwrap().key);
        while connection.output().len() < OUT_BYTES_MAX {
            connection.send_data(other, [&[0; 4096][..]], 4096, false);
        }
        let before = connection.output().len();
        let shared = Rc::new(RefCell::new(connection));
        let interim = Interim::h2(H2Stream::held(Rc::clone(&shared), asking));
        interim.send(ResponseHead::new(103));
        assert_eq!(shared.borrow().output().len(), before, "a hint can be left out");
        assert!(!interim.continued());
        interim.send(ResponseHead::new(100));
        let told = shared.borrow().output().len();
        assert!(told > before && interim.continued());
        interim.send(ResponseHead::new(100));
        assert_eq!(shared.borrow().output().len(), told, "once is enough");
    }
}
