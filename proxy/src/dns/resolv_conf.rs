//! Reading a resolv.conf.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// More of the file is not read.
const BYTES_MAX: u64 = 64 << 10;

/// What it says, as far as a resolv.conf can be long. Never waits for a writer.
///
/// # Errors
/// Whatever the kernel says of the file, and that it is something else.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    // Without this, opening a pipe waits until somebody writes into it.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_only_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let kind = |name: &str| read(&path(name)).unwrap_err().kind();
        assert_eq!(kind("absent"), io::ErrorKind::NotFound);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(kind("pipe"), io::ErrorKind::InvalidInput);
        std::fs::write(path("good"), b"nameserver 10.0.0.1\n# \xff\n").unwrap();
        assert_eq!(read(&path("good")).unwrap(), "nameserver 10.0.0.1\n# \u{fffd}\n");
        std::fs::File::create(path("huge")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path("huge")).unwrap().len(), 64 << 10);
    }
}
