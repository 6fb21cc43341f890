//! What maintenance is to do, worked out a second time: months are numbers, points in time are text, and what no
//! partition holds is found by trying each piece between two bounds. Nothing of the product is used.

use std::collections::BTreeSet;

use process::Month;

use crate::state::{Kind, State};

/// A time zone of a policy, or of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Utc,
    NewYork,
}

impl Zone {
    pub const ALL: [Self; 2] = [Self::Utc, Self::NewYork];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Utc => "UTC",
            Self::NewYork => "America/New_York",
        }
    }

    /// When a month begins there, as text in UTC. In New York summer time lasts from the second Sunday of March to the
    /// first of November at 02:00, so that the first of April is the first with it, and the first of November the last.
    pub fn start_of(self, month: Month) -> String {
        let (year, number) = month.year_and_month();
        let hour = match (self, number) {
            (Self::Utc, _) => 0,
            (Self::NewYork, 4..=11) => 4,
            (Self::NewYork, _) => 5,
        };
        format!("{year:04}-{number:02}-01 {hour:02}:00:00+00")
    }
}

/// One end of a range. Points in time are text of one form, so that their order is that of the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    Min,
    At(String),
    Max,
}

impl Bound {
    /// From such a column, where it says where a range begins or ends.
    pub fn from_column(text: &str) -> Self {
        match text {
            "-infinity" => Self::Min,
            "infinity" => Self::Max,
            _ => Self::At(text.to_owned()),
        }
    }

    /// As a column of the type `timestamptz` has it: what has no end is infinite.
    pub fn as_column(&self) -> String {
        match self {
            Self::Min => "-infinity".to_owned(),
            Self::At(point) => point.clone(),
            Self::Max => "infinity".to_owned(),
        }
    }
}

/// The values from the first to the second, which is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range(pub Bound, pub Bound);

impl Range {
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0 < other.1 && other.0 < self.1
    }

    pub fn holds(&self, point: &str) -> bool {
        let point = Bound::At(point.to_owned());
        self.0 <= point && point < self.1
    }
}

/// What is wanted of the log.
#[derive(Clone, Debug)]
pub struct Policy {
    pub zone: Zone,
    pub premake: i32,
    pub retention: Option<i32>,
    pub automatic_creation: bool,
    pub automatic_retention: bool,
}

/// A row of the plan that is carried out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    pub action: String,
    pub partition: String,
    pub from: String,
    pub to: String,
}

impl Step {
    fn new(action: &str, partition: &str, Range(from, to): &Range) -> Self {
        Self {
            action: action.to_owned(),
            partition: partition.to_owned(),
            from: from.as_column(),
            to: to.as_column(),
        }
    }
}

/// A plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is carried out.
    pub steps: BTreeSet<Step>,
    /// The names in its rows `keep`.
    pub kept: BTreeSet<String>,
}

impl Plan {
    /// The partitions that an action is about, by their steps.
    pub fn of(&self, action: &str) -> Vec<&Step> {
        self.steps.iter().filter(|step| step.action == action).collect()
    }
}

/// The plan for what is there, in the month that it is.
pub fn plan(state: &State, policy: &Policy, current: Month) -> Plan {
    let mut plan = Plan::default();
    if policy.automatic_creation {
        for creation in creations(state, policy, current) {
            match creation {
                Ok(step) => plan.steps.insert(step),
                Err(name) => plan.kept.insert(name),
            };
        }
        let window = window(policy, current);
        let pending = state.partitions.values().filter(|partition| partition.detach_pending);
        let in_window = pending.filter(|p| p.range.as_ref().is_some_and(|r| r.overlaps(&window)));
        plan.kept.extend(in_window.map(|partition| partition.name.clone()));
    }
    if policy.automatic_retention {
        retirements(state, policy, current, &mut plan);
    }
    plan
}

fn window(policy: &Policy, current: Month) -> Range {
    let end = policy.zone.start_of(current.plus(policy.premake + 1));
    Range(Bound::At(policy.zone.start_of(current)), Bound::At(end))
}

