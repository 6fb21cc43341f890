//! One database, in which one history after the other is lived through.

use std::collections::{BTreeMap, BTreeSet};

use postgres::Client;
use postgres::types::FromSqlOwned;
use process::{Month, Random, Server};

use crate::model::{Model, Place, Policy, Table};
use crate::seen;

/// Takes away whatever a history has left, but for the months from the current one on.
const CLEAR: &str = r"
    DELETE FROM meshhook_events.hold;
    DELETE FROM meshhook_events.archived_partition;
    DROP TABLE IF EXISTS workflow_events_archive;
    DELETE FROM meshhook_events.retired_partition;
    DELETE FROM meshhook_events.maintenance_log;
    DO $clear$ DECLARE name text; BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                    AND relname LIKE 'workflow\_events\_y%' AND relname < 'CURRENT' LOOP
            EXECUTE 'DROP TABLE ' || name;
        END LOOP;
    END $clear$;
    DELETE FROM workflow_runs;
    UPDATE meshhook_events.policy SET retention = NULL, grace = DEFAULT, automatic_retention = DEFAULT,
        final_statuses = DEFAULT, archive = DEFAULT";

/// What was tried, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub histories: usize,
    pub steps: usize,
    pub events: usize,
    pub passes: usize,
    pub dropped: usize,
    pub detached: usize,
    pub restored: usize,
    pub kept: usize,
    pub forced: usize,
    pub by_hand: usize,
    pub unarchived: usize,
}

impl Tally {
    fn numbers(&mut self) -> [&mut usize; 11] {
        [
            &mut self.histories,
            &mut self.steps,
            &mut self.events,
            &mut self.passes,
            &mut self.dropped,
            &mut self.detached,
            &mut self.restored,
            &mut self.kept,
            &mut self.forced,
            &mut self.by_hand,
            &mut self.unarchived,
        ]
    }

    pub fn add(&mut self, other: &mut Self) {
        for (number, more) in self.numbers().into_iter().zip(other.numbers()) {
            *number += *more;
        }
    }

    /// Each of these has come up at least once in ten histories.
    pub fn assert_that_all_was_tried(&mut self) {
        let least = self.histories / 10;
        let text = format!("{self:?}");
        assert!(self.numbers().into_iter().all(|number| *number >= least), "too little: {text}");
    }
}

/// A database, the model of it, and what was done.
pub struct Trial<'a> {
    pub server: &'a Server,
    pub database: String,
    pub client: Client,
    pub model: Model,
    /// The months that a history is about.
    pub universe: Vec<Month>,
    /// The number of the latest run.
    pub last_run: usize,
    /// The months that the user has put back while they were parked, and that no retention has seen since.
    pub stale: BTreeSet<Month>,
    pub tally: Tally,
    current: Month,
    told: Vec<String>,
}

impl<'a> Trial<'a> {
    pub fn new(server: &'a Server, database: String, current: Month) -> Self {
        let mut client = server.connect(&database);
        // A transaction that meets a lock says so at once: nobody else is there.
        let settings =
            "SET client_min_messages = error; SET TimeZone = 'UTC'; SET lock_timeout = '20s'";
        client.batch_execute(settings).expect("the superuser may set them");
        Self {
            server,
            database,
            client,
            model: Model::new(current),
            universe: Vec::new(),
            last_run: 0,
            stale: BTreeSet::new(),
            tally: Tally::default(),
            current,
            told: Vec::new(),
        }
    }

    /// Writes down what is done next.
    pub fn tell(&mut self, sql: &str) {
        self.told.push(sql.to_owned());
    }

    pub fn run(&mut self, sql: &str) {
        self.tell(sql);
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub fn ask<T: FromSqlOwned>(&mut self, sql: &str) -> T {
        self.tell(sql);
        let row = self.client.query_one(sql, &[]);
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Does what must be refused.
    pub fn refused(&mut self, sql: &str, sqlstate: &str) {
        self.tell(sql);
        let error = self.client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some(sqlstate), "{sql}: {error:?}");
    }

    /// Lives through a history.
    pub fn history(&mut self, random: &mut Random) {
        self.begin(random);
        for _ in 0..random.between(20, 32) {
            self.step(random);
            seen::compare(&mut self.client, &self.model);
            self.tally.steps += 1;
        }
        self.pass();
        // What can be done is done at once.
        let Policy { is_automatic, .. } = self.model.policy;
        let left = seen::plan(&mut self.client);
        assert_eq!(left, self.model.plan(), "what is left, and the model's");
        assert!(!is_automatic || left.iter().all(|(_, action)| action == "keep"), "{left:?}");
        self.tally.histories += 1;
    }

    fn begin(&mut self, random: &mut Random) {
        self.run(&CLEAR.replace("CURRENT", &self.current.partition()));
        self.told.clear();
        self.model = Model::new(self.current);
        self.stale.clear();
        self.last_run = 0;
        let mut months: BTreeSet<i32> = [-random.between(1, 3), 0].into();
        months.extend((0..random.between(3, 6)).map(|_| -random.between(13, 40)));
        self.universe = months.into_iter().map(|ago| self.current.plus(ago)).collect();
        for month in self.universe.clone() {
            let day = month.first_day();
            self.run(&format!("SELECT create_workflow_events_partition('{day}'::date)"));
        }
        let ahead = (1..=3).map(|ahead| self.current.plus(ahead));
        for month in self.universe.iter().copied().chain(ahead) {
            let table = Table { place: Place::Attached, events: BTreeMap::new() };
            self.model.tables.insert(month, table);
        }
        for _ in 0..random.between(3, 4) {
            self.make_run(random);
        }
        for month in self.universe.clone() {
            let runs = self.model.runs.keys().copied();
            let run = random.pick_any(runs).expect("some were made");
            self.add_event(run, month, &format!("{} 10:00:00+00", month.day(10)));
        }
        for run in self.model.runs.keys().copied().collect::<Vec<_>>() {
            if random.one_in(2) {
                self.say(run, "succeeded", true);
            }
        }
        self.change_policy(random);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history was:\n{}", self.told.join(";\n"));
        }
    }
}
