//! Finding the programs that belong together.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The directory with our binaries.
#[derive(Clone, Debug)]
pub struct Binaries {
    directories: Vec<PathBuf>,
}

impl Binaries {
    /// Looks where the running program is, one directory above (for test binaries in `deps`), then in PATH.
    /// `WEFT_BIN_DIR` goes before all.
    ///
    /// # Errors
    /// The running program's place is unknown.
    pub fn locate() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program lies")?;
        let beside = own.ancestors().skip(1).take(2).map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let given = std::env::var_os("WEFT_BIN_DIR").map(PathBuf::from);
        Ok(Self { directories: given.into_iter().chain(beside).chain(std::env::split_paths(&path)).collect() })
    }

    /// Path of the program `name`.
    ///
    /// # Errors
    /// It is in none of the directories.
    pub fn find(&self, name: &str) -> anyhow::Result<PathBuf> {
        let found = self.directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        found.with_context(|| {
            let first = self.directories.first().map(|path| path.display().to_string()).unwrap_or_default();
            format!("cannot find {name}, neither in {first} nor in PATH: build it with `cargo build --workspace`")
        })
    }

    /// PATH with our directories before all others.
    #[must_use]
    pub fn path_with_ours(&self) -> String {
        let all = self.directories.iter().map(|directory| directory.display().to_string());
        all.collect::<Vec<_>>().join(":")
    }
}

/// Whether a program of this name is in PATH.
#[must_use]
pub fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
