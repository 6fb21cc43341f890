//! What carrying out a plan changes, as told by the plan and what was there before; and the comparison with what is there
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};

use process::Month;

use crate::model::{self, Bound, Plan, Policy, Range, Step};
use crate::state::{Entry, Kind, Note, State};

/// What becomes of each thing that a plan names.
#[derive(Clone, Debug, Default)]
pub struct Effect {
    created: Vec<Step>,
    /// What can't be made.
    failed: Vec<Step>,
    finalized: BTreeMap<u32, String>,
    detached: BTreeMap<u32, String>,
    /// Partitions, and tables that were partitions.
    dropped: BTreeMap<u32, String>,
    /// What can't be dropped, because a view shows it.
    not_dropped: BTreeMap<u32, String>,
}

fn names(of: &BTreeMap<u32, String>) -> Vec<String> {
    let mut names: Vec<_> = of.values().cloned().collect();
    names.sort();
    names
}

impl Effect {
    /// What the plan does; a retention lets go what lies before `cutoff`.
    pub fn of(before: &State, plan: &Plan, cutoff: Option<&Bound>) -> Self {
        let mut effect = Self::default();
        for step in &plan.steps {
            let name = step.partition.clone();
            if step.action == "create" {
                let list =
                    if fails(before, step) { &mut effect.failed } else { &mut effect.created };
                list.push(step.clone());
                continue;
            }
            let partition = before.partition(step);
            let oid = partition.or_else(|| before.detached(step));
            let oid = oid.unwrap_or_else(|| panic!("{step:?} is about nothing: {before:#?}"));
            let is_noted = before.notes.contains_key(&oid);
            match step.action.as_str() {
                "finalize" => {
                    effect.finalized.insert(oid, name.clone());
                    let range = before.partitions[&oid].range.as_ref();
                    let is_old =
                        range.zip(cutoff).is_some_and(|(range, cutoff)| range.1 <= *cutoff);
                    if !is_noted || !is_old {
                        continue;
                    }
                }
                "detach" => {
                    effect.detached.insert(oid, name.clone());
                }
                _ => {}
            }
            let is_shown = before.seen.contains(&oid);
            let list = if is_shown { &mut effect.not_dropped } else { &mut effect.dropped };
            list.insert(oid, name);
        }
        effect
    }

