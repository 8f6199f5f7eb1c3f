//! What every backend must do, as functions over an empty store. A backend's tests call [`all`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{Event, Expect, Key, Revision, Store, StoreError, VALUE_BYTES_MAX, Watch, WatchError};

/// Longer than any backend may take to answer; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything below; `fresh` makes an empty store each time.
pub(crate) async fn all(fresh: impl AsyncFn() -> Arc<dyn Store>) {
    values_come_back(&*fresh().await).await;
    expectations_hold(&*fresh().await).await;
    revisions_grow_by_one(&*fresh().await).await;
    lists_are_whole_and_sorted(&*fresh().await).await;
    watches_miss_nothing(&*fresh().await).await;
    a_watch_joins_a_listing(fresh().await).await;
    slow_watchers_are_told(&*fresh().await).await;
    unknown_history_is_refused(&*fresh().await).await;
    one_of_many_writers_wins(fresh().await).await;
    bounds_hold(&*fresh().await).await;
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, at: &str, value: &str) -> Revision {
    store.put(key(at), bytes(value), Expect::Any).await.unwrap()
}

async fn next(watch: &mut Watch) -> Result<Event, WatchError> {
    timeout(PATIENCE, watch.next()).await.expect("a change within patience")
}

async fn values_come_back(store: &dyn Store) {
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    for value in ["one", "", "two"] {
        let revision = put(store, "a", value).await;
        let found = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((found.key, found.value, found.revision), (key("a"), bytes(value), revision));
    }
    store.delete(key("a"), Expect::Any).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(store.get(&key("a/b")).await.unwrap(), None);
}

async fn expectations_hold(store: &dyn Store) {
    let conflict = |found| Err(StoreError::Conflict { key: key("a"), found });
    let wrong = Expect::Revision(Revision(99));
    assert_eq!(store.put(key("a"), bytes("x"), wrong).await, conflict(None));
    assert_eq!(store.delete(key("a"), wrong).await, conflict(None));
    let first = store.put(key("a"), bytes("1"), Expect::Absent).await.unwrap();
    assert_eq!(store.put(key("a"), bytes("x"), Expect::Absent).await, conflict(Some(first)));
    assert_eq!(store.delete(key("a"), Expect::Absent).await, conflict(Some(first)));
    let second = store.put(key("a"), bytes("2"), Expect::Revision(first)).await.unwrap();
    assert_eq!(store.put(key("a"), bytes("x"), Expect::Revision(first)).await, conflict(Some(second)));
    assert_eq!(store.delete(key("a"), Expect::Revision(first)).await, conflict(Some(second)));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, bytes("2"));
    store.delete(key("a"), Expect::Revision(second)).await.unwrap();
    assert_eq!(store.put(key("a"), bytes("x"), Expect::Revision(second)).await, conflict(None));
}

async fn revisions_grow_by_one(store: &dyn Store) {
    let first = put(store, "a", "1").await;
    let second = put(store, "b", "1").await;
    assert_eq!(second.0, first.0 + 1, "one revision for the whole store");
    let third = store.delete(key("a"), Expect::Any).await.unwrap();
    assert_eq!(third.0, second.0 + 1, "a deletion is a change");
    let same = store.delete(key("a"), Expect::Any).await.unwrap();
    assert_eq!(same, third, "deleting nothing is not");
    assert_eq!(store.delete(key("a"), Expect::Absent).await.unwrap(), third);
    assert!(store.put(key("a"), bytes("x"), Expect::Revision(first)).await.is_err());
    assert_eq!(put(store, "a", "2").await.0, third.0 + 1, "a refused write is not");
    assert_eq!(store.revision().0, third.0 + 1);
}

async fn lists_are_whole_and_sorted(store: &dyn Store) {
    for at in ["b/2", "a/1", "b/10", "b0", "bb/1", "b/1", "c"] {
        put(store, at, at).await;
    }
    let check = async |prefix: &str, expected: &[&str]| {
        let listing = store.list(prefix).await.unwrap();
        let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, expected, "{prefix:?}");
        assert!(listing.entries.iter().all(|entry| entry.value == entry.key.as_str()));
        assert_eq!(listing.revision, store.revision());
    };
    check("", &["a/1", "b/1", "b/10", "b/2", "b0", "bb/1", "c"]).await;
    check("b/", &["b/1", "b/10", "b/2"]).await;
    check("b", &["b/1", "b/10", "b/2", "b0", "bb/1"]).await;
    check("b/1", &["b/1", "b/10"]).await;
    check("d", &[]).await;
}

