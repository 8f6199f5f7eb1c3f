//! Damage, crashes and ownership of the file. What every backend must do is in `conformance`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::store::conformance;

type Contents = BTreeMap<String, (Vec<u8>, u64)>;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn contents(store: &Embedded) -> (Contents, Revision) {
    let listing = store.list("").await.unwrap();
    let entries = listing.entries.into_iter();
    let contents = entries.map(|entry| (entry.key.to_string(), (entry.value.to_vec(), entry.revision.0))).collect();
    (contents, listing.revision)
}

/// Closes from an async test.
async fn close(store: Arc<Embedded>) {
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
}

/// A store with some history: several commits, deletions, a large value.
async fn fill(directory: &Path) -> (Contents, Revision) {
    let store = Arc::new(Embedded::open(directory).unwrap());
    for round in 0..3u8 {
        for number in 0..40u8 {
            let value = Bytes::from(vec![number ^ round; usize::from(number) * 20]);
            store.put(key(&format!("config/v1/Service/shop/s{number}")), value, Expect::Any).await.unwrap();
        }
    }
    for number in (0..40).step_by(3) {
        store.delete(key(&format!("config/v1/Service/shop/s{number}")), Expect::Any).await.unwrap();
    }
    store.put(key("instance/shop/cart-1"), Bytes::from(vec![1; 100_000]), Expect::Absent).await.unwrap();
    let filled = contents(&store).await;
    close(store).await;
    filled
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_memory() {
    conformance::all(async || Arc::new(Embedded::in_memory().unwrap()) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let next = AtomicU32::new(0);
    conformance::all(async || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let own = directory.path().join(number.to_string());
        fs::create_dir(&own).unwrap();
        Arc::new(Embedded::open(&own).unwrap()) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let before = fill(directory.path()).await;
    let store = Embedded::open(directory.path()).unwrap();
    assert_eq!(contents(&store).await, before);
    let (_, revision) = before;
    let past = Revision(revision.0 - 1);
    assert_eq!(store.watch("", past).await.map(drop), Err(StoreError::Compacted { from: past }));
    let next = store.put(key("a"), Bytes::new(), Expect::Absent).await.unwrap();
    assert_eq!(next.0, revision.0 + 1);
}

/// A copy of the files taken while the store is open is what a crash leaves behind.
#[tokio::test]
async fn survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await;
    let store = Embedded::open(directory.path()).unwrap();
    store.put(key("last"), Bytes::from_static(b"durable"), Expect::Absent).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    let recovered = Embedded::open(crashed.path()).unwrap();
    assert_eq!(contents(&recovered).await, contents(&store).await);
}

#[tokio::test]
async fn one_process_owns_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path()).unwrap());
    let refused = Embedded::open(directory.path()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    close(Arc::clone(&store)).await;
    let after = store.put(key("a"), Bytes::new(), Expect::Any).await;
    assert!(matches!(after, Err(StoreError::Unavailable { .. })), "{after:?}");
    Embedded::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_lost_or_old_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await;
    let (file, old) = (directory.path().join(STORE_FILE), directory.path().join("old"));
    fs::copy(&file, &old).unwrap();
    let store = Arc::new(Embedded::open(directory.path()).unwrap());
    store.put(key("newer"), Bytes::new(), Expect::Any).await.unwrap();
    close(store).await;
    let check = |wanted: &str| {
        let refused = Embedded::open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(wanted), "{refused}");
        let command =
            format!("weft-control-plane restore BACKUP-FILE --state-dir {} --force", directory.path().display());
        assert!(refused.contains(&command), "{refused}");
    };
    fs::rename(&old, &file).unwrap();
    check("although");
    fs::remove_file(&file).unwrap();
    check("missing");
    fs::write(&file, b"").unwrap();
    check("although");
    fs::write(&file, b"not a database").unwrap();
    check("damaged");
}

