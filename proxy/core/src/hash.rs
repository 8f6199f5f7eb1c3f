//! Hash maps on the path of every request.

use std::collections::HashMap;

use rpds::HashTrieMapSync;

/// A map whose keys are few or come from the mesh's own configuration. Its hash is seeded for each process and map, so that
/// keys cannot be made to collide ahead of time, and costs a quarter of the standard library's for keys as short as these;
/// keys that a stranger may send in any number belong into a map of the standard kind.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The same for maps of which each copy shares what it has not changed. Their branches are chosen by any of the hash's
/// bits, so all of these are made to count.
pub type Trie<K, V> = HashTrieMapSync<K, V, foldhash::quality::RandomState>;
