//! What was written is read back; what is not exactly that is refused, and nothing of it panics.

use super::*;
use crate::clock::Clock;
use crate::tls::tests::{Authority, CART};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    directory: tempfile::TempDir,
    store: Store,
    now: i64,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("state"));
        Self { directory, store, now: Clock::start().unix_seconds() }
    }

    fn holding(content: &[u8]) -> Self {
        let place = Self::new();
        place.store.save(content).unwrap();
        place
    }

    fn load(&self) -> Result<Option<Kept>, StoreError> {
        self.store.load(self.now)
    }

    fn is_refused(&self, reason: &str) {
        let error = self.load().unwrap_err().to_string();
        assert!(error.contains(reason), "{error} lacks {reason}");
    }
}

fn identity() -> Arc<Identity> {
    Authority::new("a").identity(CART, &[CART], 3600)
}

fn token(secret: u8) -> JoinToken {
    JoinToken::new(&[secret; 32], [7; 32])
}

/// The text with its checksum made right.
fn sealed(text: &str) -> String {
    let (_head, rest) = text.split_once('\n').unwrap();
    format!("{HEAD}{}\n{rest}", hex(&sha256(rest.as_bytes())))
}

#[test]
fn what_is_written_is_read_back() {
    let place = Place::new();
    assert!(place.load().unwrap().is_none());
    let written = identity();
    for _ in 0..2 {
        place.store.save(render(&written, Some(&hash_of(&token(1)))).as_bytes()).unwrap();
    }
    let kept = place.load().unwrap().unwrap();
    assert_eq!(kept.identity.id, written.id);
    assert_eq!(kept.identity.bundle, written.bundle);
    assert_eq!(kept.identity.certified.cert, written.certified.cert);
    assert_eq!(kept.identity.private_key, written.private_key);
    assert_eq!([1, 2].map(|secret| kept.is_of_another_token(&token(secret))), [false, true]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.store.file()), 0o600);
    assert_eq!(mode(place.store.file().parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(place.store.file().parent().unwrap()).unwrap().count(), 1, "no temporary file");
}

#[test]
fn a_directory_is_of_one_proxy() {
    let place = Place::new();
    let claim = place.store.claim().unwrap();
    assert!(claim.is_some());
    assert!(place.store.claim().unwrap_err().to_string().contains("give each its own"));
    drop(claim);
    assert!(place.store.claim().unwrap().is_some());
    // Where there is nothing to keep, there is nothing to quarrel about.
    assert!(Store::new(Path::new("/proc/nowhere")).claim().unwrap().is_none());
}

#[test]
fn no_byte_may_be_another_and_none_may_be_missing() {
    let content = render(&identity(), None).into_bytes();
    let now = Clock::start().unix_seconds();
    assert!(parse(&content, now).is_ok());
    for at in 0..content.len() {
        assert!(parse(&content[..at], now).is_err(), "cut at {at}");
        for flip in [0x01, 0x20, 0x80, 0xff] {
            let mut other = content.clone();
            other[at] ^= flip;
            assert!(parse(&other, now).is_err(), "byte {at} flipped by {flip:#x}");
        }
    }
}

