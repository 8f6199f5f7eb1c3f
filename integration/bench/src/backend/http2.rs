//! The same answer to every HTTP/2 request, or an echo of its messages.

use std::collections::VecDeque;

use super::{Speech, Taken};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, Head, Link, PREFACE, grpc_message, put, put_settings,
};

/// One connection.
pub(super) struct Talk {
    speech: Speech,
    link: Link,
    greeted: bool,
    head: Head,
    /// The same for who has no table.
    spelt: Head,
    trailers: Head,
    body: Vec<u8>,
    /// DATA for which the window has no room: stream and bytes.
    held: VecDeque<(u32, Vec<u8>)>,
}

impl Talk {
    pub(super) fn new(speech: Speech, body: usize) -> Self {
        let grpc = speech != Speech::H2;
        let length = body.to_string();
        let fields: &[(&str, &str)] = if grpc {
            &[("content-type", "application/grpc")]
        } else {
            &[("server", "weft-bench"), ("content-type", "text/plain"), ("content-length", &length)]
        };
        Self {
            speech,
            link: Link::default(),
            greeted: false,
            // Of the static table: `:status 200`.
            head: Head::new(&[8], fields),
            spelt: Head::literal(&[8], fields),
            trailers: Head::literal(&[], &[("grpc-status", "0")]),
            body: if grpc { grpc_message(body) } else { vec![b'x'; body] },
            held: VecDeque::new(),
        }
    }

    pub(super) fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> anyhow::Result<Taken> {
        let mut rest = input;
        if !self.greeted {
            let Some((preface, after)) = rest.split_at_checked(PREFACE.len()) else {
                return Ok(Taken { used: 0, last: false });
            };
            anyhow::ensure!(preface == PREFACE, "not HTTP/2");
            (self.greeted, rest) = (true, after);
            put_settings(out);
        }
        while let Some((frame, after)) = Frame::split(rest) {
            self.link.take(&frame, out)?;
            self.answer(&frame, out);
            rest = after;
        }
        while let Some((stream, bytes)) = self.held.pop_front() {
            if !self.send(stream, bytes, out) {
                break;
            }
        }
        Ok(Taken { used: input.len() - rest.len(), last: false })
    }

    fn head(&mut self, stream: u32, out: &mut Vec<u8>) {
        let head = if self.link.spelt { &mut self.spelt } else { &mut self.head };
        put(out, HEADERS, END_HEADERS, stream, head.block());
    }

    fn answer(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        match (self.speech, frame.kind) {
            (Speech::GrpcStream, HEADERS) => self.head(frame.stream, out),
            (Speech::GrpcStream, DATA) => {
                self.send(frame.stream, frame.content().unwrap_or_default().to_vec(), out);
            }
            _ if frame.ends_stream() => {
                self.head(frame.stream, out);
                self.send(frame.stream, self.body.clone(), out);
            }
            _ => {}
        }
    }

    /// Sends or holds; true if it is sent.
    fn send(&mut self, stream: u32, bytes: Vec<u8>, out: &mut Vec<u8>) -> bool {
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if length > self.link.window {
            self.held.push_front((stream, bytes));
            return false;
        }
        self.link.window -= length;
        let end = if self.speech == Speech::H2 { END_STREAM } else { 0 };
        put(out, DATA, end, stream, &bytes);
        if self.speech == Speech::GrpcUnary {
            put(out, HEADERS, END_HEADERS | END_STREAM, stream, self.trailers.block());
        }
        true
    }
}
