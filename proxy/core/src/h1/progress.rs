//! How far a head that arrives in pieces was looked at, so that no byte is looked at more than a few times.
//!
//! Most heads arrive whole, and then the first attempt parses them without a scan before it. A head that did not is
//! scanned once for its end as it grows, and parsed again only when its first line and when all of it has arrived.

/// What to do with the bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Parse this many bytes; the head may or may not be complete in them.
    Try(usize),
    /// Nothing can be decided before more bytes arrive.
    Wait,
}

/// Scan state of one head. Reset by [`Default`] for the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    scanned: usize,
    /// Whether the first line was in what was tried; nobody asks while the first attempt may be all.
    first_line_tried: Option<bool>,
}

impl Progress {
    /// Looks at what is new in `window`, the received bytes up to the size limit. `full` says that the window cannot
    /// grow any more.
    pub(super) fn advance(&mut self, window: &[u8], full: bool) -> Step {
        if self.scanned == 0 {
            self.scanned = window.len();
            return Step::Try(window.len());
        }
        let tried = window.get(..self.scanned).unwrap_or(window);
        let first_line_tried = *self.first_line_tried.get_or_insert_with(|| tried.contains(&b'\n'));
        let mut first_line = None;
        for (at, _) in window.iter().enumerate().skip(self.scanned).filter(|(_, b)| **b == b'\n') {
            let before = window.get(..at).unwrap_or_default();
            // A bare LF counts as a line end here too: the parse that follows refuses it.
            if before.ends_with(b"\n") || before.ends_with(b"\n\r") {
                return Step::Try(at + 1);
            }
            first_line = first_line.or(Some(at + 1));
        }
        self.scanned = window.len();
        if full {
            return Step::Try(window.len());
        }
        match first_line {
            Some(end) if !first_line_tried => {
                self.first_line_tried = Some(true);
                Step::Try(end)
            }
            _ => Step::Wait,
        }
    }

    /// Whether the first line has arrived and was tried.
    pub(super) const fn has_line(&self) -> bool {
        matches!(self.first_line_tried, Some(true))
    }

    /// Whether no byte was looked at yet.
    pub(super) const fn is_new(&self) -> bool {
        self.scanned == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head in single bytes must not cost a scan of everything before for each of them.
    #[test]
    fn work_is_linear_in_the_head() {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A: bcdef\r\n".repeat(150));
        let (mut progress, mut tried, mut scanned) = (Progress::default(), 0, 0);
        for end in 1..=head.len() {
            scanned += end - progress.scanned;
            match progress.advance(&head.as_bytes()[..end], false) {
                Step::Try(len) => tried += len,
                Step::Wait => {}
            }
        }
        assert_eq!(scanned, head.len(), "each byte is scanned once");
        assert!(tried <= head.len() + 20, "{tried} bytes parsed: the first byte, the first line, the head");
    }

    #[test]
    fn finds_first_line_and_end() {
        fn check(pieces: &[&str], expected: &[Step]) {
            let (mut progress, mut window) = (Progress::default(), String::new());
            let steps: Vec<Step> = pieces
                .iter()
                .map(|piece| {
                    window.push_str(piece);
                    progress.advance(window.as_bytes(), false)
                })
                .collect();
            assert_eq!(steps, expected, "{pieces:?}");
        }
        check(&["GET"], &[Step::Try(3)]);
        check(&["GET", " /"], &[Step::Try(3), Step::Wait]);
        check(
            &["G", "ET\r\n", "A: b\r\n", "\r", "\nrest"],
            &[Step::Try(1), Step::Try(5), Step::Wait, Step::Wait, Step::Try(13)],
        );
        check(&["G\r\nA", ": b\r\n", "\r\n"], &[Step::Try(4), Step::Wait, Step::Try(11)]);
        check(&["G", "\n", "\n"], &[Step::Try(1), Step::Try(2), Step::Try(3)]);
        check(&["G", "\r\n\r\n"], &[Step::Try(1), Step::Try(5)]);
        let mut full = Progress::default();
        assert_eq!(full.advance(b"G", false), Step::Try(1));
        assert_eq!(full.advance(b"GET", true), Step::Try(3), "a full window is decided at once");
    }
}
