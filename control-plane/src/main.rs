//! `weft-control-plane`: flags, log, signals; everything else is the library of the same name.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use weft_control_plane::bootstrap::{Cli, Command, LogFormat, RestoreArgs, ServeArgs};
use weft_control_plane::{backup, panics, serve, shutdown};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => run(*args),
        Command::Restore(args) => restore(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: ServeArgs) -> anyhow::Result<()> {
    start_log(&args)?;
    panics::watch();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(serve_until_signalled(args));
    // Connections that did not drain in time are cut here.
    runtime.shutdown_background();
    outcome
}

async fn serve_until_signalled(args: ServeArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (trigger, shutdown) = shutdown::channel();
    let running = serve::start(args, shutdown).await?;
    tracing::info!(
        listen = %running.listen,
        status = %running.status_listen,
        socket = %running.socket.display(),
        trust_domain = %running.plane.authority.domain(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    tell_manager(sd_notify::NotifyState::Ready);
    let mut finished = std::pin::pin!(running.finished());
    tokio::select! {
        outcome = &mut finished => return outcome,
        () = either(&mut terminate, &mut interrupt) => {}
    }
    tracing::info!("ending; a second signal ends at once");
    tell_manager(sd_notify::NotifyState::Stopping);
    trigger.pull();
    tokio::select! {
        outcome = &mut finished => outcome,
        () = either(&mut terminate, &mut interrupt) => anyhow::bail!("ended at once by a second signal"),
    }
}

/// Where a service manager started us (systemd, Type=notify), it is told.
fn tell_manager(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// The soft limit on descriptors is often 1024 for the sake of programs that use select(2); proxies need more.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "raised the limit on descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on descriptors"),
    }
}

fn start_log(args: &ServeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is no filter such as \"info,weft_control_plane=debug\"", args.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let directory = args.state.directory();
    let restored = backup::restore(&args.file, &directory, args.force)?;
    eprintln!("restored {} keys of revision {} into {}", restored.records, restored.revision, directory.display());
    Ok(())
}
