//! The units by themselves.

use std::fs;
use std::path::Path;
use std::process::Command;

const UNITS: [(&str, f64); 3] = [("weft-control-plane", 2.0), ("weft-proxy", 2.0), ("weft-init", 4.0)];

/// Units under names that systemd looks for, with programs that exist.
fn copies(directory: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    for (unit, _) in UNITS {
        let name = format!("{unit}.service");
        let text = fs::read_to_string(from.join(&name)).unwrap();
        fs::write(directory.join(name), text.replace("/usr/local/bin/weft-", "/bin/true weft-")).unwrap();
    }
}

fn analyze(directory: &Path, verb: &[&str], unit: &str) -> String {
    let path = directory.join(format!("{unit}.service"));
    let output = Command::new("systemd-analyze").args(verb).arg(path).output().expect("systemd-analyze");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{unit}: {said}");
    said
}

#[test]
fn systemd_has_nothing_to_say_of_them() {
    let directory = tempfile::tempdir().unwrap();
    copies(directory.path());
    for (unit, _) in UNITS {
        assert_eq!(analyze(directory.path(), &["verify", "--man=no"], unit), "");
    }
}

/// 10 is an ordinary service, 0 one that can do nothing. The redirection needs power over the network.
#[test]
fn they_are_hardened() {
    let directory = tempfile::tempdir().unwrap();
    copies(directory.path());
    for (unit, limit) in UNITS {
        let said = analyze(directory.path(), &["security", "--offline=yes", "--no-pager"], unit);
        let level = said.split("exposure level for").nth(1).and_then(|rest| rest.split_whitespace().nth(1)).unwrap();
        assert!(level.parse::<f64>().unwrap() < limit, "{unit}: {level}");
    }
}

/// A stop must be allowed to take as long as the drain.
#[test]
fn a_stop_outlasts_the_drain() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/weft-proxy.service"));
    let unit = unit.unwrap();
    let stop: u32 = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    let line = ["weft-proxy", "run", "--control-plane", "a:1"];
    let parsed: weft_proxy::bootstrap::Cli = clap::Parser::try_parse_from(line).unwrap();
    let weft_proxy::bootstrap::Command::Run(args) = parsed.command else { panic!("run") };
    assert!(stop > args.drain_timeout + 5, "{stop} after {}", args.drain_timeout);
}
