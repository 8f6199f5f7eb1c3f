//! A certificate authority of a test, and identities in files as static mode reads them.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// Signs leaves for SPIFFE IDs.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub roots: String,
}

impl Authority {
    /// A new one, which nobody knows yet.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let roots = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), roots })
    }

    /// Writes `NAME.pem` and `NAME.key` for an identity that ends `life` seconds from now.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, directory: &Path, name: &str, id: &str, life: i64) -> anyhow::Result<(PathBuf, PathBuf)> {
        self.sign(directory, name, &leaf(id, life)?)
    }

    /// As [`Self::write`], for a day, and with a DNS name for those who know peers by one.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_named(&self, directory: &Path, name: &str, id: &str, dns: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let mut params = leaf(id, 24 * 3600)?;
        params.subject_alt_names.push(SanType::DnsName(dns.try_into()?));
        // OpenSSL and BoringSSL take a leaf that is called as its issuer for self-signed.
        params.distinguished_name.push(DnType::CommonName, dns);
        self.sign(directory, name, &params)
    }

    fn sign(&self, directory: &Path, name: &str, params: &CertificateParams) -> anyhow::Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        store(directory, name, &signed.pem(), &key)
    }
}

/// As [`Authority::write`], but vouched for by nobody else than itself.
///
/// # Errors
/// The files cannot be written.
pub fn write_self_signed(directory: &Path, name: &str, id: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (params, key) = (leaf(id, 3600)?, KeyPair::generate()?);
    store(directory, name, &params.self_signed(&key)?.pem(), &key)
}

fn leaf(id: &str, life: i64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    let distance = Duration::from_secs(life.unsigned_abs());
    params.not_after = if life < 0 { now - distance } else { now + distance }.into();
    Ok(params)
}

fn store(directory: &Path, name: &str, pem: &str, key: &KeyPair) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, private) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    std::fs::write(&certificate, pem)?;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&private)?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok((certificate, private))
}
