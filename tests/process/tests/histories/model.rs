//! What may become of each event, worked out from the manual: which month may go, which is kept, which comes back. Nothing of
//! the product is used, and no SQL.

use std::collections::{BTreeMap, BTreeSet};

use process::Month;

/// An event: its number. The numbers of a run's events are in the order of their times only where the times are.
pub type Id = i64;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub run: usize,
    /// Text of one form, so that the order of times is that of the text.
    pub ts: String,
}

/// Where a month's table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is a partition of the log.
    Attached,
    /// Retention has taken it out, and drops it later.
    Parked(Parking),
    /// The user has taken it out by his own hand: it is his.
    Aside,
}

/// How a month was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parking {
    /// How long ago.
    pub days: i32,
    /// For how long, where that was asked for; else as the policy says.
    pub grace_days: Option<i32>,
    /// By which retention, where that was asked for; else the policy's.
    pub retention: Option<i32>,
    /// Whether it goes even if a run needs it.
    pub is_forced: bool,
    /// Whether it is cut off from the runs, to be archived: then it doesn't change with them.
    pub is_closed: bool,
}

/// A month's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub place: Place,
    pub events: BTreeMap<Id, Event>,
}

impl Table {
    pub fn is_attached(&self) -> bool {
        self.place == Place::Attached
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub status: &'static str,
    /// Whether `finished_at` is set.
    pub is_finished: bool,
}

/// What is wanted of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub retention: Option<i32>,
    pub grace_days: i32,
    pub is_automatic: bool,
    pub final_statuses: &'static [&'static str],
    /// Whether rows are put into the archive table before they are dropped.
    pub is_archived: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retention: None,
            grace_days: 7,
            is_automatic: true,
            final_statuses: &["succeeded", "failed", "canceled"],
            is_archived: false,
        }
    }
}

/// The log and all that decides about it.
#[derive(Clone, Debug)]
pub struct Model {
    pub current: Month,
    pub tables: BTreeMap<Month, Table>,
    /// By their numbers.
    pub runs: BTreeMap<usize, Run>,
    /// Which months are held, and why.
    pub holds: Vec<(Month, String)>,
    pub policy: Policy,
    /// What the archive has of each month.
    pub archive: BTreeMap<Month, BTreeMap<Id, Event>>,
}

impl Model {
    pub fn new(current: Month) -> Self {
        let (tables, runs) = (BTreeMap::new(), BTreeMap::new());
        let (holds, policy, archive) = (Vec::new(), Policy::default(), BTreeMap::new());
        Self { current, tables, runs, holds, policy, archive }
    }

    /// The months whose table is such a one.
    pub fn months(&self, is: impl Fn(&Table) -> bool) -> Vec<Month> {
        self.tables.iter().filter(|(_, table)| is(table)).map(|(month, _)| *month).collect()
    }

    pub fn is_parked(table: &Table) -> bool {
        matches!(table.place, Place::Parked(_))
    }

    /// The runs that go on, or may: what is said of them doesn't say twice that they have ended.
    pub fn unfinished(&self) -> BTreeSet<usize> {
        let is_over =
            |run: &Run| run.is_finished && self.policy.final_statuses.contains(&run.status);
        self.runs.iter().filter(|(_, run)| !is_over(run)).map(|(number, _)| *number).collect()
    }

    pub fn is_held(&self, month: Month) -> bool {
        self.holds.iter().any(|(held, _)| *held == month)
    }

    /// Whether a run that goes on has an event there.
    pub fn is_needed(&self, month: Month) -> bool {
        let unfinished = self.unfinished();
        self.tables[&month].events.values().any(|event| unfinished.contains(&event.run))
    }

    /// Whether a whole month lies before what a retention keeps: so many months before the current one.
    fn is_old(&self, month: Month, retention: Option<i32>) -> bool {
        retention.is_some_and(|retention| month < self.current.plus(-retention))
    }

    /// What a retention takes out of the log now.
    fn outdated(&self, retention: Option<i32>, is_forced: bool) -> Vec<Month> {
        let may_go =
            |month: &Month| !self.is_held(*month) && (is_forced || !self.is_needed(*month));
        let old = self.months(Table::is_attached).into_iter();
        old.filter(|month| self.is_old(*month, retention)).filter(may_go).collect()
    }

