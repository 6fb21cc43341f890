//! Plan is execution: for random event logs, `plan_workflow_events_maintenance()` lists what an independent model expects,
//! and the functions and the worker then do that and nothing else.
//!
//! `PLAN_SEED` sets the seed, `PLAN_CATALOGS` how many logs are tried, and `PLAN_CATALOG` picks a single one.

mod catalog;
mod effect;
mod model;
mod state;

use std::sync::Mutex;
use std::thread;

use postgres::Client;
use process::{Again, Month, Random, Server, setting};

use catalog::{CLEAR, Catalog, Detaching, FOUNDATION};
use effect::{Effect, Tally};
use model::{Plan, Policy, Zone};
use state::{State, read_entry, read_plan, rows, text};

/// How many logs are tried: about 375 by the function alone, as many by the worker alone, 250 by both in turn.
const CATALOGS: u64 = 1_000;

/// How many databases work at the same time: they wait for the worker more than they compute.
const DATABASES: u64 = 4;

/// Points in time that the server's clock shows, with the months that they lie in: in UTC, in New York. Nothing is
/// scheduled from the first to the last.
const TIMES: [(&str, Month, Month); 8] = [
    ("2029-03-15 12:00:00+00", Month::of(2029, 3), Month::of(2029, 3)),
    ("2029-11-01 02:30:00+00", Month::of(2029, 11), Month::of(2029, 10)),
    ("2029-12-31 20:00:00+00", Month::of(2029, 12), Month::of(2029, 12)),
    ("2030-01-01 03:00:00+00", Month::of(2030, 1), Month::of(2029, 12)),
    ("2030-02-28 22:00:00+00", Month::of(2030, 2), Month::of(2030, 2)),
    ("2030-04-01 02:30:00+00", Month::of(2030, 4), Month::of(2030, 3)),
    ("2030-10-20 06:00:00+00", Month::of(2030, 10), Month::of(2030, 10)),
    ("2031-06-30 22:30:00+00", Month::of(2031, 6), Month::of(2031, 6)),
];

/// The time in which a catalog is tried.
#[derive(Clone, Copy)]
struct Time {
    text: &'static str,
    utc: Month,
    new_york: Month,
}

impl Time {
    const fn month_in(self, zone: Zone) -> Month {
        match zone {
            Zone::Utc => self.utc,
            Zone::NewYork => self.new_york,
        }
    }
}

#[test]
fn what_the_plan_says_is_what_is_done() {
    let seed = setting("PLAN_SEED").unwrap_or(1);
    let count = setting("PLAN_CATALOGS").unwrap_or(CATALOGS);
    let only = setting("PLAN_CATALOG");
    let server = server();
    let tally = Mutex::new(Tally::default());
    for (era, (text, utc, new_york)) in (0..).zip(TIMES) {
        let time = Time { text, utc, new_york };
        // The worker looks at each database when it is woken, and at no other time.
        server.set_clock(&format!("timestamptz '{text}'"));
        let of_era = |number: &u64| number % TIMES.len() as u64 == era;
        let numbers: Vec<u64> =
            (0..count).filter(of_era).filter(|number| only.is_none_or(|o| o == *number)).collect();
        thread::scope(|scope| {
            for database in 0..DATABASES {
                let (server, tally, numbers) = (&server, &tally, &numbers);
                scope.spawn(move || {
                    let mine = |(i, _): &(usize, &u64)| *i as u64 % DATABASES == database;
                    let mut trial = Trial::new(server, format!("db{database}"), time);
                    for (_, number) in numbers.iter().enumerate().filter(mine) {
                        let _again = Again(format!("PLAN_SEED={seed} PLAN_CATALOG={number}"));
                        trial.catalog(Random(seed << 32 | number));
                    }
                    tally.lock().expect("nobody panics with it").add(&trial.tally);
                });
            }
        });
    }
    let tally = tally.into_inner().expect("nobody panics with it");
    println!("{tally:?}");
    if only.is_none() && count >= CATALOGS {
        tally.assert_that_all_was_tried();
    }
}

/// A server with the databases, whose worker is on.
fn server() -> Server {
    let mut server = Server::preloaded()
        .clock()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.databases", "db0, db1, db2, db3")
        // A busy machine is no failure, and nobody is in the way.
        .conf("pg_meshhook_events.lock_timeout", "10s")
        .conf("autovacuum", "off")
        .start();
    server.set_clock(&format!("timestamptz '{}'", TIMES[0].0));
    server.run("postgres", "CREATE ROLE somebody");
    for database in (0..DATABASES).map(|number| format!("db{number}")) {
        server.create_database(&database);
        server.run(&database, FOUNDATION);
    }
    server.turn_on_and_restart();
    server.wait_until_idle();
    server
}

/// One database, and what was tried in it.
struct Trial<'a> {
    server: &'a Server,
    database: String,
    client: Client,
    time: Time,
    tally: Tally,
}

