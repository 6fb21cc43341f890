//! The steps of a history: what is done next, to the server and to the model.

use std::collections::BTreeSet;

use process::{Month, Random};

use crate::model::{Event, Model, Place, Policy, Run, Table};
use crate::seen::{self, run_id};
use crate::trial::Trial;

/// Statuses that a policy may call final.
const FINAL: [&[&str]; 3] = [
    &["succeeded", "failed", "canceled"],
    &["succeeded", "failed", "canceled", "paused"],
    &["succeeded"],
];

/// What a run may be said to be.
const STATUSES: [&str; 5] = ["running", "succeeded", "failed", "paused", "canceled"];

/// How long a retention keeps, in months.
const RETENTIONS: [i32; 6] = [1, 12, 13, 20, 26, 34];

/// The reason of the hold that a restore leaves.
const RESTORED: &str = "restored by restore_workflow_events_partition()";

impl Trial<'_> {
    /// Does something.
    pub fn step(&mut self, random: &mut Random) {
        match random.between(1, 100) {
            1..=7 => self.make_run(random),
            8..=18 => self.insert(random),
            19..=40 => self.say_of_run(random),
            41..=43 => self.delete_run(random),
            44..=47 => self.hold(random),
            48..=51 => self.release(random),
            52..=61 => self.drop_old(random),
            62..=75 => self.pass(),
            76..=82 => self.let_time_pass(random),
            83..=87 => self.restore(random),
            88..=92 => self.change_policy(random),
            93..=95 => self.create(random),
            _ => self.by_hand(random),
        }
    }

    fn any_run(&self, random: &mut Random) -> Option<usize> {
        // Mostly one that goes on.
        let unfinished = self.model.unfinished();
        let going_on = random.pick_any(unfinished).filter(|_| !random.one_in(4));
        going_on.or_else(|| random.pick_any(self.model.runs.keys().copied()))
    }

    fn any_month(&self, random: &mut Random, is: impl Fn(&Table) -> bool) -> Option<Month> {
        random.pick_any(self.model.months(is))
    }

    pub fn make_run(&mut self, random: &mut Random) {
        self.last_run += 1;
        let run = self.last_run;
        self.run(&format!(
            "INSERT INTO workflow_runs (id, project_id, workflow_id) \
             SELECT '{}', project_id, id FROM workflow_definitions",
            run_id(run)
        ));
        self.model.runs.insert(run, Run { status: "running", is_finished: false });
        self.add_events(random, run);
    }

    fn insert(&mut self, random: &mut Random) {
        if let Some(run) = self.any_run(random) {
            self.add_events(random, run);
        }
    }

    /// Some events, each in a month that there is; now and then in one that there isn't.
    fn add_events(&mut self, random: &mut Random, run: usize) {
        for _ in 0..random.between(1, 3) {
            let is_there = |table: &Table| table.is_attached();
            let old = self.model.months(is_there).into_iter().filter(|m| *m < self.model.current);
            let month = match random.between(1, 8) {
                1 => self.model.current,
                2 => random.pick_any(self.universe.iter().copied()).expect("there are some"),
                3 => self.any_month(random, is_there).expect("the present is there"),
                _ => random.pick_any(old).unwrap_or(self.model.current),
            };
            let (day, time) = match random.between(1, 5) {
                1 => (1, "00:00:00"),
                2 => (28, "23:59:59.999999"),
                _ => (random.between(1, 28), "12:30:00"),
            };
            self.add_event(run, month, &format!("{} {time}+00", month.day(day)));
        }
    }

    pub fn add_event(&mut self, run: usize, month: Month, ts: &str) {
        let sql = format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             VALUES ('{}', '{ts}', 't', '{{}}') RETURNING id",
            run_id(run)
        );
        self.tell(&sql);
        let inserted = self.client.query_one(&sql, &[]);
        match self.model.tables.get_mut(&month).filter(|table| table.is_attached()) {
            Some(table) => {
                let id = inserted.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0);
                table.events.insert(id, Event { run, ts: ts.to_owned() });
                self.tally.events += 1;
            }
            None => {
                let error = inserted.expect_err("there is no partition for it");
                assert_eq!(error.code().map(|code| code.code()), Some("23514"), "{error:?}");
            }
        }
    }

    /// A run finishes, is reopened, or both and neither is said of it.
    fn say_of_run(&mut self, random: &mut Random) {
        let parked = self.model.months(Model::is_parked).into_iter();
        let out_of_sight = parked.flat_map(|month| self.model.tables[&month].events.values());
        // One that is cut off may have events of runs that are gone.
        let runs = out_of_sight.map(|event| event.run);
        let wanted = random.pick_any(runs.filter(|run| self.model.runs.contains_key(run)));
        if let Some(run) = wanted.filter(|_| random.one_in(2)) {
            return self.say(run, "running", false);
        }
        let Some(run) = self.any_run(random) else { return };
        let said = &self.model.runs[&run];
        let (status, is_finished) = match random.between(1, 10) {
            1..=6 => (*random.pick(&["succeeded", "failed", "canceled"]), true),
            7 => ("running", false),
            8 => (said.status, !said.is_finished),
            9 => (*random.pick(&STATUSES), said.is_finished),
            _ => ("paused", true),
        };
        self.say(run, status, is_finished);
    }

    pub fn say(&mut self, run: usize, status: &'static str, is_finished: bool) {
        self.run(&format!(
            "UPDATE workflow_runs SET status = '{status}', finished_at = {} WHERE id = '{}'",
            if is_finished { "now()" } else { "NULL" },
            run_id(run)
        ));
        self.model.runs.insert(run, Run { status, is_finished });
    }

    fn delete_run(&mut self, random: &mut Random) {
        let Some(run) = self.any_run(random) else { return };
        self.run(&format!("DELETE FROM workflow_runs WHERE id = '{}'", run_id(run)));
        self.model.delete_run(run);
    }

    fn hold(&mut self, random: &mut Random) {
        let Some(month) = random.pick_any(self.universe.iter().copied()) else { return };
        let reason = format!("reason {}", random.between(1, 2));
        let sql =
            format!("SELECT hold_workflow_events_partition('{}', '{reason}')", month.partition());
        match self.model.tables.get(&month).map(|table| &table.place) {
            Some(Place::Attached | Place::Parked(_)) => {
                self.run(&sql);
                self.model.holds.push((month, reason));
            }
            Some(Place::Aside) | None => self.refused(&sql, "42P01"),
        }
    }

    fn release(&mut self, random: &mut Random) {
        let held = random.pick_any(self.model.holds.iter().map(|(month, _)| *month));
        let universe = self.universe.iter().copied();
        let Some(month) = held.or_else(|| random.pick_any(universe)) else { return };
        let reason = random.one_in(4).then(|| "reason 1".to_owned());
        let argument = reason.as_ref().map(|r| format!(", '{r}'")).unwrap_or_default();
        let sql =
            format!("SELECT release_workflow_events_partition('{}'{argument})", month.partition());
        let before = self.model.holds.len();
        let goes = |(held, why): &(Month, String)| {
            *held == month && reason.as_ref().is_none_or(|reason| reason == why)
        };
        self.model.holds.retain(|hold| !goes(hold));
        let released: i64 = self.ask(&sql);
        assert_eq!(released as usize, before - self.model.holds.len(), "{sql}");
    }

    fn drop_old(&mut self, random: &mut Random) {
        let retention = *random.pick(&RETENTIONS);
        let is_forced = random.one_in(5);
        let grace_days = random.one_in(2).then(|| *random.pick(&[0, 1, 1, 3]));
        let mut arguments = retention.to_string();
        if is_forced {
            arguments.push_str(", force => true");
        }
        if let Some(days) = grace_days {
            arguments.push_str(&format!(", grace => '{days} days'"));
        }
        let sql = format!("SELECT drop_old_workflow_events_partitions({arguments})");
        self.tell(&sql);
        let rows = self.client.query(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let dropped: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let expected = self.model.drop_old(retention, is_forced, grace_days);
        self.stale.clear();
        // What is missing is worse than what was told.
        seen::compare(&mut self.client, &self.model);
        seen::compare_archive(&mut self.client, &self.model);
        assert_eq!(dropped, seen::names(&expected), "what it says that it dropped");
        self.tally.dropped += expected.len();
        self.tally.forced += usize::from(is_forced);
    }

    /// The worker looks at the log; before that the plan says what it will do.
    pub fn pass(&mut self) {
        self.tell("-- a pass of the worker");
        let plan = seen::plan(&mut self.client);
        assert_eq!(plan, self.model.plan(), "the plan, and the model's");
        self.server.look_through(&mut self.client, &self.database);
        let pass = self.model.pass();
        self.stale.clear();
        seen::compare(&mut self.client, &self.model);
        seen::compare_archive(&mut self.client, &self.model);
        seen::compare_reads(&mut self.client, &self.model);
        if self.model.policy.is_automatic {
            assert_eq!(self.model.out_of_sight(), 0, "events of runs that go on are out of sight");
        }
        self.tally.passes += 1;
        self.tally.dropped += pass.dropped.len();
        self.tally.restored += pass.restored.len();
        self.tally.detached += pass.detached.len();
        self.tally.kept += plan.iter().filter(|(_, action)| action == "keep").count();
    }

    fn let_time_pass(&mut self, random: &mut Random) {
        let days = *random.pick(&[1, 4, 8]);
        self.run(&format!(
            "UPDATE meshhook_events.retired_partition SET detached_at = detached_at - interval '{days} days'"
        ));
        self.model.age(days);
    }

    fn restore(&mut self, random: &mut Random) {
        let is_gone = |month: &Month| !self.model.tables.contains_key(month);
        let archived = self.model.archive.keys().copied().filter(is_gone);
        let parked = self.model.months(Model::is_parked).into_iter();
        let Some(month) = random.pick_any(parked.chain(archived)) else { return };
        let name = month.partition();
        let sql = format!("SELECT status FROM restore_workflow_events_partition('{name}')");
        match self.model.tables.get(&month).map(|table| table.place.clone()) {
            Some(Place::Parked(parking)) => {
                if parking.is_closed {
                    assert_eq!(self.ask::<String>(&sql), "prepared", "{sql}");
                }
                self.model.put_back(month);
            }
            _ => {
                self.model.put_back_from_archive(month);
                self.tally.unarchived += 1;
            }
        }
        assert_eq!(self.ask::<String>(&sql), "restored", "{sql}");
        self.model.holds.push((month, RESTORED.to_owned()));
        self.tally.by_hand += 1;
    }

    pub fn change_policy(&mut self, random: &mut Random) {
        let is_none = random.one_in(6);
        let policy = Policy {
            retention: (!is_none).then(|| *random.pick(&RETENTIONS)),
            grace_days: if random.one_in(3) { 0 } else { 7 },
            is_automatic: !random.one_in(6),
            is_archived: random.one_in(2),
            final_statuses: FINAL[if random.one_in(3) { random.between(1, 2) as usize } else { 0 }],
        };
        let retention = policy.retention.map_or("NULL".to_owned(), |n| format!("'{n} months'"));
        self.run(&format!(
            "UPDATE meshhook_events.policy SET retention = {retention}, grace = '{} days', \
             automatic_retention = {}, archive = '{}', final_statuses = '{{{}}}'",
            policy.grace_days,
            policy.is_automatic,
            if policy.is_archived { "table" } else { "none" },
            policy.final_statuses.join(",")
        ));
        self.model.policy = policy;
    }

    /// A month is made, unless a table of it is there.
    fn create(&mut self, random: &mut Random) {
        let Some(month) = random.pick_any(self.universe.iter().copied()) else { return };
        let (name, day) = (month.partition(), month.first_day());
        let sql = format!("SELECT create_workflow_events_partition('{day}'::date)");
        match self.model.tables.get(&month).map(|table| &table.place) {
            Some(Place::Attached) => assert_eq!(self.ask::<String>(&sql), name),
            None => {
                assert_eq!(self.ask::<String>(&sql), name);
                let events = std::collections::BTreeMap::new();
                self.model.tables.insert(month, Table { place: Place::Attached, events });
            }
            Some(Place::Parked(_)) => self.refused(&sql, "55000"),
            Some(Place::Aside) => self.refused(&sql, "42P07"),
        }
    }

    /// The user does it himself.
    fn by_hand(&mut self, random: &mut Random) {
        let is_old = |month: &Month| *month < self.model.current;
        let month = match random.between(1, 4) {
            1 => self.any_month(random, |table| table.place == Place::Aside),
            2 => self.any_month(random, Model::is_parked),
            _ => self.any_month(random, Table::is_attached),
        };
        let Some(month) = month.filter(is_old) else { return };
        let name = month.partition();
        let place = &mut self.model.tables.get_mut(&month).expect("it is there").place;
        match place {
            _ if random.one_in(4) => {
                self.model.tables.remove(&month);
                self.run(&format!("DROP TABLE {name}"));
            }
            // Until retention has seen it there, it would count as parked again.
            Place::Attached if self.stale.contains(&month) => {}
            Place::Attached => {
                *place = Place::Aside;
                self.run(&format!("ALTER TABLE workflow_events DETACH PARTITION {name}"));
            }
            Place::Parked(_) | Place::Aside => {
                if *place != Place::Aside {
                    self.stale.insert(month);
                }
                *place = Place::Attached;
                let (from, to) = (month.first_day(), month.plus(1).first_day());
                self.run(&format!(
                    "ALTER TABLE workflow_events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
                ));
            }
        }
        self.tally.by_hand += 1;
    }
}
