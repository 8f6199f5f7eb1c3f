//! Programs as processes, on ports of loopback.

use std::path::Path;
use std::process::{Command, Output};

use weft_cli::binaries::Binaries;
use weft_integration::apps::{python, script};
pub(crate) use weft_integration::process::{DEADLINE, Running, free_ports, start, wait_for_port};

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(crate) const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";

pub(crate) fn app(arguments: &[&str]) -> Running {
    let (file, arguments) = arguments.split_first().unwrap();
    start(Command::new(python().unwrap()).arg(script(file).unwrap()).args(arguments)).unwrap()
}

/// The example with `replaced` for what stands in it, run.
pub(crate) fn proxy(directory: &Path, example: &str, replaced: &[(String, String)]) -> Running {
    let weft_proxy = Binaries::locate().unwrap().find("weft-proxy").unwrap();
    start(arguments(&mut Command::new(weft_proxy), directory, example, replaced, 0)).unwrap()
}

pub(crate) fn arguments<'a>(
    command: &'a mut Command,
    directory: &Path,
    example: &str,
    replaced: &[(String, String)],
    status_port: u16,
) -> &'a mut Command {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/static");
    let mut yaml = std::fs::read_to_string(examples.join(example)).unwrap();
    for (from, _) in replaced {
        assert!(yaml.contains(from), "{example} does not say {from}");
    }
    yaml = replace_all(&yaml, replaced);
    let file = directory.join(example);
    std::fs::write(&file, yaml).unwrap();
    command.args(["run", "--access-log", "off", "--status-listen", &format!("127.0.0.1:{status_port}"), "--static"]);
    command.arg(&file).arg("--admin-socket").arg(directory.join(format!("{example}.sock")))
}

/// Replaces in one pass, so that what is put in is not replaced again.
fn replace_all(text: &str, replaced: &[(String, String)]) -> String {
    let (mut rest, mut out) = (text, String::new());
    while let Some(next) = rest.chars().next() {
        let found = replaced.iter().find(|(from, _)| rest.starts_with(from));
        let (length, to) = match found {
            Some((from, to)) => (from.len(), to.as_str()),
            None => (next.len_utf8(), &rest[..next.len_utf8()]),
        };
        out.push_str(to);
        rest = &rest[length..];
    }
    out
}

pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--fail", "--max-time", "10"]).args(arguments).output().unwrap()
}

pub(crate) fn said(arguments: &[&str]) -> String {
    let output = curl(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
