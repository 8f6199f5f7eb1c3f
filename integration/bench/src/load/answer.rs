//! Knows an HTTP/1.1 answer's end, and whether it is the one that was wanted.

use anyhow::Context as _;

/// Answers have fewer fields.
const FIELDS: usize = 32;

/// What has come of one answer.
#[derive(Debug)]
pub(super) struct Answer {
    wanted_body: usize,
    /// Head as far as it has come, while it is not whole.
    head: Vec<u8>,
    /// Bytes of the body that are to come, once the head is whole.
    body_left: Option<usize>,
}

impl Answer {
    pub(super) const fn new(wanted_body: usize) -> Self {
        Self { wanted_body, head: Vec::new(), body_left: None }
    }

    /// Takes what has been read; true if the answer is whole, and then it is ready for the next.
    ///
    /// # Errors
    /// It is another than `200` with the wanted number of bytes.
    pub(super) fn take(&mut self, input: &[u8]) -> anyhow::Result<bool> {
        let left = match self.body_left {
            Some(left) => left.checked_sub(input.len()),
            None if self.head.is_empty() => match self.parse(input)? {
                Some(head) => (head + self.wanted_body).checked_sub(input.len()),
                None => {
                    self.head.extend_from_slice(input);
                    return Ok(false);
                }
            },
            None => {
                let mut joined = std::mem::take(&mut self.head);
                joined.extend_from_slice(input);
                return self.take(&joined);
            }
        };
        let left = left.context("more bytes than were announced")?;
        self.body_left = (left > 0).then_some(left);
        Ok(left == 0)
    }

    /// Length of the head, if it is whole.
    fn parse(&self, input: &[u8]) -> anyhow::Result<Option<usize>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let shown = || String::from_utf8_lossy(input).into_owned();
        let httparse::Status::Complete(length) = response.parse(input).with_context(shown)? else { return Ok(None) };
        anyhow::ensure!(response.code == Some(200), "an answer other than 200: {}", shown());
        let announced = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let announced = announced.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
        anyhow::ensure!(announced == Some(self.wanted_body), "a body of another length: {}", shown());
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\nx: y\r\n\r\nabc";

    #[test]
    fn an_answer_ends_where_it_ends_however_it_is_cut() {
        for cut in 0..=WHOLE.len() {
            let mut answer = Answer::new(3);
            for _ in 0..2 {
                let (first, second) = WHOLE.split_at(cut);
                let early = !first.is_empty() && answer.take(first).unwrap();
                assert_eq!(early, second.is_empty());
                assert!(early || answer.take(second).unwrap(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn another_answer_is_a_failure() {
        let check = |input: &[u8]| assert!(Answer::new(3).take(input).is_err(), "{}", String::from_utf8_lossy(input));
        check(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nabc");
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd");
        check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP");
        check(b"\x16\x03\x01");
    }
}
