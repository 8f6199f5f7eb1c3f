//! The authority's files: one PEM file per key with its certificate, readable by the owner only.
//!
//! Key and certificate share a file so that one rename makes both; a crash leaves the old pair or the new one, never a
//! key without its certificate.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::CaError;

/// Largest file read; ours are below 4 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A key and the certificate of its public part.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Pair {
    /// As PEM text. Secret.
    pub(crate) fn to_pem(key: &KeyPair, certificate: &rcgen::Certificate) -> String {
        format!("{}{}", key.serialize_pem(), certificate.pem())
    }

    /// Reads a pair; `None` if there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, CaError> {
        let unusable = |detail: &str| CaError::Unusable { path: path.to_owned(), detail: detail.to_owned() };
        let pem = match read_secret(path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CaError::File { path: path.to_owned(), source }),
        };
        let key =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable("holds no private key; restore a backup"))?;
        let certificate =
            CertificateDer::from_pem_slice(&pem).map_err(|_| unusable("holds no certificate; restore a backup"))?;
        let key = KeyPair::try_from(&key).map_err(|_| unusable("holds a damaged private key; restore a backup"))?;
        Ok(Some(Self { key, certificate }))
    }
}

/// Makes a directory, and those above it, for the owner only.
///
/// # Errors
/// As the file system says.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only the owner can read, as a whole or not at all.
///
/// # Errors
/// As the file system says; the former content is then still there.
pub fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let temporary = directory.join(format!(".{name}.new"));
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

/// Reads a file that only the owner can read.
///
/// # Errors
/// As the file system says, and `PermissionDenied` when others could read it.
pub fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        let advice = "it holds a private key and others may read it; check who did, then chmod 600";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, advice));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}
