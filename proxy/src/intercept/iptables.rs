//! Writes rules by the iptables tools: one transaction for each family, and the first put back when the second fails.

use weft_core::intercept::iptables::{Rules, installed, replace};
use weft_core::intercept::{Family, RuleSet};

use super::apply::{Step, Writer};
use super::error::ApplyError;
use super::tool::{DIRECTORIES, ask, feed};

/// Names by which distributions ship the tools: the host's choice, then each backend by name.
const VARIANTS: [&str; 3] = ["", "-nft", "-legacy"];

/// Half a minute for the lock of the legacy backend: longer than any other tool holds it.
const RESTORE: [&str; 2] = ["--noflush", "--wait=30"];

/// The tools of both families.
pub(super) struct Iptables {
    v4: Tools,
    /// `None` where the kernel has no IPv6.
    v6: Option<Tools>,
}

impl Iptables {
    pub(super) fn find(ipv6: bool) -> Result<Self, ApplyError> {
        let v4 = Tools::find(Family::V4)?;
        Ok(Self { v4, v6: if ipv6 { Some(Tools::find(Family::V6)?) } else { None } })
    }
}

impl Writer for Iptables {
    fn name(&self) -> &'static str {
        "iptables"
    }

    fn plan(&self, wanted: &[RuleSet]) -> Vec<Step> {
        let step = |tools: &Tools| Step {
            command: format!("{}-restore {}", tools.stem, RESTORE.join(" ")),
            input: tools.transaction(wanted),
        };
        std::iter::once(&self.v4).chain(&self.v6).map(step).collect()
    }

    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError> {
        self.v4.write(wanted)?;
        let Some(v6) = &self.v6 else { return Ok(()) };
        v6.write(wanted).map_err(|failure| match self.v4.put_back() {
            Ok(()) => failure,
            Err(rollback) => failure.and_not_put_back(rollback),
        })
    }
}

/// The tools of one family and variant, and what they have read.
struct Tools {
    family: Family,
    /// Path up to and without `-save`.
    stem: String,
    /// The table as it was.
    saved: String,
}

impl Tools {
    /// The first variant that can read the table.
    fn find(family: Family) -> Result<Self, ApplyError> {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let mut failure = None;
        for variant in VARIANTS {
            for directory in DIRECTORIES {
                match Self::read(family, format!("{directory}{name}{variant}")) {
                    Ok(Some(tools)) => return Ok(tools),
                    Ok(None) => {}
                    // What the host's own choice says is worth more than what the alternatives say.
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        Err(failure.unwrap_or(ApplyError::Missing { tool: name, package: "iptables" }))
    }

    /// `None` when there is no such tool.
    fn read(family: Family, stem: String) -> Result<Option<Self>, ApplyError> {
        let saved = save(&stem)?;
        Ok(saved.map(|saved| Self { family, stem, saved }))
    }

    fn transaction(&self, wanted: &[RuleSet]) -> String {
        let wanted = wanted.iter().find(|rules| rules.family() == self.family);
        replace(&self.saved, &wanted.map(Rules::from).unwrap_or_default())
    }

    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError> {
        self.restore(&self.transaction(wanted))
    }

    /// Makes our part of the table what it was when it was read.
    fn put_back(&self) -> Result<(), ApplyError> {
        let gone = || ApplyError::Tool { tool: self.stem.clone(), reason: "it is gone".to_owned() };
        let now = save(&self.stem)?.ok_or_else(gone)?;
        self.restore(&replace(&now, &installed(&self.saved)))
    }

    fn restore(&self, transaction: &str) -> Result<(), ApplyError> {
        feed(&format!("{}-restore", self.stem), &RESTORE, transaction)
    }
}

fn save(stem: &str) -> Result<Option<String>, ApplyError> {
    ask(&format!("{stem}-save"), &["-t", "nat"])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use nix::sched::{CloneFlags, unshare};
    use weft_core::intercept::InterceptConfig;

    use super::*;

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn tools(family: Family, stem: &str) -> Tools {
        Tools::read(family, stem.to_owned()).unwrap().unwrap_or_else(|| panic!("{stem} is not installed"))
    }

    fn wanted(config: &InterceptConfig) -> [RuleSet; 2] {
        [Family::V4, Family::V6].map(|family| config.rules(family).unwrap())
    }

    /// The kernel backends print their tables differently; both must be understood.
    #[test]
    fn both_variants_are_idempotent() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes redirection rules: run it as root");
        let in_own_namespace = |variant: &'static str| {
            move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let both = || Iptables {
                    v4: tools(Family::V4, &format!("iptables{variant}")),
                    v6: Some(tools(Family::V6, &format!("ip6tables{variant}"))),
                };
                let apply = |wanted: &[RuleSet]| {
                    both().write(wanted).unwrap();
                    let now = both();
                    [now.v4.saved, now.v6.unwrap().saved].map(|saved| installed(&saved))
                };
                let none = [Rules::default(), Rules::default()];
                let wanted = wanted(&InterceptConfig::default());
                let once = apply(&wanted);
                assert_ne!(once, none, "{variant}");
                assert_eq!(apply(&wanted), once, "{variant}");
                assert_eq!(apply(&[]), none, "{variant}");
            }
        };
        for variant in ["-nft", "-legacy"] {
            std::thread::spawn(in_own_namespace(variant)).join().unwrap();
        }
    }

    /// With the real tools for IPv4, and for IPv6 ones that can read and not write.
    #[test]
    fn when_ipv6_fails_ipv4_is_put_back() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes redirection rules: run it as root");
        let directory = tempfile::tempdir().unwrap();
        let stem = directory.path().join("ip6tables").display().to_string();
        script(Path::new(&format!("{stem}-save")), "exit 0");
        script(Path::new(&format!("{stem}-restore")), "cat > /dev/null; echo no such table >&2; exit 1");
        let in_own_namespace = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let v4 = || Tools::find(Family::V4).unwrap();
            let ours = || installed(&v4().saved);
            let other = wanted(&InterceptConfig { inbound_port: 1, ..InterceptConfig::default() });
            // From nothing to nothing, and from another configuration back to it.
            for before in [&[][..], &other[..]] {
                v4().write(before).unwrap();
                let was = ours();
                let both = Iptables { v4: v4(), v6: Some(tools(Family::V6, &stem)) };
                let error = both.write(&wanted(&InterceptConfig::default())).unwrap_err();
                assert!(error.to_string().contains("no such table"), "{error}");
                assert_eq!(ours(), was);
            }
            assert!(Tools::read(Family::V4, "/nonexistent/iptables".to_owned()).unwrap().is_none());
        };
        std::thread::spawn(in_own_namespace).join().unwrap();
    }
}
