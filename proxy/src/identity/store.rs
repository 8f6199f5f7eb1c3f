//! The identity on disk, so that a restarted proxy needs no new join token.
//!
//! One file holds key, chain and roots, so that one rename makes all of it. Its text says what it is; its PEM blocks are
//! for `openssl x509` as well. A checksum covers everything, and what passes it is checked like an answer of the control
//! plane: a file can at worst be useless.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_core::identity::join_token::JoinToken;
use weft_proto::v1::{IssueResponse, TrustBundle};

use super::issue::{accept, make_key};
use super::{Identity, IdentityWatch, IssueError, RenewalStatus, sha256};

/// The file in the state directory.
pub const IDENTITY_FILE: &str = "identity.pem";

/// The key of a certificate that is being asked for by a join token; gone once there is an identity.
const JOINING_FILE: &str = "joining.pem";

/// Held locked by who uses the directory.
const LOCK_FILE: &str = "lock";

/// Largest file read; ours are below 8 KiB, with room for many roots.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// First line of the file, up to the checksum of everything after that line.
const HEAD: &str = "weft-identity 1 sha256 ";

/// What stands in place of a token's hash when no token is known.
const NO_TOKEN: &str = "none";

/// A failed write is tried again after this.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// A state directory.
#[derive(Clone, Debug)]
pub struct Store {
    file: PathBuf,
    write_again: Duration,
}

/// What a file held.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Good as of the moment of reading.
    pub identity: Identity,
    /// SHA-256 of the join token's secret that was in force when it was written, in hexadecimal.
    pub(super) token_sha256: Option<String>,
}

/// Why what lies on disk is not used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system's word.
    #[error("it cannot be read: {0}")]
    File(#[from] io::Error),
    /// A directory, device or pipe.
    #[error("it is no regular file: remove it")]
    Kind,
    /// Others may read the key.
    #[error("others may read the key in it (mode {0:04o}): check who did, then chmod 600 it, or remove it")]
    Exposed(u32),
    /// Somebody else made it.
    #[error("it belongs to user {owner} and this proxy runs as user {own}: chown it, or remove it")]
    Owner {
        /// Of the file.
        owner: u32,
        /// Of this process.
        own: u32,
    },
    /// Not as it was written.
    #[error("it is damaged ({0}): remove it")]
    Damaged(&'static str),
    /// Whole, but no identity: expired, of two meshes, with another's key.
    #[error("what it holds is not usable: {0}")]
    Identity(#[from] IssueError),
}

/// Two proxies with one state directory.
#[derive(Debug, thiserror::Error)]
#[error("{}: another proxy uses this state directory; give each its own --state-dir", .0.display())]
pub struct StoreInUse(PathBuf);

impl Kept {
    /// Whether it was obtained by another token than this one: then its operator wants it anew.
    #[must_use]
    pub fn is_of_another_token(&self, token: &JoinToken) -> bool {
        self.token_sha256.as_ref().is_none_or(|known| *known != hash_of(token))
    }
}

impl Store {
    /// In `directory`, which need not exist. One proxy per directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { file: directory.join(IDENTITY_FILE), write_again: WRITE_AGAIN }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Claims the directory for this process, as long as the file lives: two proxies would take each other's identity.
    /// Where nothing can be written, nothing is kept, and there is nothing to claim.
    ///
    /// # Errors
    /// Another process has it.
    pub fn claim(&self) -> Result<Option<File>, StoreInUse> {
        let lock = self.make_directory().and_then(|directory| {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK_FILE))
        });
        let Ok(lock) = lock else { return Ok(None) };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(StoreInUse(self.file.clone())),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(lock)),
        }
    }

    fn make_directory(&self) -> io::Result<&Path> {
        let directory = self.file.parent().unwrap_or_else(|| Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(directory)
    }

    /// What was kept, if it is good at `now` (Unix seconds); `None` when there is no file. Blocks on file I/O.
    ///
    /// # Errors
    /// [`StoreError`]: the file is there and is not to be used.
    pub fn load(&self, now: i64) -> Result<Option<Kept>, StoreError> {
        match read_secret(&self.file) {
            Err(StoreError::File(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(content) => parse(&content, now).map(Some),
        }
    }

    /// The key that was made for a join token and has no certificate yet, or a new one, on the disk before anybody has seen
    /// it. The control plane signs the same key again for a token that is used up, for some minutes. Blocks on file I/O.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn joining_key(&self) -> io::Result<KeyPair> {
        let path = self.file.with_file_name(JOINING_FILE);
        let found = read_secret(&path).ok().and_then(|pem| PrivatePkcs8KeyDer::from_pem_slice(&pem).ok());
        if let Some(key) = found.and_then(|der| KeyPair::try_from(&der).ok()) {
            return Ok(key);
        }
        let key = make_key().map_err(io::Error::other)?;
        self.write(&path, key.serialize_pem().as_bytes())?;
        Ok(key)
    }

    /// Writes an identity; a key that lay beside it and is the identity's needs no other place from then on. Another stays:
    /// its certificate may have been issued, and be on the way.
    fn save(&self, content: &[u8]) -> io::Result<()> {
        self.write(&self.file, content)?;
        let beside = self.file.with_file_name(JOINING_FILE);
        let lines =
            |pem: &[u8]| pem.split(|b| *b == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect::<Vec<_>>();
        let (saved, joining) = (lines(content), lines(&read_secret(&beside).unwrap_or_default()));
        let is_its = joining.iter().filter(|line| !line.starts_with(b"-----")).all(|line| saved.contains(line));
        if !is_its {
            return Ok(());
        }
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Writes a file as a whole or not at all; blocks until it is on the disk.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let directory = self.make_directory()?;
        let temporary = path.with_extension("new");
        // Left over from a crash: never continued, since it may have other permissions.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    }
}

/// Writes the identity at every change, for ever. When it cannot, the proxy serves on from memory: one warning, and a try
/// every minute (R1). Ends only when nobody publishes identities any more.
pub async fn keep_on_disk(store: Store, mut identity: IdentityWatch, status: Arc<RenewalStatus>) {
    let mut failing = false;
    loop {
        let held = identity.borrow_and_update().clone();
        if let Some(held) = held {
            let written = write(store.clone(), render(&held, status.held_by().as_deref())).await;
            status.stored.store(written.is_ok(), Ordering::Relaxed);
            if let Err(error) = &written
                && !failing
            {
                let path = store.file.display();
                tracing::warn!(%path, %error, "identity cannot be kept: a restart will need a new join token; tried again every minute");
            }
            failing = written.is_err();
        }
        let changed = identity.changed();
        let ended = if failing {
            tokio::time::timeout(store.write_again, changed).await.is_ok_and(|changed| changed.is_err())
        } else {
            changed.await.is_err()
        };
        if ended {
            return;
        }
    }
}

async fn write(store: Store, content: String) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || store.save(content.as_bytes())).await;
    written.map_err(io::Error::other).flatten()
}

/// As the file names a token.
pub(super) fn hash_of(token: &JoinToken) -> String {
    hex(&sha256(token.secret().as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn render(identity: &Identity, token_sha256: Option<&str>) -> String {
    let chain = &identity.certified.cert;
    let key = pem::Pem::new("PRIVATE KEY", identity.private_key.secret_der());
    let certificates = chain.iter().chain(&identity.bundle.roots).map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()));
    let blocks: Vec<_> = std::iter::once(key).chain(certificates).collect();
    let rest = format!(
        "# The key, certificate chain and trusted roots of {}; secret.\n\
         trust-domain {}\ngeneration {}\nchain {}\njoin-token {}\n{}",
        identity.id,
        identity.bundle.trust_domain,
        identity.bundle.generation,
        chain.len(),
        token_sha256.unwrap_or(NO_TOKEN),
        pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF)),
    );
    format!("{HEAD}{}\n{rest}", hex(&sha256(rest.as_bytes())))
}

