//! The dynamic table (RFC 7541 section 2.3.2), for both directions.
//!
//! Entries are lines in one buffer, oldest first: a field that is named again is copied in one piece, and nothing is
//! allocated for an entry. The buffer grows as it is used, to twice the table's size at most.

use std::collections::VecDeque;

use super::field::{COLON, CRLF};

/// Fields that were sent, and what the owner of the table keeps with each.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// Lines of the entries, and of some that are gone before them.
    bytes: Vec<u8>,
    /// Where the first byte of the buffer stands among all that ever were in it, as `Entry::at`; both wrap.
    begin: u32,
    entries: VecDeque<Entry<T>>,
    /// By RFC 7541 section 4.1.
    size: usize,
    size_max: usize,
    /// How many there ever were; wraps.
    added: u32,
}

#[derive(Debug)]
struct Entry<T> {
    at: u32,
    len: u32,
    size: u32,
    more: T,
}

impl<T: Copy> Table<T> {
    pub(super) const fn new(size_max: usize) -> Self {
        Self { bytes: Vec::new(), begin: 0, entries: VecDeque::new(), size: 0, size_max, added: 0 }
    }

    pub(super) const fn size_max(&self) -> usize {
        self.size_max
    }

    /// Number of the newest entry: each has one more than the one before.
    pub(super) const fn newest(&self) -> u32 {
        self.added
    }

    /// The line of an entry, the newest being the zeroth, and what is kept with it.
    #[inline]
    pub(super) fn get(&self, age: usize) -> Option<(&[u8], T)> {
        let at = self.entries.len().checked_sub(age)?.checked_sub(1)?;
        let entry = self.entries.get(at)?;
        let start = entry.at.wrapping_sub(self.begin) as usize;
        Some((self.bytes.get(start..start + entry.len as usize)?, entry.more))
    }

    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(0);
    }

    /// Whether a field of this size can be in the table at all.
    pub(super) const fn fits(&self, size: usize) -> bool {
        size <= self.size_max
    }

    /// Adds a field whose line is what `parts` make, one after the other; one that does not fit empties the table and is not
    /// added (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, size: usize, parts: [&[u8]; 4], more: T) {
        self.evict(size);
        let len = parts.iter().map(|part| part.len()).sum();
        let (Ok(entry_size), Ok(entry_len)) = (u32::try_from(size), u32::try_from(len)) else { return };
        if !self.fits(size) {
            return;
        }
        self.make_room(len);
        let at = self.end();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.size += size;
        self.added = self.added.wrapping_add(1);
        self.entries.push_back(Entry { at, len: entry_len, size: entry_size, more });
    }

    /// Its size, and names and values from the newest.
    #[cfg(test)]
    pub(super) fn entries(&self) -> (usize, Vec<(String, String)>) {
        let pair = |age| {
            let line = String::from_utf8_lossy(self.get(age).unwrap().0).into_owned();
            let (name, value) = line.strip_suffix("\r\n").unwrap().rsplit_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        (self.size, (0..self.entries.len()).map(pair).collect())
    }

    /// Drops the oldest until there is room for so many bytes.
    fn evict(&mut self, size: usize) {
        while self.size.saturating_add(size) > self.size_max
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.size as usize;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    /// Moves what is left to the start of the buffer before that has to grow for what is gone.
    fn make_room(&mut self, len: usize) {
        if self.bytes.len() + len <= self.bytes.capacity() {
            return;
        }
        let gone = self.entries.front().map_or(0, |oldest| oldest.at.wrapping_sub(self.begin));
        if gone as usize >= self.bytes.len() / 2 {
            self.bytes.drain(..gone as usize);
            self.begin = self.begin.wrapping_add(gone);
        }
    }

    /// Where the next line begins, in the count of `begin`.
    fn end(&self) -> u32 {
        // Far below 4 GiB: no table is larger than a few times the bound that a setting of 32 bits gives.
        self.begin.wrapping_add(u32::try_from(self.bytes.len()).unwrap_or_default())
    }
}

/// The parts of a line, for [`Table::insert`].
pub(super) const fn line<'a>(name: &'a [u8], value: &'a [u8]) -> [&'a [u8]; 4] {
    [name, COLON, value, CRLF]
}
