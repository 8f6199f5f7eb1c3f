//! The same answer to every HTTP/1.1 request without body.

use super::Taken;

/// How the client's last request of a connection ends; proxies do not hand it on.
const LAST: &[u8] = b"Connection: close\r\n\r\n";

/// One connection.
pub(super) struct Talk {
    answer: Vec<u8>,
}

impl Talk {
    pub(super) fn new(body: usize) -> Self {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nServer: weft-bench\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + body, b'x');
        Self { answer }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the loop of all protocols calls it")]
    pub(super) fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> anyhow::Result<Taken> {
        const END: &[u8] = b"\r\n\r\n";
        let mut used = 0;
        while let Some(rest) = input.get(used..) {
            let end = rest.windows(END.len()).position(|window| window == END).map(|at| at + END.len());
            let Some(end) = end else { break };
            out.extend_from_slice(&self.answer);
            used += end;
        }
        let last = input.get(..used).is_some_and(|heads| heads.ends_with(LAST));
        Ok(Taken { used, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_whole_request_is_answered() {
        let mut talk = Talk::new(2);
        let mut check = |input: &[u8], used, answers| {
            let mut out = Vec::new();
            let taken = talk.take(input, &mut out).unwrap();
            assert_eq!((taken.used, taken.last), (used, input.ends_with(LAST)));
            assert_eq!(out.windows(6).filter(|window| window == b"\r\n\r\nxx").count(), answers);
        };
        check(b"", 0, 0);
        check(b"GET / HTTP/1.1\r\n", 0, 0);
        check(b"GET / HTTP/1.1\r\n\r\n", 18, 1);
        check(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 37, 1);
        check(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET", 36, 2);
    }
}