fn parse(content: &[u8], now: i64) -> Result<Kept, StoreError> {
    let damaged = StoreError::Damaged;
    let text = str::from_utf8(content).map_err(|_| damaged("not text"))?;
    let head = text.strip_prefix(HEAD).ok_or_else(|| damaged("no identity file, or of another version"))?;
    let (checksum, rest) = head.split_once('\n').ok_or_else(|| damaged("cut short"))?;
    if checksum != hex(&sha256(rest.as_bytes())) {
        return Err(damaged("its checksum differs"));
    }
    let field = |name: &str| {
        let line = rest.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or_else(|| damaged("a field is missing"))
    };
    let number = |name: &str| field(name)?.parse::<u64>().map_err(|_| damaged("a field is no number"));
    let key = PrivatePkcs8KeyDer::from_pem_slice(rest.as_bytes()).map_err(|_| damaged("no private key"))?;
    let key = KeyPair::try_from(&key).map_err(|_| damaged("its private key is none"))?;
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(rest.as_bytes())
        .map(|one| one.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| damaged("its certificates are none"))?;
    let chain = usize::try_from(number("chain")?).map_err(|_| damaged("a field is no number"))?;
    let (chain, roots) = certificates.split_at_checked(chain).ok_or_else(|| damaged("certificates are missing"))?;
    let token = field("join-token")?;
    let answer = IssueResponse {
        chain_der: chain.to_vec(),
        bundle: Some(TrustBundle {
            trust_domain: field("trust-domain")?.to_owned(),
            roots_der: roots.to_vec(),
            generation: number("generation")?,
        }),
    };
    let identity = accept(answer, &key, None, now)?;
    Ok(Kept { identity, token_sha256: (token != NO_TOKEN).then(|| token.to_owned()) })
}

/// Reads a file that only its owner, who is also ours, can read. A pipe or a link to elsewhere is not followed.
fn read_secret(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(StoreError::Kind);
    }
    let (owner, own) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != own {
        return Err(StoreError::Owner { owner, own });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed(mode));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(StoreError::Damaged("far too long"));
    }
    Ok(content)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