/// As by somebody who knows the form: whatever is then accepted is still that name by that key.
#[test]
fn a_right_checksum_alone_proves_nothing() {
    let written = identity();
    let content = render(&written, None);
    let now = Clock::start().unix_seconds();
    let mut refused = 0;
    let head = content.find('\n').unwrap() + 1;
    for at in head..content.len() {
        let mut other = content.clone().into_bytes();
        other[at] ^= 0x02;
        let Ok(other) = String::from_utf8(other) else { continue };
        match parse(sealed(&other).as_bytes(), now) {
            Ok(kept) => {
                assert_eq!((kept.identity.id, &kept.identity.private_key), (written.id.clone(), &written.private_key))
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > content.len() / 2, "{refused}");
}

#[test]
fn foreign_and_stale_content_is_refused() {
    let (ours, theirs) = (identity(), identity());
    let check = |content: &str, reason: &str| Place::holding(sealed(content).as_bytes()).is_refused(reason);
    let text = render(&ours, None);
    let with = |identity: Identity| render(&identity, None);
    check(
        &with(Identity { private_key: Arc::clone(&theirs.private_key), ..Identity::clone(&ours) }),
        "for another key",
    );
    check(&with(Identity { bundle: Arc::clone(&theirs.bundle), ..Identity::clone(&ours) }), "does not lead to");
    check(&text.replace("trust-domain a\n", "trust-domain b\n"), "a name in b");
    check(&text.replace("trust-domain a\n", "trust-domain /\n"), "bundle is refused");
    check(&text.replace("chain 1\n", "chain 2\n"), "lacks a root");
    check(&text.replace("chain 1\n", "chain 99\n"), "certificates are missing");
    check(&text.replace("chain 1\n", "chain 0\n"), "lacks a certificate");
    check(&text.replace("generation 1\n", ""), "a field is missing");
    check(&text.replace("PRIVATE KEY", "PUBLIC KEY"), "no private key");
    check(&with(Identity::clone(&Authority::new("a").identity(CART, &[CART], -60))), "is valid from");
    let place = Place::holding(text.replace("identity 1", "identity 2").as_bytes());
    place.is_refused("of another version");
    Place::holding(&vec![b'x'; 300_000]).is_refused("far too long");
    Place::holding(b"").is_refused("no identity file");
}

#[test]
fn files_that_others_had_in_their_hands_are_refused() {
    let place = Place::holding(render(&identity(), None).as_bytes());
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(place.store.file(), fs::Permissions::from_mode(mode)).unwrap();
        place.is_refused("chmod 600");
    }
    fs::set_permissions(place.store.file(), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.load().unwrap().is_some());
    assert!(nix::unistd::geteuid().is_root(), "this test gives a file away: run it as root");
    std::os::unix::fs::chown(place.store.file(), Some(15001), None).unwrap();
    place.is_refused("belongs to user 15001");
    let elsewhere = place.directory.path().join("elsewhere");
    fs::rename(place.store.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, place.store.file()).unwrap();
    place.is_refused("symbolic links");
    fs::remove_file(place.store.file()).unwrap();
    nix::unistd::mkfifo(place.store.file(), nix::sys::stat::Mode::S_IRUSR).unwrap();
    place.is_refused("no regular file");
}

/// Goal: a process that ends between asking for a certificate and writing it asks again with the same key.
#[tokio::test]
async fn a_joining_key_lasts_until_there_is_an_identity() {
    let place = Place::new();
    let file = place.store.file().with_file_name(JOINING_FILE);
    let first = place.store.joining_key().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(place.store.joining_key().unwrap().serialize_der(), first.serialize_der());
    // What is damaged, or was seen by others, is not used.
    fs::write(&file, "nonsense").unwrap();
    let second = place.store.joining_key().unwrap();
    assert_ne!(second.serialize_der(), first.serialize_der());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let third = place.store.joining_key().unwrap();
    assert_ne!(third.serialize_der(), second.serialize_der());
    let held = identity();
    let keep = async || {
        let (publish, seen) = watch::channel(Some(Arc::clone(&held)));
        let keeping = tokio::spawn(keep_on_disk(place.store.clone(), seen, Arc::default()));
        drop(publish);
        tokio::time::timeout(PATIENCE, keeping).await.expect("an end").unwrap();
        assert!(place.load().unwrap().is_some());
    };
    keep().await;
    assert!(file.exists(), "a key that is not this identity's may be another's, on the way");
    let own = KeyPair::try_from(held.private_key.secret_der()).unwrap();
    fs::write(&file, own.serialize_pem()).unwrap();
    keep().await;
    assert!(!file.exists(), "kept with the identity");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_tried_again() {
    let place = Place::new();
    let state = place.directory.path().join("state");
    let store = Store { write_again: Duration::from_millis(20), ..place.store.clone() };
    let status = Arc::new(RenewalStatus::default());
    let (publish, seen) = watch::channel(Some(identity()));
    let keeping = tokio::spawn(keep_on_disk(store, seen, Arc::clone(&status)));
    let until = async |stored: bool| {
        let reached = async {
            while status.stored() != stored {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("kept or not");
    };
    until(true).await;
    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "in the way").unwrap();
    let second = identity();
    publish.send_replace(Some(Arc::clone(&second)));
    until(false).await;
    fs::remove_file(&state).unwrap();
    until(true).await;
    assert_eq!(place.load().unwrap().unwrap().identity.private_key, second.private_key);
    drop(publish);
    tokio::time::timeout(PATIENCE, keeping).await.expect("an end").unwrap();
}
