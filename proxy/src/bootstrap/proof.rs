//! What the proxy starts with to prove who it is: an identity on disk, a join token, or both.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use weft_core::identity::join_token::JoinToken;

use super::RunArgs;
use crate::identity::{Proof, Store};

/// Said where neither is there.
const NEEDED: &str = "a join token is needed for the first certificate: --join-token-file or --join-token (print one \
                      with `weft token create`)";

/// Reads both, as of `now` (Unix seconds). A token that is missing or unreadable is no fault where the identity on disk is
/// good, and the other way round. Blocks on file I/O.
///
/// # Errors
/// Neither proves anything; says of both why.
pub fn proof(args: &RunArgs, store: Option<&Store>, now: i64) -> anyhow::Result<Proof> {
    let (kept, unusable) = match store.map(|store| store.load(now)).transpose() {
        Ok(kept) => (kept.flatten(), None),
        Err(error) => (None, Some(error)),
    };
    let file = store.map(|store| store.file().display().to_string()).unwrap_or_default();
    let join_token = match (join_token(args), &kept) {
        (Ok(token), _) => token,
        (Err(error), Some(_)) => {
            tracing::info!(error = format!("{error:#}"), "no join token; the identity on disk is enough");
            None
        }
        (Err(error), None) => {
            return Err(
                error.context(unusable.map_or_else(|| NEEDED.to_owned(), |unusable| format!("{file}: {unusable}")))
            );
        }
    };
    let ignored = if unusable.is_some() { store.cloned() } else { None };
    match unusable {
        Some(unusable) if join_token.is_none() => anyhow::bail!("{file}: {unusable}; and {NEEDED}"),
        Some(unusable) => {
            tracing::warn!(%file, reason = %unusable, "identity on disk is ignored; joining by the token, which replaces it");
        }
        None => anyhow::ensure!(join_token.is_some() || kept.is_some(), NEEDED),
    }
    Ok(Proof { join_token, kept, ignored, joining: store.cloned() })
}

fn join_token(args: &RunArgs) -> anyhow::Result<Option<JoinToken>> {
    if let Some(token) = &args.join_token {
        return Ok(Some(token.clone()));
    }
    let Some(path) = &args.join_token_file else { return Ok(None) };
    let file = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(file)?;
    let mode = std::fs::metadata(path).with_context(file)?.permissions().mode();
    if is_open_to_all(mode) {
        tracing::warn!(
            file = file(),
            mode = format!("{:04o}", mode & 0o7777),
            "everybody on this machine can read the join token, and join by it while it is good: chmod 640 it, and where \
             others work on this machine give this proxy a new one (weft token create)"
        );
    }
    Ok(Some(text.parse().with_context(|| path.display().to_string())?))
}

/// A group may: it is how a token is given to the proxy's user.
const fn is_open_to_all(mode: u32) -> bool {
    mode & 0o007 != 0
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use clap::Parser as _;

    use super::*;
    use crate::bootstrap::{Cli, Command};

    #[test]
    fn without_any_proof_it_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().display().to_string();
        let check = |flags: &[&str], parts: &[&str]| {
            let line = ["weft-proxy", "run", "--control-plane", "a:1"].iter().chain(flags);
            let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else { panic!("run") };
            let store = args.state_dir.as_deref().map(Store::new);
            let error = format!("{:#}", proof(&args, store.as_ref(), 0).unwrap_err());
            for part in parts {
                assert!(error.contains(part), "{error} lacks {part}");
            }
        };
        check(&[], &["--join-token-file", "weft token create"]);
        check(&["--state-dir", &state], &["--join-token-file", "weft token create"]);
        check(&["--state-dir", &state, "--join-token-file", "/nonexistent"], &["weft token create", "/nonexistent"]);
        std::fs::write(directory.path().join("identity.pem"), "").unwrap();
        check(&["--state-dir", &state], &["identity.pem", "chmod 600", "weft token create"]);
        check(&["--state-dir", &state, "--join-token-file", "/nonexistent"], &["identity.pem", "/nonexistent"]);
    }

    #[test]
    fn a_token_that_everybody_can_read_is_remarked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), JoinToken::new(&[1; 32], [2; 32]).to_string()).unwrap();
        let path = file.path().display().to_string();
        let check = |mode: u32, expected: bool| {
            file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            let line = ["weft-proxy", "run", "--control-plane", "a:1", "--join-token-file", &path];
            let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else { panic!("run") };
            let said = Said::default();
            let log = tracing_subscriber::fmt().with_writer(said.clone()).with_ansi(false).finish();
            tracing::subscriber::with_default(log, || proof(&args, None, 0)).unwrap();
            let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
            assert_eq!(said.contains("can read the join token") && said.contains(&path), expected, "{mode:o}: {said}");
        };
        check(0o640, false);
        check(0o600, false);
        check(0o644, true);
    }

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Said {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
