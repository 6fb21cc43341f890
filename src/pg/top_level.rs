//! Commands that PostgreSQL allows at the top level alone, such as `DETACH PARTITION … CONCURRENTLY`: run in a
//! worker as if a client had sent them.

use std::ffi::{CStr, c_long};

use pgrx::{PgSqlErrorCode as Sqlstate, ereport, pg_sys};

/// Runs exactly one utility statement through a portal.
///
/// It may commit and begin transactions inside, so nothing that it reads afterwards may lie in a transaction's
/// memory: all of it is allocated in the current context, which must outlive the transaction. It is current
/// during the run too, because pgrx copies a caught error into the context that was.
///
/// To be called inside a transaction without an active snapshot: the portal takes its own, and a statement
/// that commits must not find one of ours. The sequence is that of `exec_simple_query` in `tcop/postgres.c`.
pub fn run(sql: &CStr) {
    // SAFETY: `sql` lives during the call, and so does the current memory context, in which trees, plans and
    // receiver are allocated. Lists are read after their length was looked at. The portal is dropped at the
    // end, or by the abort that follows an error. No Rust value that needs dropping is alive meanwhile.
    unsafe {
        let text = sql.as_ptr();
        let statements = pg_sys::pg_parse_query(text);
        if statements.is_null() || (*statements).length != 1 {
            ereport!(ERROR, Sqlstate::ERRCODE_SYNTAX_ERROR, "exactly one statement expected");
        }
        let statement = (*(*statements).elements).ptr_value.cast::<pg_sys::RawStmt>();
        let tag = pg_sys::CreateCommandTag((*statement).stmt);
        let needs_snapshot = pg_sys::analyze_requires_snapshot(statement);
        if needs_snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(
            statement,
            text,
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        let plans = pg_sys::pg_plan_queries(queries, text, 0, std::ptr::null_mut());
        if needs_snapshot {
            pg_sys::PopActiveSnapshot();
        }
        let portal = pg_sys::CreatePortal(c"".as_ptr(), true, true);
        (*portal).visible = false;
        pg_sys::PortalDefineQuery(portal, std::ptr::null(), text, tag, plans, std::ptr::null_mut());
        pg_sys::PortalStart(portal, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let nowhere = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        let mut completion = pg_sys::QueryCompletion::default();
        let (all, at_top_level) = (c_long::MAX, true);
        pg_sys::PortalRun(
            portal,
            all,
            at_top_level,
            // Whether the portal is run to its end at once; gone in 18.
            #[cfg(not(feature = "pg18"))]
            true,
            nowhere,
            nowhere,
            &raw mut completion,
        );
        pg_sys::PortalDrop(portal, false);
    }
}
