//! The endpoints of a port: a list that thousands may be in and that one may join without the others being touched.

use std::sync::Arc;

use super::EndpointTarget;
use crate::balance::{Part, Shares};

/// Endpoints in a block when a list is made. A change copies the pointers of one block and those to all blocks, so this
/// is about the square root of a long list.
const BLOCK: usize = 64;
/// A longer block is split.
const BLOCK_MAX: usize = 2 * BLOCK;

/// Those that serve a port, sorted by id. A clone shares every block that neither changes.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    blocks: Vec<Block>,
    shares: Shares,
}

/// Neighbours in the list; never empty.
#[derive(Clone, Debug)]
struct Block {
    endpoints: Arc<[Arc<EndpointTarget>]>,
    part: Arc<Part>,
}

impl Block {
    fn new(endpoints: &[Arc<EndpointTarget>]) -> Self {
        Self { endpoints: endpoints.into(), part: Arc::new(Part::new(endpoints.iter().map(|one| one.weight))) }
    }

    /// Of any number of endpoints.
    fn all(endpoints: &[Arc<EndpointTarget>]) -> impl Iterator<Item = Self> {
        let size = if endpoints.len() <= BLOCK_MAX { BLOCK_MAX } else { BLOCK };
        endpoints.chunks(size).map(Self::new)
    }
}

impl Roster {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shares.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Their weights, prepared for drawing.
    #[must_use]
    pub const fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The one at this place of the list.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Arc<EndpointTarget>> {
        let (block, at) = self.shares.place(index)?;
        self.blocks.get(block)?.endpoints.get(at)
    }

    /// The one with this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<EndpointTarget>> {
        let endpoints = &self.blocks.get(self.block_of(id)?)?.endpoints;
        let at = endpoints.binary_search_by(|one| (*one.id).cmp(id)).ok()?;
        endpoints.get(at)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<EndpointTarget>> {
        self.blocks.iter().flat_map(|block| block.endpoints.iter())
    }

    /// Of endpoints sorted by id.
    pub(super) fn new(endpoints: &[Arc<EndpointTarget>]) -> Self {
        let blocks = Block::all(endpoints).collect();
        Self { blocks, shares: Shares::default() }.counted()
    }

    /// With these endpoints in place of those with the same ids, or without them.
    pub(super) fn changed(&self, changes: impl IntoIterator<Item = (Arc<str>, Option<Arc<EndpointTarget>>)>) -> Self {
        let mut next = self.clone();
        for (id, endpoint) in changes {
            next.change(&id, endpoint);
        }
        next.counted()
    }

