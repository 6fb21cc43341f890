//! Where the events of some ids may lie in a partitioned table. A query by id would have the planner look at all partitions,
//! and the last changes are carried over under locks.

use std::collections::{BTreeMap, BTreeSet};

use crate::db::catalog::{self, Table};
use crate::db::ident::Qualified;
use crate::db::migration::copy::{self, Keys};
use crate::db::migration::queue::Change;
use crate::db::migration::suitable::Leaf;
use crate::domain::instant::Instant;
use crate::domain::partition::{Partition, Range};
use crate::error::Result;
use crate::error::migration::MigrationFault;

/// Ids by the leaf that may hold events of them.
pub struct Places<'a>(BTreeMap<u32, (&'a Leaf, BTreeSet<i64>)>);

impl<'a> Places<'a> {
    /// The places of the events that were changed. `copied` has where those of the same ids lie that the shadow has: an event
    /// that is neither in the queue nor in the shadow is not there.
    ///
    /// # Errors
    ///
    /// Where the catalogs can't be read.
    pub fn of(live: &Table, leaves: &'a [Leaf], changes: &[Change], copied: &Keys) -> Result<Self> {
        let partitions = catalog::partitions(live)?;
        let range_of = |leaf: &Leaf| {
            partitions
                .iter()
                .find(|partition| partition.oid == leaf.oid.to_u32())
                .and_then(Partition::range)
        };
        let (mut ranges, mut others): (Vec<(Range, &Leaf)>, Vec<&Leaf>) = (Vec::new(), Vec::new());
        for leaf in leaves {
            match range_of(leaf) {
                Some(range) => ranges.push((range, leaf)),
                // A DEFAULT partition, or a part of one: whatever is nowhere else may be there.
                None => others.push(leaf),
            }
        }
        let mut places = Self(BTreeMap::new());
        for change in changes {
            let Some(id) = change.id else { continue };
            for leaf in leaves.iter().filter(|leaf| leaf.oid == change.relation) {
                places.add(leaf, id);
            }
        }
        let of_changes = changes.iter().filter_map(|change| Some((change.id?, change.ts?)));
        let of_copies =
            copied.ids.iter().zip(&copied.instants).filter_map(|(id, ts)| Some((*id, (*ts)?)));
        for (id, ts) in of_changes.chain(of_copies) {
            let at = Instant(ts.into_inner());
            for (_, leaf) in ranges.iter().filter(|(range, _)| range.holds(at)) {
                places.add(leaf, id);
            }
            for leaf in &others {
                places.add(leaf, id);
            }
        }
        Ok(places)
    }

    fn add(&mut self, leaf: &'a Leaf, id: i64) {
        self.0.entry(leaf.oid.to_u32()).or_insert_with(|| (leaf, BTreeSet::new())).1.insert(id);
    }

    fn iter(&self) -> impl Iterator<Item = (Qualified<'a>, Vec<i64>)> {
        self.0.values().map(|(leaf, ids)| (leaf.qualified(), ids.iter().copied().collect()))
    }

    /// Refuses where events share an id: a plain table holds one of them. To be called as the table's owner.
    ///
    /// # Errors
    ///
    /// [`MigrationFault::DuplicateId`].
    pub fn require_unique(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (leaf, ids) in self.iter() {
            for id in copy::ids_among(&ids, leaf)? {
                if !seen.insert(id) {
                    return Err(MigrationFault::DuplicateId(id).into());
                }
            }
        }
        Ok(())
    }

    /// Copies the events that are there. To be called as the tables' owner.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub fn copy(&self, to: Qualified, columns: &[String]) -> Result<()> {
        self.iter().try_for_each(|(leaf, ids)| copy::copy_again_by_id(&ids, leaf, to, columns))
    }
}