/// Damage that redb's own checks cannot see: its tree is sound, but not what was written.
#[tokio::test]
async fn a_sound_tree_with_other_records_is_refused() {
    const RECORDS: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("records");
    let check = async |tamper: fn(&mut redb::Table<'_, &str, &[u8]>), wanted: &str| {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path()).await;
        let db = redb::Database::open(directory.path().join(STORE_FILE)).unwrap();
        let transaction = db.begin_write().unwrap();
        tamper(&mut transaction.open_table(RECORDS).unwrap());
        transaction.commit().unwrap();
        drop(db);
        let refused = Embedded::open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(wanted), "{refused}");
    };
    let lose = |table: &mut redb::Table<'_, &str, &[u8]>| drop(table.remove("instance/shop/cart-1").unwrap());
    check(lose, "missing or left over").await;
    let alter = |table: &mut redb::Table<'_, &str, &[u8]>| {
        let mut bytes = table.remove("instance/shop/cart-1").unwrap().unwrap().value().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        table.insert("instance/shop/cart-1", bytes.as_slice()).unwrap();
    };
    check(alter, "does not match its checksum").await;
    let rename = |table: &mut redb::Table<'_, &str, &[u8]>| {
        let bytes = table.remove("instance/shop/cart-1").unwrap().unwrap().value().to_vec();
        table.insert("instance/shop/cart-2", bytes.as_slice()).unwrap();
    };
    check(rename, "does not match its checksum").await;
}

/// Reading the damaged store gives what was written, or a refusal. Nothing else: no other data, no panic, no hang.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_data() {
    let directory = tempfile::tempdir().unwrap();
    let good = fill(directory.path()).await;
    let bytes = fs::read(directory.path().join(STORE_FILE)).unwrap();
    let mut refused = 0;
    let mut check = async |damaged: Vec<u8>, what: String| {
        let place = tempfile::tempdir().unwrap();
        copy(directory.path(), place.path());
        fs::write(place.path().join(STORE_FILE), damaged).unwrap();
        let path = place.path().to_owned();
        let opening = tokio::task::spawn_blocking(move || Embedded::open(&path));
        let opened = tokio::time::timeout(std::time::Duration::from_secs(20), opening).await;
        match opened.unwrap_or_else(|_| panic!("{what}: hangs")).unwrap_or_else(|_| panic!("{what}: panics")) {
            Ok(store) => assert_eq!(contents(&store).await, good, "{what}"),
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{what}: not a clear refusal: {other}"),
        }
    };
    // Half of the flips fall into the first pages, where redb keeps its header and the trees are dense.
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..300 {
        let offset = random.usize(..if number % 2 == 0 { bytes.len() } else { 16 * 1024 });
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << random.u8(..8);
        check(damaged, format!("flip at {offset}")).await;
    }
    for _ in 0..100 {
        let length = random.usize(..bytes.len());
        check(bytes[..length].to_vec(), format!("cut at {length}")).await;
    }
    assert!(refused > 100, "the damage was noticed {refused} times only; is it checked?");
}

/// A disk that fails from a chosen moment on.
#[derive(Debug)]
struct Failing {
    memory: redb::backends::InMemoryBackend,
    failing: Arc<AtomicBool>,
}

impl Failing {
    fn check(&self) -> std::io::Result<()> {
        if self.failing.load(Ordering::Acquire) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl redb::StorageBackend for Failing {
    fn len(&self) -> std::io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check().and_then(|()| self.memory.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check().and_then(|()| self.memory.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check().and_then(|()| self.memory.write(offset, data))
    }
}

/// After a failed commit nobody knows what the disk holds. The store must say so, show nothing of it, and go on from
/// what it finds: the state before the write, or (`ahead`) a state that the failed commit did reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_costs_one_write() {
    for ahead in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path()).await;
        let (disk, view) = disk::open(directory.path()).unwrap();
        drop(disk);
        let failing = Arc::new(AtomicBool::new(false));
        let backend = Failing { memory: redb::backends::InMemoryBackend::new(), failing: Arc::clone(&failing) };
        let db = redb::Database::builder().create_with_backend(backend).unwrap();
        let store = Embedded::start(disk::Disk::of(db), view, Some(directory.path().to_owned())).unwrap();
        if ahead {
            let real = Arc::new(Embedded::open(directory.path()).unwrap());
            real.put(key("reached"), Bytes::new(), Expect::Any).await.unwrap();
            close(real).await;
        }
        let before = store.revision();
        let mut watch = store.watch("", before).await.unwrap();
        failing.store(true, Ordering::Release);
        let refused = store.put(key("a"), Bytes::new(), Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        assert_eq!(store.revision(), before);
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let written = store.put(key("a"), Bytes::new(), Expect::Absent).await.unwrap();
        assert_eq!(written.0, before.0 + 1 + u64::from(ahead));
        assert_eq!(store.get(&key("reached")).await.unwrap().is_some(), ahead);
        let seen = tokio::time::timeout(std::time::Duration::from_secs(20), watch.next()).await.unwrap();
        if ahead {
            assert_eq!(seen, Err(crate::store::WatchError::Lagged), "it must list again");
        } else {
            assert_eq!(seen.map(|event| event.revision()), Ok(written));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
