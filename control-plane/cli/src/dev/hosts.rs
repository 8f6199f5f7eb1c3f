//! The /etc/hosts that applications see: services by name, each with its virtual IP.
//!
//! One file serves all instances: it is bind-mounted over /etc/hosts in each application's private mount namespace,
//! so it is rewritten in place (a renamed file would leave the mounts on the old one).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// (namespace, name) of a service → its addresses.
pub type Addresses = BTreeMap<(String, String), Vec<IpAddr>>;

/// No name server: the namespaces lead to no other network, and a look-up that waits for an answer which cannot come costs
/// programs ten seconds at their start (Python's `http.server` looks its own name up). This way it fails at once.
const NO_RESOLVER: &str =
    "# weft dev: no other network can be reached from here\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n";

/// Makes the files that applications see in place of the host's.
///
/// # Errors
/// Those of the file system.
pub fn prepare(directory: &Path, names: &Addresses) -> io::Result<()> {
    write(&directory.join("hosts"), &render(names))?;
    write(&directory.join("resolv.conf"), NO_RESOLVER)
}

/// What is mounted over what for an application.
#[must_use]
pub fn app_binds(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")]
        .into_iter()
        .filter(|(_, target)| Path::new(target).exists())
        .map(|(file, target)| (directory.join(file), PathBuf::from(target)))
        .collect()
}

/// The text. A bare `name` is given to the service of namespace "default", or to the only one of that name.
#[must_use]
pub fn render(services: &Addresses) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for ((namespace, name), addresses) in services {
        let namesakes = services.keys().filter(|(_, other)| other == name).count();
        let short = if namespace == "default" || namesakes == 1 { format!(" {name}") } else { String::new() };
        for address in addresses {
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{address}{short} {name}.{namespace} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local"
            )
            .ok();
        }
    }
    text
}

/// Replaces the contents of `path` in place by one write, and only if they differ.
///
/// # Errors
/// Those of the file system.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let file: File = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    // Grown before it is cut: a reader in between sees whole old lines after the new ones, never an empty file.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn services(list: &[(&str, &str, &str)]) -> Addresses {
        list.iter().map(|(ns, name, ip)| (((*ns).to_owned(), (*name).to_owned()), vec![ip.parse().unwrap()])).collect()
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        let text =
            render(&services(&[("default", "a", "240.0.0.1"), ("shop", "a", "240.0.0.2"), ("shop", "b", "240.0.0.3")]));
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "240.0.0.1 a a.default a.default.svc a.default.svc.cluster.local");
        assert_eq!(lines[1], "240.0.0.2 a.shop a.shop.svc a.shop.svc.cluster.local");
        assert_eq!(lines[2], "240.0.0.3 b b.shop b.shop.svc b.shop.svc.cluster.local");
    }

    #[test]
    fn the_file_stays_the_same_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        write(&path, "long long text\n").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        write(&path, "short\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    }
}