    /// The parked months whose time has come.
    fn due(&self) -> Vec<Month> {
        let is_due = |month: &Month| {
            let Place::Parked(parking) = &self.tables[month].place else { return false };
            parking.days >= parking.grace_days.unwrap_or(self.policy.grace_days)
                && self.is_old(*month, parking.retention.or(self.policy.retention))
                && !self.is_held(*month)
                && (parking.is_forced || !self.is_needed(*month))
        };
        self.months(Self::is_parked).into_iter().filter(is_due).collect()
    }

    /// The parked months that a run needs again.
    fn wanted_back(&self) -> Vec<Month> {
        let is_wanted = |month: &Month| {
            let Place::Parked(parking) = &self.tables[month].place else { return false };
            !parking.is_forced && self.is_needed(*month)
        };
        self.months(Self::is_parked).into_iter().filter(is_wanted).collect()
    }

    fn park(&mut self, month: Month, parking: Parking) {
        self.tables.get_mut(&month).expect("it is there").place = Place::Parked(parking);
    }

    /// A month's table goes, and where it is archived its rows are in the archive then.
    fn drop_table(&mut self, month: Month) {
        let table = self.tables.remove(&month).expect("it is there");
        if self.policy.is_archived {
            self.archive.entry(month).or_default().extend(table.events);
        }
    }

    /// A parked month comes back, without the events of runs that went while it was cut off.
    pub fn put_back(&mut self, month: Month) {
        let table = self.tables.get_mut(&month).expect("it is there");
        table.place = Place::Attached;
        table.events.retain(|_, event| self.runs.contains_key(&event.run));
    }

    /// A month comes back from the archive, which keeps its rows; without the events of runs that are gone.
    pub fn put_back_from_archive(&mut self, month: Month) {
        let events = self.archive[&month].clone();
        self.tables.insert(month, Table { place: Place::Attached, events });
        self.put_back(month);
    }

    /// `drop_old_workflow_events_partitions()`; gives the months that it drops. Where they are archived, a call cuts a month
    /// off from the runs, and the next one archives and drops it.
    pub fn drop_old(
        &mut self,
        retention: i32,
        is_forced: bool,
        grace_days: Option<i32>,
    ) -> BTreeSet<Month> {
        // What was parked before: this call's own waits for its time.
        let due = self.due();
        let mut dropped = BTreeSet::new();
        for month in self.outdated(Some(retention), is_forced) {
            let asked = grace_days.filter(|days| *days > 0);
            if asked.is_some() || self.policy.is_archived {
                let (grace_days, is_closed) = (Some(asked.unwrap_or(0)), asked.is_none());
                let (days, retention) = (0, Some(retention));
                self.park(month, Parking { days, grace_days, retention, is_forced, is_closed });
            } else {
                dropped.insert(month);
            }
        }
        for month in due {
            match &mut self.tables.get_mut(&month).expect("it is there").place {
                Place::Parked(parking) if self.policy.is_archived && !parking.is_closed => {
                    parking.is_closed = true;
                }
                _ => {
                    dropped.insert(month);
                }
            }
        }
        dropped.iter().for_each(|month| self.drop_table(*month));
        dropped
    }

    /// What the worker does in one pass.
    pub fn pass(&mut self) -> Pass {
        let mut pass = Pass::default();
        // What a run needs comes back even where nothing is to be retired.
        pass.restored.extend(self.wanted_back());
        if !self.policy.is_automatic {
            pass.restored.iter().for_each(|month| self.put_back(*month));
            return pass;
        }
        pass.dropped.extend(self.due());
        pass.restored.iter().for_each(|month| self.put_back(*month));
        for month in self.outdated(self.policy.retention, false) {
            pass.detached.insert(month);
            if self.policy.grace_days == 0 {
                pass.dropped.insert(month);
            } else {
                let (grace_days, retention, is_forced, is_closed) = (None, None, false, false);
                self.park(month, Parking { days: 0, grace_days, retention, is_forced, is_closed });
            }
        }
        pass.dropped.iter().for_each(|month| self.drop_table(*month));
        pass
    }

    /// The plan of maintenance: what is done, and what is kept though it is old or parked.
    pub fn plan(&self) -> Plan {
        let Pass { dropped, restored, detached } = self.clone().pass();
        let mut plan = Plan::default();
        for (month, table) in &self.tables {
            let action = match &table.place {
                Place::Parked(_) if restored.contains(month) => "restore",
                Place::Aside => continue,
                _ if !self.policy.is_automatic => continue,
                Place::Attached if detached.contains(month) => "detach",
                Place::Attached if self.is_old(*month, self.policy.retention) => "keep",
                Place::Attached => continue,
                Place::Parked(_) if dropped.contains(month) && self.policy.is_archived => "archive",
                Place::Parked(_) if dropped.contains(month) => "drop",
                Place::Parked(_) => "keep",
            };
            plan.insert((month.partition(), action.to_owned()));
        }
        plan
    }

