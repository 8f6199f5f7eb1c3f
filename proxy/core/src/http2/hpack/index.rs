//! What of a peer's table a sender can name: found by a hash of a few bytes, then compared.

use super::field::{FIELD_BYTES, value_of};
use super::fixed;
use super::table::{Table, line};

/// Fields of a section that are remembered until the next one.
const RECENT_MAX: usize = 32;

/// A power of two. A table of the usual size holds some sixty entries.
const PLACES: usize = 64;

/// Entries of one place that are looked at: whoever makes fields that share it gains nothing.
const CHAIN_MAX: usize = 8;

/// Where the count of misses goes on when it is full: above what makes a name new.
const MISSES_AGAIN: u8 = 128;

/// A field that is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    name_hash: u32,
    hash: u32,
}

impl<'a> Key<'a> {
    #[inline]
    pub(super) fn of(name: &'a [u8], value: &'a [u8]) -> Self {
        let name_hash = mix(0x2020_2020_2020_2020, 0, name);
        let hash = mix(0, name_hash, value);
        Self { name, value, name_hash: high(name_hash), hash: high(hash) }
    }
}

/// The table of a sender.
#[derive(Debug)]
pub(in crate::http2) struct Index {
    table: Table<Sent>,
    /// Empty until something is in the table.
    places: Vec<Place>,
    /// Numbers of the entries that were found or put in for the fields of the last section, in their order: most sections
    /// have the same fields as the last one, or nearly so.
    recent: Vec<u32>,
    /// How many fields of this section were looked for.
    at: usize,
}

/// What hashes that share a place have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Number of the newest entry with such a field; 0 is none.
    field: u32,
    /// Number of the newest entry with such a name; 0 is none.
    name: u32,
    /// Values in a row, of such names, that were not in the table.
    misses: u8,
}

/// What is kept with an entry.
#[derive(Clone, Copy, Debug)]
struct Sent {
    name_len: u32,
    /// The place of its name.
    name_place: u8,
    /// Number of the next older one whose field has the same place.
    older: u32,
    /// And of that whose name has.
    older_name: u32,
}

impl Index {
    pub(super) const fn new(size_max: usize) -> Self {
        Self { table: Table::new(size_max), places: Vec::new(), recent: Vec::new(), at: 0 }
    }

    pub(super) const fn size_max(&self) -> usize {
        self.table.size_max()
    }

    pub(super) fn resize(&mut self, size_max: usize) {
        self.table.resize(size_max);
    }

    /// Whether a field of this size may push so many others out.
    pub(super) const fn is_worth(&self, size: usize) -> bool {
        size <= self.table.size_max() / 4 * 3
    }

    /// Begins a section.
    pub(super) const fn begin(&mut self) {
        self.at = 0;
    }

    /// Goes on to the next field of the section.
    pub(super) const fn step(&mut self) {
        self.at += 1;
    }

    /// Whether the field is in the table, and was the one with this number of the last section.
    pub(in crate::http2) fn has(&self, at: usize, name: &[u8], value: &[u8]) -> bool {
        self.recent.get(at).is_some_and(|number| self.is(*number, name, value).is_some())
    }

    /// Index of the field that is now looked for, if it is that of the last section.
    #[inline]
    pub(super) fn find_recent(&mut self, name: &[u8], value: &[u8]) -> Option<usize> {
        let number = *self.recent.get(self.at)?;
        let (age, sent) = self.is(number, name, value)?;
        self.hit(sent);
        Some(fixed::DYNAMIC + age)
    }

    /// Index of an entry with this name, if that of the last section has it.
    pub(super) fn find_recent_name(&self, name: &[u8]) -> Option<usize> {
        self.is_named(*self.recent.get(self.at)?, name).map(|age| fixed::DYNAMIC + age)
    }

    /// Index of this field.
    pub(super) fn find(&mut self, key: &Key<'_>) -> Option<usize> {
        let mut number = self.places.get(place(key.hash))?.field;
        for _ in 0..CHAIN_MAX {
            if let Some((age, sent)) = self.is(number, key.name, key.value) {
                self.note(number);
                self.hit(sent);
                return Some(fixed::DYNAMIC + age);
            }
            number = self.entry(number)?.2.older;
        }
        None
    }