/// For each piece of a month that is wanted and that no partition holds, what is made, or the name that is taken.
fn creations(state: &State, policy: &Policy, current: Month) -> Vec<Result<Step, String>> {
    let mut names = state.names.clone();
    let creation = |(month, piece): (Month, Range)| {
        let is_whole = piece == whole(policy.zone, month);
        let part = |number: i32| format!("{}_p{number}", month.partition());
        let name = match is_whole {
            true => month.partition(),
            false => (1..).map(part).find(|name| !names.contains(name)).expect("one is free"),
        };
        let is_new = names.insert(name.clone());
        if is_new { Ok(Step::new("create", &name, &piece)) } else { Err(name) }
    };
    free(state, policy, current).into_iter().map(creation).collect()
}

fn whole(zone: Zone, month: Month) -> Range {
    Range(Bound::At(zone.start_of(month)), Bound::At(zone.start_of(month.plus(1))))
}

/// The pieces of the months that are wanted which no partition holds.
pub fn free(state: &State, policy: &Policy, current: Month) -> Vec<(Month, Range)> {
    let months = (0..=policy.premake).map(|ahead| current.plus(ahead));
    let of_month = |month| {
        let pieces = free_pieces(state, &whole(policy.zone, month));
        pieces.into_iter().map(move |piece| (month, piece))
    };
    months.flat_map(of_month).collect()
}

/// The pieces of a range that no partition holds; neighbours are one piece.
fn free_pieces(state: &State, whole: &Range) -> Vec<Range> {
    let taken: Vec<&Range> = state.partitions.values().filter_map(|p| p.range.as_ref()).collect();
    let mut cuts = BTreeSet::from([&whole.0, &whole.1]);
    cuts.extend(taken.iter().flat_map(|range| [&range.0, &range.1]));
    let cuts: Vec<&Bound> =
        cuts.into_iter().filter(|cut| whole.0 <= **cut && **cut <= whole.1).collect();
    let mut free: Vec<Range> = Vec::new();
    for (lower, upper) in cuts.iter().zip(cuts.iter().skip(1)) {
        let piece = Range((*lower).clone(), (*upper).clone());
        if taken.iter().any(|range| range.overlaps(&piece)) {
            continue;
        }
        match free.last_mut() {
            Some(last) if last.1 == piece.0 => last.1 = piece.1,
            _ => free.push(piece),
        }
    }
    free
}

/// What lies before it goes.
pub fn cutoff(policy: &Policy, current: Month) -> Option<Bound> {
    policy.retention.map(|months| Bound::At(policy.zone.start_of(current.plus(-months))))
}

fn retirements(state: &State, policy: &Policy, current: Month, plan: &mut Plan) {
    for partition in state.partitions.values().filter(|partition| partition.detach_pending) {
        let range = partition.range.as_ref().expect("PostgreSQL detaches no DEFAULT concurrently");
        plan.steps.insert(Step::new("finalize", &partition.name, range));
    }
    let cutoff = cutoff(policy, current);
    for (oid, note) in &state.notes {
        let Some(relation) = state.relations.get(oid) else { continue };
        if state.partitions.contains_key(oid) {
            continue;
        }
        let is_old = cutoff.as_ref().is_some_and(|cutoff| note.range.1 <= *cutoff);
        let is_same = relation.name == note.name && relation.schema == note.schema;
        if note.is_detached && is_same && is_old {
            plan.steps.insert(Step::new("drop", &note.name, &note.range));
        } else {
            plan.kept.insert(note.name.clone());
        }
    }
    let Some(cutoff) = cutoff else { return };
    let has_default = state.partitions.values().any(|partition| partition.range.is_none());
    for (oid, partition) in state.partitions.iter().filter(|(_, p)| !p.detach_pending) {
        let Some(range) = partition.range.as_ref().filter(|range| range.1 <= cutoff) else {
            continue;
        };
        match (partition.kind, has_default) {
            (Kind::Foreign, _) => plan.kept.insert(partition.name.clone()),
            _ if !partition.is_owned || state.seen.contains(oid) => {
                plan.kept.insert(partition.name.clone())
            }
            (_, true) => plan.steps.insert(Step::new("drop", &partition.name, range)),
            (_, false) => plan.steps.insert(Step::new("detach", &partition.name, range)),
        };
    }
}