    /// Whether both are the same list, without a look into its blocks: where one was touched, it is another.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Block, &Block)| Arc::ptr_eq(&a.endpoints, &b.endpoints);
        self.blocks.len() == other.blocks.len() && self.blocks.iter().zip(&other.blocks).all(same)
    }

    fn change(&mut self, id: &str, endpoint: Option<Arc<EndpointTarget>>) {
        let block = self.block_of(id).unwrap_or(0);
        let mut endpoints = self.blocks.get(block).map(|block| block.endpoints.to_vec()).unwrap_or_default();
        match (endpoints.binary_search_by(|one| (*one.id).cmp(id)), endpoint) {
            (Ok(at), Some(endpoint)) => drop(endpoints.splice(at..=at, [endpoint])),
            (Err(at), Some(endpoint)) => endpoints.insert(at, endpoint),
            (Ok(at), None) => drop(endpoints.remove(at)),
            (Err(_), None) => return,
        }
        let mut end = (block + 1).min(self.blocks.len());
        if let Some(next) = self.blocks.get(end).filter(|next| endpoints.len() + next.endpoints.len() <= BLOCK) {
            endpoints.extend_from_slice(&next.endpoints);
            end += 1;
        }
        self.blocks.splice(block..end, Block::all(&endpoints));
    }

    /// The block that this id is in or belongs to; `None` if there are none.
    fn block_of(&self, id: &str) -> Option<usize> {
        let begins_by = |block: &Block| block.endpoints.first().is_some_and(|first| &*first.id <= id);
        (!self.blocks.is_empty()).then(|| self.blocks.partition_point(begins_by).saturating_sub(1))
    }

    fn counted(mut self) -> Self {
        self.shares = Shares::new(self.blocks.iter().map(|block| Arc::clone(&block.part)));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Weight;

    fn target(id: u16) -> Arc<EndpointTarget> {
        Arc::new(EndpointTarget {
            id: format!("{id:05}").into(),
            address: SocketAddr::from(([10, 0, 0, 1], id)),
            identity: None,
            mesh_tls: false,
            weight: Weight::new(u32::from(id % 3) + 1).unwrap(),
            locality: "".into(),
            health: Arc::default(),
        })
    }

    /// Goal: what one change costs is a matter of blocks, however long the list.
    #[test]
    fn a_change_leaves_all_other_blocks_as_they_are() {
        let long: Vec<_> = (0..10_000).map(|id| target(2 * id)).collect();
        let before = Roster::new(&long);
        assert!(before.blocks.len() <= 200, "{}", before.blocks.len());
        for (id, stays) in [(10_000, true), (10_001, true), (10_002, false)] {
            let made = target(id);
            let after = before.changed([(Arc::clone(&made.id), stays.then_some(made))]);
            let of =
                |roster: &Roster| roster.blocks.iter().map(|block| Arc::as_ptr(&block.endpoints)).collect::<Vec<_>>();
            let (old, new) = (of(&before), of(&after));
            let changed: Vec<_> =
                after.blocks.iter().filter(|block| !old.contains(&Arc::as_ptr(&block.endpoints))).collect();
            assert_eq!((old.len(), changed.len()), (new.len(), 1));
            assert!(changed[0].endpoints.len() <= BLOCK_MAX);
        }
    }

    /// Goal: the list is what a sorted map of the same changes is, in whatever blocks.
    fn roster_follows(changes: &[(u16, bool)], batch: usize) -> Result<(), TestCaseError> {
        let mut model = BTreeMap::new();
        let mut roster = Roster::default();
        for batch in changes.chunks(batch) {
            let mut step = Vec::new();
            for (id, stays) in batch {
                let made = target(*id);
                let name = Arc::clone(&made.id);
                let after = stays.then_some(made);
                match &after {
                    Some(made) => drop(model.insert(Arc::clone(&name), Arc::clone(made))),
                    None => drop(model.remove(&name)),
                }
                step.push((name, after));
            }
            roster = roster.changed(step);
        }
        prop_assert_eq!(roster.len(), model.len());
        prop_assert!(roster.iter().map(Arc::as_ptr).eq(model.values().map(Arc::as_ptr)));
        for (index, (id, made)) in model.iter().enumerate() {
            prop_assert!(Arc::ptr_eq(roster.get(index).unwrap(), made) && Arc::ptr_eq(roster.find(id).unwrap(), made));
        }
        prop_assert!(roster.get(model.len()).is_none() && roster.find("absent").is_none());
        let whole = Roster::new(&model.values().cloned().collect::<Vec<_>>());
        prop_assert!(roster.iter().map(Arc::as_ptr).eq(whole.iter().map(Arc::as_ptr)));
        Ok(())
    }

    proptest! {
        #[test]
        fn a_list_of_endpoints_is_what_was_put_there(
            mut changes in prop::collection::vec((0..400_u16, prop::bool::weighted(0.7)), 0..1200),
            at_the_end in prop::bool::ANY,
            batch in 1_usize..100,
        ) {
            if at_the_end {
                changes.extend((0..400).filter(|id| id % 7 != 0).map(|id| (id, false)));
            }
            roster_follows(&changes, batch)?;
        }
    }
}