impl<'a> Trial<'a> {
    fn new(server: &'a Server, database: String, time: Time) -> Self {
        let mut client = server.connect(&database);
        let settings =
            "SET client_min_messages = error; SET log_min_messages = error; SET TimeZone = 'UTC'";
        client.batch_execute(settings).expect("the superuser may set them");
        Self { server, database, client, time, tally: Tally::default() }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Tries one catalog: what is missing is made by the function, or by the worker; or by the function first, and then
    /// the worker does the rest.
    fn catalog(&mut self, mut random: Random) {
        let by = random.between(1, 8);
        let catalog = Catalog::random(&mut random, self.time.utc);
        self.run(CLEAR);
        self.run(&catalog.log);
        if let Some(detaching) = &catalog.detaching {
            self.leave_in_the_middle(detaching);
        }
        self.run(&catalog.rest);
        let policy = &catalog.policy;
        let mut state = State::read(&mut self.client);
        let mut plan = self.plan(&state, policy);
        self.tally.catalogs += 1;
        if by <= 5 {
            (state, plan) = self.by_function(&state, &plan, policy);
        }
        if by > 3 {
            self.by_worker(&state, &plan, policy);
        }
    }

    /// The plan as the product gives it, which is the one that the model expects.
    fn plan(&mut self, state: &State, policy: &Policy) -> Plan {
        let plan = read_plan(&mut self.client);
        let expected = model::plan(state, policy, self.time.month_in(policy.zone));
        assert_eq!(plan, expected, "the plan, and the model's: {policy:?} {state:#?}");
        plan
    }

    /// Begins to detach a partition beside a reader, and gives up.
    fn leave_in_the_middle(&mut self, Detaching { partition, note }: &Detaching) {
        if let Some(note) = note {
            self.run(note);
        }
        let mut reader = self.server.connect(&self.database);
        let read = "BEGIN; LOCK TABLE ONLY workflow_events IN ACCESS SHARE MODE";
        reader.batch_execute(read).expect("nobody is in the way");
        self.run("SET lock_timeout = '5ms'");
        let detach =
            format!("ALTER TABLE workflow_events DETACH PARTITION {partition} CONCURRENTLY");
        let error = self.client.batch_execute(&detach).expect_err("it waits for the reader");
        assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}");
        self.run("RESET lock_timeout");
        reader.batch_execute("COMMIT").expect("it is open");
    }

    /// The function makes what is missing, also where that is not left to the worker.
    fn by_function(&mut self, before: &State, plan: &Plan, policy: &Policy) -> (State, Plan) {
        let asked =
            Policy { automatic_creation: true, automatic_retention: false, ..policy.clone() };
        let wanted = model::plan(before, &asked, self.time.month_in(policy.zone));
        if policy.automatic_creation {
            assert_eq!(wanted.of("create"), plan.of("create"));
        }
        let effect = Effect::of(before, &wanted, None);
        let made = rows(&mut self.client, "SELECT maintain_workflow_events_partitions()");
        let made: Vec<String> = made.iter().map(|row| text(row, 0)).collect();
        let mut sorted = made.clone();
        sorted.sort();
        assert_eq!(sorted, effect.created_names(), "what it says that it made");
        let entry = read_entry(&mut self.client, "function", "maintain");
        assert_eq!(entry.map(|entry| entry.created).unwrap_or_default(), sorted, "the ledger");
        let after = State::read(&mut self.client);
        effect.compare(before, &after, false);
        self.tally.note(&effect, &wanted, false);
        let plan = self.plan(&after, policy);
        let left: Vec<&str> =
            plan.of("create").iter().map(|step| step.partition.as_str()).collect();
        let expected = if policy.automatic_creation { effect.failed_names() } else { vec![] };
        assert_eq!(left, expected, "what is still to be made");
        (after, plan)
    }

    fn by_worker(&mut self, before: &State, plan: &Plan, policy: &Policy) {
        let cutoff = model::cutoff(policy, self.time.month_in(policy.zone));
        let effect = Effect::of(before, plan, cutoff.as_ref());
        self.server.look(&self.database);
        let after = State::read(&mut self.client);
        effect.compare(before, &after, true);
        self.tally.note(&effect, plan, true);
        let create =
            read_entry(&mut self.client, "worker", "create").expect("a first look is noted");
        let current = self.time.month_in(policy.zone);
        effect.compare_creation(&create, (before, &after), (policy, current, self.time.text));
        let retire = read_entry(&mut self.client, "worker", "retire");
        effect.compare_retirement(retire.as_ref(), before, policy, current);
        // What is left is what has failed, and what lies where a detach that was begun kept the range taken.
        let left = self.plan(&after, policy);
        if effect.compare_rest(before, &after, &left) {
            self.server.look(&self.database);
            let settled = State::read(&mut self.client);
            let left = self.plan(&settled, policy);
            let made = |step: &&model::Step| !effect::fails(&settled, step);
            assert_eq!(left.of("create").into_iter().find(made), None, "it can be made");
        }
        if create.status == "failed" {
            // Or the worker would come back by itself, in the middle of another catalog.
            self.run("DELETE FROM meshhook_events.policy");
            self.server.look(&self.database);
        }
    }
}
