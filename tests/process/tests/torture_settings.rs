//! Settings that a database, a role or the server has for reasons of its own, or to do harm: maintenance goes on.

use postgres::{Client, NoTls};
use process::{HANDFUL, Server, figure, poll_until};

/// Settings that stop, misdirect or cut short whoever obeys them.
const NASTY: [(&str, &str); 18] = [
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "1ms"),
    ("transaction_timeout", "1ms"),
    ("role", "nobody"),
    ("session_replication_role", "replica"),
    ("search_path", "trap"),
    ("TimeZone", "Asia/Tokyo"),
    ("row_security", "off"),
    ("quote_all_identifiers", "on"),
    ("local_preload_libraries", "nothing"),
    ("session_preload_libraries", "nothing"),
    ("enable_seqscan", "off"),
    ("pg_meshhook_events.lock_timeout", "1ms"),
];

/// Those that a server knows, and that may stand there.
fn nasty(server: &Server, in_file: bool) -> Vec<(&'static str, &'static str)> {
    let known = |name| match name {
        // The server itself lets nobody connect then.
        "transaction_timeout" => server.install().version() >= 17 && !in_file,
        "role" => !in_file,
        _ => true,
    };
    NASTY.into_iter().filter(|(name, _)| known(*name)).collect()
}

/// A session of the superuser that obeys none of them.
fn free(server: &Server) -> Client {
    let mut options = String::new();
    for (name, value) in [
        ("default_transaction_read_only", "off"),
        ("default_transaction_isolation", r"read\\ committed"),
        ("default_transaction_deferrable", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("transaction_timeout", "0"),
        ("role", "none"),
        ("session_replication_role", "origin"),
        ("search_path", "public"),
        ("TimeZone", "UTC"),
        ("local_preload_libraries", ""),
        ("session_preload_libraries", ""),
    ] {
        if name != "transaction_timeout" || server.install().version() >= 17 {
            options.push_str(&format!("-c {name}={value} "));
        }
    }
    let conninfo = format!("{} options='{options}'", server.conninfo("postgres", "postgres"));
    Client::connect(&conninfo, NoTls).unwrap_or_else(|error| panic!("{error:?}\n{}", server.log()))
}

/// Whether the partition is there, and holds its month in UTC.
fn is_made(session: &mut Client, partition: &str) -> bool {
    let date = partition.trim_start_matches("workflow_events_y").replace('m', "-");
    let query = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = $1";
    let rows = session.query(query, &[&partition]).unwrap();
    let bound: Option<String> = rows.first().and_then(|row| row.get(0));
    bound.is_some_and(|bound| {
        bound.starts_with(&format!("FOR VALUES FROM ('{date}-01 00:00:00+00') TO ("))
    })
}

#[test]
fn settings_of_databases_roles_and_the_server_do_not_stop_maintenance() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    server.look("postgres");
    server.run("postgres", "CREATE ROLE nobody");
    let missing = server.month(1);
    for whose in
        ["DATABASE postgres", "ROLE postgres", "ROLE postgres IN DATABASE postgres", "SYSTEM"]
    {
        let mut session = free(&server);
        session.batch_execute(&format!("DROP TABLE {missing}")).unwrap();
        for (name, value) in nasty(&server, whose == "SYSTEM") {
            let set = format!("ALTER {whose} SET {name} = '{value}'");
            session.batch_execute(&set).unwrap_or_else(|error| panic!("{set}: {error:?}"));
        }
        session.batch_execute("SELECT pg_reload_conf()").unwrap();
        session.batch_execute("SELECT meshhook_events.wake_worker()").unwrap();
        let made = poll_until(process::DEADLINE, || is_made(&mut session, &missing).then_some(()));
        assert!(made.is_some(), "ALTER {whose}\n{}", server.log());
        let last = "SELECT status FROM meshhook_events.maintenance_log WHERE origin = 'worker' ORDER BY id DESC LIMIT 1";
        let ended = poll_until(process::DEADLINE, || {
            let status: String = session.query_one(last, &[]).unwrap().get(0);
            (status != "running").then_some(status)
        });
        assert_eq!(ended.as_deref(), Some("ok"), "ALTER {whose}\n{}", server.log());
        session.batch_execute(&format!("ALTER {whose} RESET ALL")).unwrap();
        session.batch_execute("SELECT pg_reload_conf()").unwrap();
    }
    // A partition is made each time, which is told.
    let lines = server.assert_quiet(4 + HANDFUL);
    figure("settings: of database, role, both, server", "lines in the log", lines);
}

#[test]
fn settings_that_a_databases_owner_may_make_do_not_stop_maintenance() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    server.give_log("postgres", "keeper");
    server.run(
        "postgres",
        "CREATE ROLE nobody; GRANT nobody TO keeper; ALTER DATABASE postgres OWNER TO keeper",
    );
    server.look("postgres");
    let month = server.month(1);
    let mut owner = server.connect_as("postgres", "keeper");
    let mut made = Vec::new();
    for (name, value) in nasty(&server, false) {
        // He may not make them all.
        let set = format!("ALTER DATABASE postgres SET {name} = '{value}'");
        if owner.batch_execute(&set).is_ok() {
            made.push(name);
        }
    }
    assert!(made.contains(&"role") && made.len() > 10, "{made:?}");
    let mut session = free(&server);
    session
        .batch_execute(&format!("DROP TABLE {month}; SELECT meshhook_events.wake_worker()"))
        .unwrap();
    let found = poll_until(process::DEADLINE, || is_made(&mut session, &month).then_some(()));
    assert!(found.is_some(), "{}", server.log());
    let owners = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = $1";
    assert_eq!(session.query_one(owners, &[&month]).unwrap().get::<_, String>(0), "keeper");
    server.assert_quiet(HANDFUL);
}
