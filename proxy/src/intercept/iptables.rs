//! Writes rules by the iptables tools: one transaction for each table of each family, and those before it put back when one
//! fails.

use weft_core::intercept::iptables::{Rules, Table, installed, replace};
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
        let steps = |tools: &Tools| {
            let command = format!("{}-restore {}", tools.stem, RESTORE.join(" "));
            tools.transactions(wanted).map(|(_, input)| Step { command: command.clone(), input })
        };
        std::iter::once(&self.v4).chain(&self.v6).flat_map(steps).collect()
    }

    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError> {
        self.v4.write(wanted)?;
        let Some(v6) = &self.v6 else { return Ok(()) };
        v6.write(wanted).map_err(|failure| and_put_back(failure, self.v4.put_back()))
    }
}

/// The tools of one family and variant, and what they have read.
struct Tools {
    family: Family,
    /// Path up to and without `-save`.
    stem: String,
    /// `nat` as it was.
    saved: String,
    /// `raw` as it was, if there are rules of ours.
    saved_raw: String,
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
        let Some(saved) = save(&stem, Table::Nat)? else { return Ok(None) };
        let need_raw = installed(&saved).need_raw();
        let saved_raw = if need_raw { save(&stem, Table::Raw)?.unwrap_or_default() } else { String::new() };
        Ok(Some(Self { family, stem, saved, saved_raw }))
    }

    /// In an order in which `nat` says at any moment whether `raw` has rules of ours.
    fn transactions(&self, wanted: &[RuleSet]) -> [(Table, String); 2] {
        let wanted = wanted.iter().find(|rules| rules.family() == self.family);
        let [nat, raw] =
            [Table::Nat, Table::Raw].map(|table| wanted.map(|set| Rules::of(set, table)).unwrap_or_default());
        let first_nat = nat.need_raw();
        let nat = (Table::Nat, replace(Table::Nat, &self.saved, &nat));
        let raw = (Table::Raw, replace(Table::Raw, &self.saved_raw, &raw));
        if first_nat { [nat, raw] } else { [raw, nat] }
    }

    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError> {
        let [first, second] = self.transactions(wanted);
        self.restore(&first.1)?;
        self.restore(&second.1).map_err(|failure| and_put_back(failure, self.put_back_table(first.0)))
    }

    /// Makes our part of the tables what it was when they were read.
    fn put_back(&self) -> Result<(), ApplyError> {
        let now = self.save_again(Table::Nat)?;
        if installed(&now).need_raw() || !self.saved_raw.is_empty() {
            self.put_back_table(Table::Raw)?;
        }
        self.put_back_table(Table::Nat)
    }

    fn put_back_table(&self, table: Table) -> Result<(), ApplyError> {
        let former = match table {
            Table::Nat => &self.saved,
            Table::Raw => &self.saved_raw,
        };
        self.restore(&replace(table, &self.save_again(table)?, &installed(former)))
    }

    fn save_again(&self, table: Table) -> Result<String, ApplyError> {
        let gone = || ApplyError::Tool { tool: self.stem.clone(), reason: "it is gone".to_owned() };
        save(&self.stem, table)?.ok_or_else(gone)
    }

    fn restore(&self, transaction: &str) -> Result<(), ApplyError> {
        feed(&format!("{}-restore", self.stem), &RESTORE, transaction)
    }
}

fn save(stem: &str, table: Table) -> Result<Option<String>, ApplyError> {
    ask(&format!("{stem}-save"), &["-t", table.name()])
}

fn and_put_back(failure: ApplyError, put_back: Result<(), ApplyError>) -> ApplyError {
    match put_back {
        Ok(()) => failure,
        Err(rollback) => failure.and_not_put_back(rollback),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use nix::sched::{CloneFlags, unshare};
    use weft_core::intercept::{DnsCapture, InterceptConfig};

    use super::*;

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn tools(family: Family, stem: &str) -> Tools {
        Tools::read(family, stem.to_owned()).unwrap().unwrap_or_else(|| panic!("{stem} is not installed"))
    }

    fn with_dns() -> InterceptConfig {
        let servers = ["127.0.0.11", "fd00::1"].map(|server| server.parse().unwrap()).into();
        InterceptConfig { dns: Some(DnsCapture { port: 15053, servers }), ..InterceptConfig::default() }
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
                    let v6 = now.v6.unwrap();
                    [now.v4.saved, now.v4.saved_raw, v6.saved, v6.saved_raw].map(|saved| installed(&saved))
                };
                let none = [(); 4].map(|()| Rules::default());
                let wanted = wanted(&with_dns());
                let once = apply(&wanted);
                assert!(!once.contains(&Rules::default()), "{variant}: {once:?}");
                assert_eq!(apply(&wanted), once, "{variant}");
                assert_eq!(apply(&[]), none, "{variant}");
            }
        };
        for variant in ["-nft", "-legacy"] {
            std::thread::spawn(in_own_namespace(variant)).join().unwrap();
        }
    }

    /// With the real tools, of which one refuses the second table.
    #[test]
    fn when_raw_fails_nat_is_put_back() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes redirection rules: run it as root");
        let directory = tempfile::tempdir().unwrap();
        let stem = directory.path().join("iptables").display().to_string();
        script(Path::new(&format!("{stem}-save")), "exec iptables-save \"$@\"");
        let refuse = r#"input=$(cat); case $input in "*raw"*) echo no such table >&2; exit 1;; esac
            echo "$input" | iptables-restore "$@""#;
        script(Path::new(&format!("{stem}-restore")), refuse);
        let in_own_namespace = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let v4 = || tools(Family::V4, &stem);
            for before in [&[][..], &wanted(&InterceptConfig::default())[..]] {
                v4().write(before).unwrap();
                let was = v4().saved;
                let error = v4().write(&wanted(&with_dns())).unwrap_err();
                assert!(error.to_string().contains("no such table"), "{error}");
                assert_eq!(installed(&v4().saved), installed(&was));
            }
        };
        std::thread::spawn(in_own_namespace).join().unwrap();
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
            let ours = || [v4().saved, v4().saved_raw].map(|saved| installed(&saved));
            let other = wanted(&InterceptConfig { inbound_port: 1, ..InterceptConfig::default() });
            // From nothing to nothing, and from another configuration back to it.
            let dns = wanted(&with_dns());
            for before in [&[][..], &other[..], &dns[..]] {
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