async fn watches_miss_nothing(store: &dyn Store) {
    let before = put(store, "w/old", "0").await;
    let mut early = store.watch("w/", before).await.unwrap();
    put(store, "w/a", "1").await;
    put(store, "x/a", "elsewhere").await;
    let deleted = store.delete(key("w/a"), Expect::Any).await.unwrap();
    // From the past: what happened since comes first, then what happens next.
    let mut late = store.watch("w/", before).await.unwrap();
    let last = put(store, "w/b", "2").await;
    for watch in [&mut early, &mut late] {
        let Ok(Event::Put(first)) = next(watch).await else { panic!("a put") };
        assert_eq!((first.key, first.value, first.revision.0), (key("w/a"), bytes("1"), before.0 + 1));
        assert_eq!(next(watch).await, Ok(Event::Delete { key: key("w/a"), revision: deleted }));
        assert_eq!(next(watch).await.map(|event| event.revision()), Ok(last));
    }
}

/// A reader that lists and then watches sees every write exactly once, whatever runs beside it.
async fn a_watch_joins_a_listing(store: Arc<dyn Store>) {
    const WRITES: u64 = 200;
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for number in 0..WRITES {
            put(&*writer, &format!("j/{number:04}"), "v").await;
        }
    });
    let listing = timeout(PATIENCE, async {
        loop {
            let listing = store.list("j/").await.unwrap();
            if listing.entries.len() > 20 {
                break listing;
            }
            tokio::task::yield_now().await;
        }
    });
    let listing = listing.await.unwrap();
    let mut watch = store.watch("j/", listing.revision).await.unwrap();
    let mut seen: Vec<Key> = listing.entries.into_iter().map(|entry| entry.key).collect();
    while (seen.len() as u64) < WRITES {
        seen.push(next(&mut watch).await.unwrap().key().clone());
    }
    writing.await.unwrap();
    let expected: Vec<Key> = (0..WRITES).map(|number| key(&format!("j/{number:04}"))).collect();
    assert_eq!(seen, expected);
}

async fn slow_watchers_are_told(store: &dyn Store) {
    let from = put(store, "s/first", "0").await;
    let mut slow = store.watch("s/", from).await.unwrap();
    let writes = (0..super::watch::WATCH_QUEUE_MAX + 10)
        .map(|number| store.put(key(&format!("s/{number}")), bytes("v"), Expect::Any));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let ended = timeout(PATIENCE, async {
        loop {
            if let Err(error) = slow.next().await {
                return error;
            }
        }
    });
    assert_eq!(ended.await.unwrap(), WatchError::Lagged);
}

async fn unknown_history_is_refused(store: &dyn Store) {
    let now = put(store, "h", "0").await;
    let future = Revision(now.0 + 1);
    assert_eq!(store.watch("", future).await.map(drop), Err(StoreError::Compacted { from: future }));
    assert!(store.watch("", now).await.is_ok());
}

async fn one_of_many_writers_wins(store: Arc<dyn Store>) {
    let start = put(&*store, "counter", "0").await;
    let writers = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.put(key("counter"), bytes("1"), Expect::Revision(start)).await.is_ok() })
    });
    let mut won = 0;
    for writer in futures_util::future::join_all(writers).await {
        won += u32::from(writer.unwrap());
    }
    assert_eq!(won, 1);
}

async fn bounds_hold(store: &dyn Store) {
    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    store.put(key("large"), largest.clone(), Expect::Any).await.unwrap();
    assert_eq!(store.get(&key("large")).await.unwrap().unwrap().value, largest);
    let larger = Bytes::from(vec![7; VALUE_BYTES_MAX + 1]);
    let refused = store.put(key("larger"), larger, Expect::Any).await;
    assert_eq!(refused, Err(StoreError::TooLarge { key: key("larger"), bytes: VALUE_BYTES_MAX + 1 }));
    for illegal in ["", "/a", "a/", "a b", "é", &"k".repeat(super::KEY_BYTES_MAX + 1)] {
        assert!(Key::new(illegal).is_err(), "{illegal:?}");
    }
}
