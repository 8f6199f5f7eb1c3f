//! Leases: an instance that is not renewed in time is removed. They live in memory; after a start every lease is given
//! time in which its proxy can come back, so that an outage of the control plane removes nobody.
//!
//! Nor does a hiccup: time counts only as far as this process was there to hear renewals, so a pause of it (SIGSTOP, a
//! suspended machine, starvation) ends no lease. And where most leases would end at once it is more likely that the
//! control plane is cut off than that most of the mesh has died: then none ends for a while.

use std::collections::HashMap;
use std::time::Duration;

use super::index::InstanceName;

/// After a start no lease expires before this, or two leases if that is longer.
const GRACE_MIN: Duration = Duration::from_secs(30);

/// As many as this may always end at once; of more only if they are not the larger half.
const ENDING_MIN: usize = 3;

/// How long the ends of the larger half are held back.
const HELD_BACK_MAX: Duration = Duration::from_secs(120);

/// Leases by instance, on a clock of their own that [`Leases::tick`] moves.
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    now: Duration,
    held: HashMap<InstanceName, Lease>,
    held_back_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    deadline: Duration,
    /// It has run out and the instance is being removed: too late for a renewal, but not for a new registration.
    ending: bool,
}

/// What a look at the leases has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// To be removed. They stay here until forgotten, so a failed removal is tried again.
    pub names: Vec<InstanceName>,
    /// Leases that have run out and are held back, because they are the larger half.
    pub held_back: usize,
}

impl Leases {
    /// For leases of this length.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, now: Duration::ZERO, held: HashMap::new(), held_back_since: None }
    }

    /// Time in which renewals could be heard has passed.
    pub fn tick(&mut self, step: Duration) {
        self.now += step;
    }

    /// Registered now. True when the instance was about to be removed: only a write to the store stops that.
    pub fn register(&mut self, name: InstanceName) -> bool {
        let lease = Lease { deadline: self.deadline(), ending: false };
        self.held.insert(name, lease).is_some_and(|before| before.ending)
    }

    /// Renewed now. False when it is too late: the proxy must register again.
    #[must_use]
    pub fn renew(&mut self, name: InstanceName) -> bool {
        let deadline = self.deadline();
        let lease = self.held.entry(name).or_insert(Lease { deadline, ending: false });
        if !lease.ending {
            lease.deadline = deadline;
        }
        !lease.ending
    }

    /// An instance found in the store of which no lease is held, at the start or from another writer, gets one.
    pub fn adopt(&mut self, name: InstanceName) {
        let deadline = self.deadline();
        self.held.entry(name).or_insert(Lease { deadline, ending: false });
    }

    /// Deregistered.
    pub fn forget(&mut self, name: &InstanceName) {
        self.held.remove(name);
    }

    /// Marks those whose lease has run out as ending, unless they are too many to be believed.
    #[must_use]
    pub fn end(&mut self) -> Ended {
        let now = self.now;
        let over = self.held.values().filter(|lease| !lease.ending && lease.deadline <= now).count();
        if over > ENDING_MIN && over * 2 > self.held.len() {
            let since = *self.held_back_since.get_or_insert(now);
            if now - since < HELD_BACK_MAX {
                return Ended { names: self.ending(), held_back: over };
            }
        } else {
            self.held_back_since = None;
        }
        for lease in self.held.values_mut() {
            lease.ending |= lease.deadline <= now;
        }
        Ended { names: self.ending(), held_back: 0 }
    }

    fn ending(&self) -> Vec<InstanceName> {
        self.held.iter().filter(|(_, lease)| lease.ending).map(|(name, _)| name.clone()).collect()
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

    fn deadline(&self) -> Duration {
        (self.now + self.lease).max(GRACE_MIN).max(self.lease * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(id: &str) -> InstanceName {
        ("shop".to_owned(), id.to_owned())
    }

    fn ended(leases: &mut Leases, step: Duration) -> Vec<InstanceName> {
        leases.tick(step);
        leases.end().names
    }

    #[test]
    fn a_missed_lease_ends_but_not_soon_after_a_start() {
        let check = |lease: u32, heard: u32, ends: u32| {
            let mut leases = Leases::new(SECOND * lease);
            assert!(!leases.register(name("a")));
            leases.tick(SECOND * heard);
            assert!(leases.renew(name("a")));
            assert_eq!(ended(&mut leases, SECOND * (ends - 1 - heard)), []);
            assert_eq!(ended(&mut leases, SECOND), [name("a")], "lease {lease}, heard {heard}");
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
        leases.adopt(name("a"));
        leases.tick(25 * SECOND);
        leases.adopt(name("a"));
        assert_eq!(ended(&mut leases, 5 * SECOND), [name("a")], "adopting again extends nothing");
        assert!(!leases.renew(name("a")));
        assert_eq!(ended(&mut leases, SECOND), [name("a")], "tried again until it is done");
        assert!(leases.register(name("a")));
        assert!(!leases.is_ending(&name("a")));
        leases.forget_ended(&name("a"));
        leases.tick(9 * SECOND);
        assert!(leases.renew(name("a")), "a registration outlives the removal it has stopped");
        assert_eq!(ended(&mut leases, 10 * SECOND), [name("a")]);
        leases.forget_ended(&name("a"));
        assert_eq!(ended(&mut leases, SECOND), []);
    }

    #[test]
    fn most_of_the_mesh_does_not_end_at_once() {
        let mut leases = Leases::new(10 * SECOND);
        let names: Vec<_> = (0..10).map(|number| name(&number.to_string())).collect();
        for name in &names {
            leases.adopt(name.clone());
        }
        leases.tick(30 * SECOND);
        assert_eq!(leases.end(), Ended { names: vec![], held_back: 10 });
        // The control plane was cut off: half of them are back, and only who stays away ends.
        for name in &names[..5] {
            assert!(leases.renew(name.clone()), "it is not too late");
        }
        assert_eq!(leases.end().names.len(), 5);
        for name in &names[5..] {
            leases.forget_ended(name);
        }
        // They really are gone: in the end that is believed.
        leases.tick(10 * SECOND);
        assert_eq!(leases.end().held_back, 5);
        leases.tick(HELD_BACK_MAX);
        assert_eq!(leases.end().names.len(), 5);
    }
}
