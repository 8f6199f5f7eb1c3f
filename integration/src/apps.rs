//! Programs that scenarios run: other people's, and the smallest ones of our own in Python.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The Python with the test packages (grpcio, websockets), made by `deploy/setup`.
///
/// # Errors
/// It is not there; says how to make it.
pub fn python() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let python = root.join("target/venv/bin/python");
    anyhow::ensure!(python.exists(), "{} is missing: run deploy/setup", python.display());
    Ok(python)
}

/// A script under `integration/apps`, made to run by [`python`].
///
/// # Errors
/// There is no such script.
pub fn script(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps").join(name);
    anyhow::ensure!(path.is_file(), "no script {}", path.display());
    Ok(path)
}

/// YAML of an application that runs a script with arguments, for `apps:` of a mesh.
///
/// # Errors
/// No Python or no such script.
pub fn python_app(name: &str, arguments: &[&str], rest: &str) -> anyhow::Result<String> {
    let (file, arguments) = arguments.split_first().context("no script named")?;
    let mut command = vec![python()?.display().to_string(), script(file)?.display().to_string()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(format!("- {{name: {name}, command: {}, {rest}}}\n", serde_json::to_string(&command)?))
}

/// YAML of an application that does nothing, to call others from.
#[must_use]
pub fn idle_app(name: &str) -> String {
    format!("- {{name: {name}, command: [sleep, infinity]}}\n")
}