    /// Index of the newest entry with this name.
    pub(super) fn find_name(&mut self, key: &Key<'_>) -> Option<usize> {
        let mut number = self.places.get(place(key.name_hash))?.name;
        for _ in 0..CHAIN_MAX {
            if let Some(age) = self.is_named(number, key.name) {
                self.note(number);
                return Some(fixed::DYNAMIC + age);
            }
            number = self.entry(number)?.2.older_name;
        }
        None
    }

    #[inline]
    fn hit(&mut self, sent: Sent) {
        if let Some(place) = self.places.get_mut(usize::from(sent.name_place)) {
            place.misses = 0;
        }
    }

    /// Takes note of a value that is not in the table, and says how many there were before of this name, one after the other.
    pub(super) fn missed(&mut self, key: &Key<'_>) -> u8 {
        let Some(place) = self.places.get_mut(place(key.name_hash)) else { return 0 };
        let before = place.misses;
        // Not zero again: then it would be a name that nothing is known of.
        place.misses = before.checked_add(1).unwrap_or(MISSES_AGAIN);
        before
    }

    /// Remembers which entry the field of this section is.
    fn note(&mut self, number: u32) {
        if self.at >= self.recent.len() && self.at < RECENT_MAX {
            self.recent.resize(self.at + 1, 0);
        }
        if let Some(recent) = self.recent.get_mut(self.at) {
            *recent = number;
        }
    }

    /// Puts the field into the table, as its literal told the peer to.
    pub(super) fn insert(&mut self, key: &Key<'_>) {
        self.places.resize(PLACES, Place::default());
        let (Ok(name_len), Ok(name_place)) = (u32::try_from(key.name.len()), u8::try_from(place(key.name_hash))) else {
            return;
        };
        let at = |hash| self.places.get(place(hash)).copied().unwrap_or_default();
        let (older, older_name) = (at(key.hash).field, at(key.name_hash).name);
        let sent = Sent { name_len, name_place, older, older_name };
        let lower = key.name.to_ascii_lowercase();
        self.table.insert(key.name.len() + key.value.len() + FIELD_BYTES, line(&lower, key.value), sent);
        let newest = self.table.newest();
        if let Some(place) = self.places.get_mut(place(key.hash)) {
            place.field = newest;
        }
        if let Some(place) = self.places.get_mut(place(key.name_hash)) {
            place.name = newest;
        }
        self.note(newest);
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> (usize, Vec<(String, String)>) {
        self.table.entries()
    }

    /// How many entries are newer than the one with this number, and what is kept with it, if it is this field.
    #[inline]
    fn is(&self, number: u32, name: &[u8], value: &[u8]) -> Option<(usize, Sent)> {
        let (age, text, sent) = self.entry(number)?;
        let name_len = sent.name_len as usize;
        let same = value_of(text, name_len) == value && is_name(text, name_len, name);
        same.then_some((age, sent))
    }

    /// How many entries are newer than the one with this number, if it has this name.
    fn is_named(&self, number: u32, name: &[u8]) -> Option<usize> {
        let (age, text, sent) = self.entry(number)?;
        is_name(text, sent.name_len as usize, name).then_some(age)
    }

    /// How many entries are newer than the one with this number, its line, and what is kept with it.
    #[inline]
    fn entry(&self, number: u32) -> Option<(usize, &[u8], Sent)> {
        let age = self.table.newest().wrapping_sub(number) as usize;
        let (text, sent) = self.table.get(age).filter(|_| number != 0)?;
        Some((age, text, sent))
    }
}

/// Whether the line, which is in lower case, has that name.
#[inline]
fn is_name(text: &[u8], name_len: usize, name: &[u8]) -> bool {
    let same = |lower: &[u8]| lower == name || lower.eq_ignore_ascii_case(name);
    name_len == name.len() && text.get(..name_len).is_some_and(same)
}

const fn place(hash: u32) -> usize {
    hash as usize % PLACES
}

fn high(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// A hash of the length and of the first and last eight bytes, in which the bits of `blind` do not count.
#[inline]
fn mix(blind: u64, seed: u64, text: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (first, last) = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => ends_of_short(text),
    };
    let hash = ((first | blind) ^ seed).wrapping_add(text.len() as u64).wrapping_mul(ODD);
    (hash.rotate_left(32) ^ (last | blind)).wrapping_mul(ODD)
}

/// First and last four bytes of fewer than eight, or all of fewer than four.
fn ends_of_short(text: &[u8]) -> (u64, u64) {
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into()),
        _ => (text.iter().fold(0, |all, byte| (all << 8) | u64::from(*byte)), 0),
    }
}
