//! Why there can be no user namespace, and what to do about it. Distributions forbid them in ways of their own; which one
//! it was is read from their settings, since the error number alone does not tell.

use std::fs;

use nix::errno::Errno;

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("without root, a mesh needs {what}, and the kernel refuses ({errno}): {reason}; or run it as root (sudo)")]
pub struct Refusal {
    what: &'static str,
    errno: Errno,
    reason: String,
}

/// Limits of which each may be 0.
const LIMITS: [&str; 3] = ["max_user_namespaces", "max_mnt_namespaces", "max_net_namespaces"];

impl Refusal {
    /// Fails where a limit will refuse; within a new user namespace, these settings are its own.
    pub(super) fn foreseen() -> Result<(), Self> {
        let is_zero = |limit: &str| read(&format!("user.{limit}")).is_some_and(|text| text.trim() == "0");
        if LIMITS.iter().any(|limit| is_zero(limit)) { Err(Self::here("namespaces", Errno::ENOSPC)) } else { Ok(()) }
    }

    /// By the settings of this machine.
    pub(super) fn here(what: &'static str, errno: Errno) -> Self {
        Self::by(what, errno, read)
    }

    fn by(what: &'static str, errno: Errno, read: impl Fn(&str) -> Option<String>) -> Self {
        let is = |setting: &str, value: &str| read(setting).is_some_and(|text| text.trim() == value);
        let limit = LIMITS.iter().find(|limit| is(&format!("user.{limit}"), "0"));
        let reason = match (errno, limit) {
            (_, Some(limit)) => format!("user.{limit} is 0; allow some: sudo sysctl user.{limit}=15000"),
            (Errno::EPERM, None) if is("kernel.unprivileged_userns_clone", "0") => {
                "kernel.unprivileged_userns_clone is 0; allow them: sudo sysctl kernel.unprivileged_userns_clone=1"
                    .to_owned()
            }
            (Errno::EPERM | Errno::EACCES, None) if is("kernel.apparmor_restrict_unprivileged_userns", "1") => {
                "AppArmor restricts them to programs it knows; lift that: \
                 sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
                    .to_owned()
            }
            (Errno::ENOSPC | Errno::EUSERS, None) => {
                let limits = LIMITS.map(|limit| format!("user.{limit}")).join(", ");
                format!("there are too many, or too many within each other; raise one of {limits} by sudo sysctl")
            }
            (Errno::EINVAL | Errno::ENOSYS, None) => {
                "it was built without them; a kernel with CONFIG_USER_NS and CONFIG_NET_NS is needed".to_owned()
            }
            (_, None) => "as containers do by their seccomp profile, and chroot does; in Docker, start the container \
                          with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
                .to_owned(),
        };
        Self { what, errno, reason }
    }
}

fn read(setting: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{}", setting.replace('.', "/"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_forbid_them_has_its_remedy() {
        let check = |errno, settings: &[(&str, &str)], remedy: &str| {
            let read = |setting: &str| {
                settings.iter().find(|(name, _)| *name == setting).map(|(_, value)| format!("{value}\n"))
            };
            let text = Refusal::by("a user namespace", errno, read).to_string();
            assert!(text.contains(remedy), "{text}");
        };
        let debian = ("kernel.unprivileged_userns_clone", "0");
        let ubuntu = ("kernel.apparmor_restrict_unprivileged_userns", "1");
        check(Errno::EPERM, &[debian], "sudo sysctl kernel.unprivileged_userns_clone=1");
        check(Errno::EPERM, &[ubuntu], "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0");
        check(Errno::EACCES, &[ubuntu], "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0");
        check(Errno::ENOSPC, &[("user.max_user_namespaces", "0")], "sudo sysctl user.max_user_namespaces=15000");
        check(Errno::ENOSPC, &[("user.max_net_namespaces", "0")], "sudo sysctl user.max_net_namespaces=15000");
        check(Errno::ENOSPC, &[("user.max_user_namespaces", "7")], "within each other");
        check(Errno::EINVAL, &[], "CONFIG_USER_NS");
        check(Errno::EPERM, &[("kernel.unprivileged_userns_clone", "1")], "seccomp=unconfined");
    }
}
