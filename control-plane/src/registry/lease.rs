//! Leases: an instance that is not renewed in time is removed. They live in memory; after a start every lease is given
//! time in which its proxy can come back, so that an outage of the control plane removes nobody.

use std::collections::HashMap;
use std::time::Duration;

use super::index::InstanceName;

/// After a start no lease expires before this, or two leases if that is longer.
const GRACE_MIN: Duration = Duration::from_secs(30);

/// Deadlines by instance, on a clock of the caller's (time since the process began).
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    deadlines: HashMap<InstanceName, Duration>,
}

impl Leases {
    /// For leases of this length.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, deadlines: HashMap::new() }
    }

    /// An instance found in the store at the start.
    pub fn restore(&mut self, name: InstanceName, now: Duration) {
        self.deadlines.insert(name, now + GRACE_MIN.max(self.lease * 2));
    }

    /// Registered or renewed now. Never shortens a deadline.
    pub fn renew(&mut self, name: InstanceName, now: Duration) {
        let deadline = self.deadlines.entry(name).or_default();
        *deadline = (*deadline).max(now + self.lease);
    }

    /// Registered instances of which no lease is held (another writer of the store) get one.
    pub fn adopt(&mut self, name: InstanceName, now: Duration) {
        self.deadlines.entry(name).or_insert(now + self.lease);
    }

    /// Deregistered.
    pub fn forget(&mut self, name: &InstanceName) {
        self.deadlines.remove(name);
    }

    /// Whether a lease has run out.
    #[must_use]
    pub fn is_expired(&self, name: &InstanceName, now: Duration) -> bool {
        self.deadlines.get(name).is_some_and(|deadline| *deadline <= now)
    }

    /// Forgets a lease that has run out; one that was renewed meanwhile stays.
    pub fn forget_expired(&mut self, name: &InstanceName, now: Duration) {
        if self.is_expired(name, now) {
            self.deadlines.remove(name);
        }
    }

    /// Those whose lease has run out; they stay here until forgotten, so a failed removal is tried again.
    #[must_use]
    pub fn expired(&self, now: Duration) -> Vec<InstanceName> {
        self.deadlines.iter().filter(|(_, deadline)| **deadline <= now).map(|(name, _)| name.clone()).collect()
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
    fn a_missed_lease_expires_and_a_restart_grants_time() {
        let mut leases = Leases::new(10 * SECOND);
        leases.renew(name("a"), SECOND);
        leases.restore(name("b"), SECOND);
        assert_eq!(leases.expired(10 * SECOND), []);
        assert_eq!(leases.expired(11 * SECOND), [name("a")]);
        leases.renew(name("a"), 11 * SECOND);
        leases.renew(name("b"), 12 * SECOND);
        assert_eq!(leases.expired(30 * SECOND), [name("a")], "a renewal does not shorten the time after a restart");
        leases.forget(&name("a"));
        assert_eq!(leases.expired(31 * SECOND), [name("b")]);
        assert_eq!(Leases::new(60 * SECOND).expired(SECOND), []);
    }
}
