//! The streams of one connection: by their number for the peer, by their place for who holds them.

use std::collections::VecDeque;

use super::stream::Stream;

/// Places that are kept when no stream is left.
const KEPT_MAX: usize = 8;

/// Names a stream for who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    place: usize,
    id: u32,
}

impl Key {
    /// Number of the stream.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.id
    }
}

/// Streams that are open or held.
#[derive(Debug, Default)]
pub(super) struct Streams {
    places: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Ascending, as new streams have the largest number.
    ids: VecDeque<Key>,
}

impl Streams {
    /// Adds a stream with a larger number than all others.
    pub(super) fn add(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(free) => *free = Some(stream),
            None => self.places.push(Some(stream)),
        }
        let key = Key { place, id };
        self.ids.push_back(key);
        key
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        let at = self.ids.binary_search_by_key(&id, |key| key.id).ok()?;
        self.ids.get(at).copied()
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.places.get_mut(key.place)?.as_mut().filter(|stream| stream.id == key.id)
    }

    pub(super) fn peek(&self, key: Key) -> Option<&Stream> {
        self.places.get(key.place)?.as_ref().filter(|stream| stream.id == key.id)
    }

    pub(super) fn remove(&mut self, key: Key) {
        let Some(place) = self.places.get_mut(key.place).filter(|place| place.as_ref().is_some_and(|s| s.id == key.id))
        else {
            return;
        };
        *place = None;
        self.free.push(key.place);
        if let Ok(at) = self.ids.binary_search_by_key(&key.id, |key| key.id) {
            self.ids.remove(at);
        }
        if self.ids.is_empty() && self.places.len() > KEPT_MAX {
            *self = Self::default();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.ids.iter().copied().collect()
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.places.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::Window;
    use super::*;

    #[test]
    fn streams_are_found_by_number_and_by_key() {
        let mut streams = Streams::default();
        let keys: Vec<_> = (0..40).map(|n| streams.add(Stream::new(2 * n + 1, Window::new(0, 0), 0))).collect();
        assert_eq!(streams.find(41), Some(keys[20]));
        assert_eq!(streams.find(42), None);
        streams.remove(keys[20]);
        streams.remove(keys[20]);
        assert!(streams.find(41).is_none() && streams.get(keys[20]).is_none());
        let again = streams.add(Stream::new(101, Window::new(0, 0), 0));
        assert!(streams.get(keys[20]).is_none(), "its place is another's now");
        assert_eq!(streams.get(again).unwrap().id, 101);
        keys.into_iter().chain([again]).for_each(|key| streams.remove(key));
        assert!(streams.ids.is_empty() && streams.places.is_empty(), "nothing is kept for streams that are gone");
    }
}