    /// Time passes for what is parked.
    pub fn age(&mut self, days: i32) {
        for table in self.tables.values_mut() {
            if let Place::Parked(parking) = &mut table.place {
                parking.days += days;
            }
        }
    }

    /// A run goes, and its events with it, wherever they are but in a table that is cut off, and in the archive.
    pub fn delete_run(&mut self, run: usize) {
        self.runs.remove(&run);
        for table in self.tables.values_mut() {
            if !matches!(&table.place, Place::Parked(parking) if parking.is_closed) {
                table.events.retain(|_, event| event.run != run);
            }
        }
    }

    /// What a replay of a run gives now: its events in the log, in the order of their times and numbers.
    pub fn replay(&self, run: usize) -> Vec<Id> {
        let attached = self.tables.values().filter(|table| table.is_attached());
        let events = attached.flat_map(|table| &table.events);
        let mut of_run: Vec<(&str, Id)> = events
            .filter(|(_, event)| event.run == run)
            .map(|(id, event)| (event.ts.as_str(), *id))
            .collect();
        of_run.sort_unstable();
        of_run.into_iter().map(|(_, id)| id).collect()
    }

    /// Of the runs that go on, how many events can't be replayed though nobody has taken them out by hand or by force.
    pub fn out_of_sight(&self) -> usize {
        let hidden =
            |table: &&Table| matches!(&table.place, Place::Parked(parking) if !parking.is_forced);
        let unfinished = self.unfinished();
        let events = self.tables.values().filter(hidden).flat_map(|table| table.events.values());
        events.filter(|event| unfinished.contains(&event.run)).count()
    }
}

/// What a pass of the worker does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub dropped: BTreeSet<Month>,
    pub restored: BTreeSet<Month>,
    pub detached: BTreeSet<Month>,
}

/// The names of tables, and what is to be done with them.
pub type Plan = BTreeSet<(String, String)>;

#[test]
fn a_month_goes_only_where_nothing_keeps_it() {
    let current = Month::of(2029, 3);
    let (edge, old) = (current.plus(-12), current.plus(-13));
    let mut model = Model::new(current);
    let event = |ts: &str| Event { run: 1, ts: ts.to_owned() };
    for (id, month) in [(1, old), (2, edge)] {
        let events = BTreeMap::from([(id, event(&month.first_day()))]);
        model.tables.insert(month, Table { place: Place::Attached, events });
    }
    assert_eq!(
        (old.partition(), old.first_day()),
        ("workflow_events_y2028m02".into(), "2028-02-01".into())
    );
    // One of the two says that the run goes on.
    for (status, is_finished) in [("running", true), ("failed", false), ("paused", true)] {
        model.runs.insert(1, Run { status, is_finished });
        assert_eq!(model.clone().drop_old(12, false, None), BTreeSet::new(), "{status}");
        assert_eq!(model.clone().drop_old(12, true, None), BTreeSet::from([old]), "{status}");
    }
    model.runs.insert(1, Run { status: "failed", is_finished: true });
    assert_eq!(model.clone().drop_old(13, false, None), BTreeSet::new());
    assert_eq!(model.clone().drop_old(12, false, None), BTreeSet::from([old]));
    model.holds.push((old, "why".to_owned()));
    assert_eq!(model.clone().drop_old(12, true, None), BTreeSet::new());
    model.holds.clear();

    assert_eq!(model.drop_old(12, false, Some(1)), BTreeSet::new());
    assert_eq!((model.replay(1), model.out_of_sight()), (vec![2], 0));
    assert_eq!(model.pass(), Pass::default());
    model.runs.insert(1, Run { status: "running", is_finished: false });
    assert_eq!(model.out_of_sight(), 1);
    model.age(1);
    assert_eq!(model.plan(), BTreeSet::from([(old.partition(), "restore".to_owned())]));
    assert_eq!(model.pass().restored, BTreeSet::from([old]));
    assert_eq!((model.replay(1), model.out_of_sight()), (vec![1, 2], 0));
}
