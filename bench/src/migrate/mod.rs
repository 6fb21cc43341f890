//! What clients feel, and what it costs, while a plain table becomes partitions: ours beside a copy in a maintenance window.

mod clients;
mod data;
mod journal;
mod measure;
mod methods;
mod table;
mod watch;

use process::Server;

use crate::options::Options;
use measure::Seen;
use methods::Method;

/// What was seen of each method.
type AllSeen = [Vec<Seen>; Method::ALL.len()];

/// Loads the events once, and lets each method migrate copies of them, in turn. A row that is lost, or is not as the clients
/// left it, ends the comparison.
pub fn compare(server: &Server, options: &Options, report: &mut String) {
    let base = data::load(server, options.events());
    let mut seen = AllSeen::default();
    for round in 0..options.migrations() {
        measure::round(server, &base, round, &mut seen);
    }
    server.run("postgres", &format!("DROP DATABASE {} WITH (FORCE)", data::BASE));
    table::write(report, &base, &seen);
}