    pub fn created_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.created.iter().map(|step| step.partition.clone()).collect();
        names.sort();
        names
    }

    pub fn failed_names(&self) -> Vec<&str> {
        self.failed.iter().map(|step| step.partition.as_str()).collect()
    }

    /// Everything that was there is as it was, but for what the plan has named; and what is new is what it has named.
    pub fn compare(&self, before: &State, after: &State, is_worker: bool) {
        let mut expected = before.clone();
        for oid in self.finalized.keys().chain(self.detached.keys()) {
            expected.partitions.remove(oid).expect("it was attached");
            let of = |relation: &&mut crate::state::Relation| relation.partition == Some(*oid);
            expected
                .relations
                .values_mut()
                .filter(of)
                .for_each(|relation| relation.partition = None);
        }
        let is_dropped = |oid: &u32| self.dropped.contains_key(oid);
        let of_dropped = |oid: &u32| {
            let of = before.relations.get(oid).and_then(|relation| relation.partition);
            is_dropped(oid) || of.is_some_and(|of| is_dropped(&of))
        };
        expected.partitions.retain(|oid, _| !is_dropped(oid));
        expected.relations.retain(|oid, _| !of_dropped(oid));
        expected.rows.retain(|oid, _| !of_dropped(oid));

        let new: BTreeSet<u32> = after
            .relations
            .keys()
            .filter(|oid| !before.relations.contains_key(oid))
            .copied()
            .collect();
        let made: BTreeMap<_, _> = new.iter().map(|oid| (oid, after.partitions.get(oid))).collect();
        assert_eq!(
            made.len(),
            self.created.len(),
            "what is new: {made:?}, planned: {:?}",
            self.created
        );
        for step in &self.created {
            let is_it = |oid: &&u32| {
                after.relations[oid].schema == "public" && after.partition(step) == Some(**oid)
            };
            let oid =
                new.iter().find(is_it).unwrap_or_else(|| panic!("{step:?} is not made: {made:?}"));
            let partition = &after.partitions[oid];
            let bound = format!("FOR VALUES FROM ('{}') TO ('{}')", step.from, step.to);
            assert_eq!((partition.kind, &partition.bound), (Kind::Table, &bound));
            assert!(!after.rows.contains_key(oid), "it is empty");
        }
        let without_new = |oid: &u32| !new.contains(oid);
        let mut rest = after.clone();
        rest.partitions.retain(|oid, _| without_new(oid));
        rest.relations.retain(|oid, _| without_new(oid));
        assert_eq!(rest.partitions, expected.partitions, "partitions, and those expected");
        assert_eq!(rest.relations, expected.relations, "relations, and those expected");
        assert_eq!(rest.rows, expected.rows, "rows, and those expected");
        assert_eq!(rest.log, expected.log);
        let notes = if is_worker { self.notes(before) } else { before.notes.clone() };
        assert_eq!(rest.notes, notes, "what the worker has noted, and what is expected");
    }

    /// What the worker notes of what it retires: what it could not drop, and what it is in doubt about.
    fn notes(&self, before: &State) -> BTreeMap<u32, Note> {
        let mut notes = before.notes.clone();
        notes
            .retain(|oid, _| before.relations.contains_key(oid) && !self.dropped.contains_key(oid));
        // One that we had begun to detach is completed, also where the retention keeps it by now.
        for oid in self.finalized.keys() {
            notes.entry(*oid).and_modify(|note| note.is_detached = true);
        }
        for oid in self.not_dropped.keys() {
            if !self.finalized.contains_key(oid) && !self.detached.contains_key(oid) {
                continue;
            }
            let (partition, relation) = (&before.partitions[oid], &before.relations[oid]);
            let range = partition.range.as_ref().expect("nothing else is detached");
            let lower = Bound::from_column(&range.0.as_column());
            let new = Note {
                schema: relation.schema.clone(),
                name: relation.name.clone(),
                range: Range(lower, range.1.clone()),
                is_detached: true,
            };
            notes.entry(*oid).or_insert(new).is_detached = true;
        }
        notes
    }

    /// The ledger's entry about creation names what was made and what was in the way, and is `ok` only where there is no
    /// hole.
    pub fn compare_creation(
        &self,
        entry: &Entry,
        (before, after): (&State, &State),
        (policy, current, now): (&Policy, Month, &str),
    ) {
        let details = &entry.details;
        let asked = Policy { automatic_retention: false, ..policy.clone() };
        let kept = model::plan(before, &asked, current).kept;
        for name in kept.iter().map(String::as_str).chain(self.failed_names()) {
            assert!(details.contains(&format!("\\\"{name}\\\"")), "{name}: {details}");
        }
        // Rows of a partition that is being detached are out of sight.
        let mut usable = after.clone();
        usable.partitions.retain(|_, partition| !partition.detach_pending);
        let holes = model::free(&usable, policy, current);
        let has_hole = holes.iter().any(|(_, free)| free.1 > Bound::At(now.to_owned()));
        let status = match policy.automatic_creation {
            true if !kept.is_empty() || !self.failed.is_empty() || has_hole => "failed",
            false if has_hole => "warning",
            _ if self.created.iter().any(|step| has_odd_index(before, step)) => "warning",
            _ => "ok",
        };
        assert_eq!(entry.status, status, "{details}");
        assert_eq!(entry.created, self.created_names(), "{details}");
    }

    /// The ledger's entry about retirement names what was done, and what is kept.
    pub fn compare_retirement(
        &self,
        entry: Option<&Entry>,
        before: &State,
        policy: &Policy,
        current: Month,
    ) {
        let asked = Policy { automatic_creation: false, ..policy.clone() };
        let kept = model::plan(before, &asked, current).kept;
        let lists = [&self.finalized, &self.detached, &self.dropped, &self.not_dropped];
        let Some(entry) = entry else {
            let is_silent = kept.is_empty() && lists.iter().all(|list| list.is_empty());
            assert!(is_silent, "the ledger has no entry of {self:?}, {kept:?}");
            return;
        };
        let details = &entry.details;
        assert_eq!(entry.finalized, names(&self.finalized), "{details}");
        assert_eq!(entry.detached, names(&self.detached), "{details}");
        assert_eq!(entry.dropped, names(&self.dropped), "{details}");
        let not_dropped = names(&self.not_dropped);
        for name in kept.iter().chain(&not_dropped) {
            assert!(
                details.contains(&format!("kept partition \\\"{name}\\\"")),
                "{name}: {details}"
            );
        }
        let is_whole = kept.is_empty() && not_dropped.is_empty();
        assert_eq!(entry.status, if is_whole { "ok" } else { "warning" }, "{details}");
    }

    /// What is left to do is what could not be done; and to make what was in the way of itself: its range was that of a
    /// detach that was begun, or its name that of a partition to go. Gives whether there is such.
    pub fn compare_rest(&self, before: &State, after: &State, left: &Plan) -> bool {
        assert!(left.of("finalize").is_empty() && left.of("detach").is_empty(), "{left:?}");
        let mut to_drop: Vec<_> =
            left.of("drop").iter().map(|step| step.partition.clone()).collect();
        to_drop.sort();
        assert_eq!(to_drop, names(&self.not_dropped), "what is still to be dropped");
        let finalized =
            self.finalized.keys().filter_map(|oid| before.partitions[oid].range.as_ref());
        let freed: Vec<&Range> = finalized.collect();
        let (mut is_freed, creations) = (false, left.of("create"));
        for step in &creations {
            let has_range = freed.iter().any(|range| range.overlaps(&range_of(step)));
            let has_name = self.dropped.values().any(|name| *name == step.partition);
            assert!(has_range || has_name || fails(after, step), "{step:?} is left: {self:?}");
            is_freed |= has_range || has_name;
        }
        for failed in &self.failed {
            let is_left = creations.iter().any(|step| range_of(step).overlaps(&range_of(failed)));
            assert!(is_left, "{failed:?} has been made");
        }
        is_freed
    }
}

