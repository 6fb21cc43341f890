//! DROP DATABASE ends the worker in that database first: PostgreSQL waits five seconds for it, and then fails.

use std::ffi::c_char;

use pgrx::{pg_guard, pg_sys};

use crate::pg::{board, process};

/// The hook that was there before ours.
static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Puts the hook in place; to be called while libraries are preloaded.
pub fn init() {
    // SAFETY: the postmaster loads libraries one after the other, before it has any other process or thread.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "the server decides the hook's type")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    tree_is_read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server hands over a utility statement; its tag is looked at before the cast.
    unsafe {
        let utility = (*statement).utilityStmt;
        if !utility.is_null() && (*utility).type_ == pg_sys::NodeTag::T_DropdbStmt {
            make_way((*utility.cast::<pg_sys::DropdbStmt>()).dbname);
        }
    }
    // SAFETY: reads what `init` wrote before this process was forked; the arguments go on as they came.
    unsafe {
        let tree = tree_is_read_only;
        match PREVIOUS {
            Some(next) => {
                next(statement, text, tree, context, parameters, environment, receiver, completion);
            }
            None => pg_sys::standard_ProcessUtility(
                statement,
                text,
                tree,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
        }
    }
}

/// Ends our workers in the database of that name, where the caller may drop it.
///
/// # Safety
///
/// `name` is a C string.
unsafe fn make_way(name: *const c_char) {
    // SAFETY: `name` is as the caller says; the lookup needs a transaction, and a utility statement has one.
    let (database, role) = unsafe { (pg_sys::get_database_oid(name, true), pg_sys::GetUserId()) };
    if database != pg_sys::InvalidOid && owns(database, role) {
        board::workers_of(database.to_u32()).into_iter().for_each(process::terminate);
    }
}

/// Whether `role` owns a database, or may do all that its owner may.
fn owns(database: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: reads the system caches.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, role);
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role)
    }
}
