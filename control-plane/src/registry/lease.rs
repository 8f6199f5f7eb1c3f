//! Leases: an instance that is not renewed in time is removed. They live in memory; after a start every lease is given
//! time in which its proxy can come back, so that an outage of the control plane removes nobody.

use std::collections::HashMap;
use std::time::Duration;

use super::index::InstanceName;

/// After a start no lease expires before this, or two leases if that is longer.
const GRACE_MIN: Duration = Duration::from_secs(30);

/// Leases by instance, on a clock of the caller's: time since the control plane started.
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    held: HashMap<InstanceName, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    deadline: Duration,
    /// It has run out and the instance is being removed: too late for a renewal, but not for a new registration.
    ending: bool,
}

impl Leases {
    /// For leases of this length.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, held: HashMap::new() }
    }

    /// Registered now. True when the instance was about to be removed: only a write to the store stops that.
    pub fn register(&mut self, name: InstanceName, now: Duration) -> bool {
        let lease = Lease { deadline: self.deadline(now), ending: false };
        self.held.insert(name, lease).is_some_and(|before| before.ending)
    }

    /// Renewed now. False when it is too late: the proxy must register again.
    #[must_use]
    pub fn renew(&mut self, name: InstanceName, now: Duration) -> bool {
        let deadline = self.deadline(now);
        let lease = self.held.entry(name).or_insert(Lease { deadline, ending: false });
        if !lease.ending {
            lease.deadline = deadline;
        }
        !lease.ending
    }

    /// An instance found in the store of which no lease is held, at the start or from another writer, gets one.
    pub fn adopt(&mut self, name: InstanceName, now: Duration) {
        let deadline = self.deadline(now);
        self.held.entry(name).or_insert(Lease { deadline, ending: false });
    }

    /// Deregistered.
    pub fn forget(&mut self, name: &InstanceName) {
        self.held.remove(name);
    }

    /// Those whose lease has run out, marked as ending. They stay here until forgotten, so a failed removal is tried
    /// again.
    #[must_use]
    pub fn end(&mut self, now: Duration) -> Vec<InstanceName> {
        let mut ending = Vec::new();
        for (name, lease) in &mut self.held {
            lease.ending |= lease.deadline <= now;
            if lease.ending {
                ending.push(name.clone());
            }
        }
        ending
    }

    /// Whether an instance is still to be removed; a registration since [`Leases::end`] has saved it.
    #[must_use]
    pub fn is_ending(&self, name: &InstanceName) -> bool {
        self.held.get(name).is_some_and(|lease| lease.ending)
    }

    /// The instance was removed, unless it was registered meanwhile.
    pub fn forget_ended(&mut self, name: &InstanceName) {
        if self.is_ending(name) {
            self.held.remove(name);
        }
    }

    fn deadline(&self, now: Duration) -> Duration {
        (now + self.lease).max(GRACE_MIN).max(self.lease * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(id: &str) -> InstanceName {
        ("shop".to_owned(), id.to_owned())
    }

    #[test]
    fn a_missed_lease_ends_but_not_soon_after_a_start() {
        let check = |lease: u32, heard: u32, ends: u32| {
            let mut leases = Leases::new(SECOND * lease);
            assert!(!leases.register(name("a"), Duration::ZERO));
            assert!(leases.renew(name("a"), SECOND * heard));
            assert_eq!(leases.end(SECOND * (ends - 1)), []);
            assert_eq!(leases.end(SECOND * ends), [name("a")], "lease {lease}, heard {heard}");
        };
        check(10, 1, 30);
        check(10, 20, 30);
        check(10, 21, 31);
        check(60, 1, 120);
        check(60, 100, 160);
    }

    #[test]
    fn what_is_being_removed_must_be_registered_again() {
        let mut leases = Leases::new(10 * SECOND);
        leases.adopt(name("a"), SECOND);
        leases.adopt(name("a"), 25 * SECOND);
        assert_eq!(leases.end(30 * SECOND), [name("a")], "adopting again extends nothing");
        assert!(!leases.renew(name("a"), 30 * SECOND));
        assert_eq!(leases.end(31 * SECOND), [name("a")], "tried again until it is done");
        assert!(leases.register(name("a"), 31 * SECOND));
        assert!(!leases.is_ending(&name("a")));
        leases.forget_ended(&name("a"));
        assert!(leases.renew(name("a"), 40 * SECOND), "a registration outlives the removal it has stopped");
        assert_eq!(leases.end(50 * SECOND), [name("a")]);
        leases.forget_ended(&name("a"));
        assert_eq!(leases.end(51 * SECOND), []);
    }
}