/// The range of a partition that is to be made: a part of a month, so it has two ends.
fn range_of(creation: &Step) -> Range {
    Range(Bound::At(creation.from.clone()), Bound::At(creation.to.clone()))
}

/// Whether it can't be made: the DEFAULT partition has rows of it, or the name of an index that is made for it is taken.
pub fn fails(state: &State, creation: &Step) -> bool {
    let range = range_of(creation);
    let is_odd =
        has_odd_index(state, creation) && !state.names.contains("workflow_events_type_idx");
    is_odd || state.default_rows.iter().any(|point| range.holds(point))
}

/// Whether the name of its index is taken: one that is copied from the log keeps another name then.
fn has_odd_index(state: &State, creation: &Step) -> bool {
    state.names.contains(&format!("{}_type_idx", creation.partition))
}

/// How often each thing has come up.
#[derive(Debug, Default)]
pub struct Tally {
    pub catalogs: usize,
    counts: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub fn note(&mut self, effect: &Effect, plan: &Plan, is_worker: bool) {
        for (what, count) in [
            (if is_worker { "by the worker" } else { "by the function" }, 1),
            ("created", effect.created.len()),
            ("not created", effect.failed.len()),
            ("finalized", effect.finalized.len()),
            ("detached", effect.detached.len()),
            ("dropped", effect.dropped.len()),
            ("not dropped", effect.not_dropped.len()),
            ("kept", plan.kept.len()),
            ("nothing to do", usize::from(plan.steps.is_empty())),
        ] {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.catalogs += other.catalogs;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub fn assert_that_all_was_tried(&self) {
        for (what, count) in &self.counts {
            assert!(*count >= 5, "{what} came up {count} times: {self:?}");
        }
    }
}
