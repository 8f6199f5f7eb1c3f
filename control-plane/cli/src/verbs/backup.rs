//! `weft backup | restore`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use weft_proto::v1::BackupRequest;

use crate::binaries::Binaries;
use crate::cli::SocketArg;
use crate::client::{Clients, explain};

/// Flags of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where to write; must not exist. It holds the keys of the certificate authority: keep it as a secret.
    pub file: PathBuf,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A file made by `weft backup`.
    pub file: PathBuf,
    /// State directory of the control plane, which must not run [default: as `weft-control-plane serve`].
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Replace what is there.
    #[arg(long)]
    pub force: bool,
}

/// Copies the control plane's store into a file that only its owner can read; the file appears when it is whole.
///
/// # Errors
/// The file exists or cannot be written, or the control plane breaks off.
pub async fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    anyhow::ensure!(!args.file.exists(), "{} exists already", args.file.display());
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let mut stream = clients.operator.backup(BackupRequest {}).await.map_err(explain)?.into_inner();
    let mut name = args.file.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let copy = async {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        let mut bytes = 0;
        while let Some(chunk) = stream.message().await.map_err(explain)? {
            file.write_all(&chunk.data)?;
            bytes += chunk.data.len();
        }
        file.sync_all()?;
        anyhow::Ok(bytes)
    };
    let copied = copy.await.with_context(|| format!("cannot write {}", partial.display()));
    let bytes = copied.inspect_err(|_| discard(&partial))?;
    fs::rename(&partial, &args.file).with_context(|| format!("cannot write {}", args.file.display()))?;
    eprintln!("{}: {bytes} bytes", args.file.display());
    Ok(())
}

fn discard(partial: &Path) {
    // What failed is reported; a rest that cannot be removed either adds nothing to it.
    fs::remove_file(partial).ok();
}

/// Becomes `weft-control-plane restore`; returns only on failure.
///
/// # Errors
/// The control plane's binary is not found.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let binary = Binaries::locate()?.find("weft-control-plane")?;
    let mut command = Command::new(&binary);
    command.arg("restore").arg(&args.file);
    if let Some(directory) = &args.state_dir {
        command.arg("--state-dir").arg(directory);
    }
    if args.force {
        command.arg("--force");
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot execute {}", binary.display()))
}
