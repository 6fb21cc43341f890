//! A harness for tests that need whole PostgreSQL servers: it starts, stops, kills, copies and promotes throw-away
//! clusters on unix sockets, and leaves nothing behind.
//!
//! `PG_CONFIG` names the installation to test; without it every test fails, so that none can pass by not running.
//! When the tests run as root, which PostgreSQL refuses to be, servers run as the user `postgres`.
//!
//! ```no_run
//! use process::{Mode, Server};
//!
//! let mut server = Server::builder().conf("max_connections", "20").start();
//! server.connect("postgres").batch_execute("CREATE TABLE t (i int)").unwrap();
//! server.stop(Mode::Immediate);
//! server.start();
//! ```
//!
//! Everything panics when it fails, with what the server's log says: a test has no other use for an error. What a test
//! may want to fail has a `try_` form.

mod clock;
mod cluster;
mod definition;
mod event_log;
mod figures;
mod files;
mod install;
mod migration;
mod month;
mod old_months;
mod os;
mod plain_log;
mod poll;
mod random;
mod server;
mod stage;
mod standby;
mod stops;
mod watch;

pub use event_log::{Attempt, SELDOM, fixture};
pub use figures::{figure, ms};
pub use files::SmallDisk;
pub use install::Install;
pub use migration::{Call, MIGRATE, Progress, UNDO, progress};
pub use month::Month;
pub use old_months::Notices;
pub use plain_log::{Form, OWNER};
pub use poll::{DEADLINE, poll_until};
pub use random::{Again, Random, setting};
pub use server::{Builder, Mode, PORT, Psql, Server};
pub use stops::Whose;
pub use watch::HANDFUL;
