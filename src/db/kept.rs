//! Locks that one step leaves to the next of the same session: nobody gets in between the two transactions.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

use crate::db::lock::{Budget, Mode};
use crate::db::query;
use crate::error::{Error, Result};
use crate::pg::lock::KeptLock;

/// What was left by the step before.
pub struct Kept {
    locks: RefCell<Vec<KeptLock>>,
    budget: Budget,
    transaction: String,
}

thread_local! {
    /// A process of PostgreSQL has one thread.
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Leaves these locks, which the transaction has, to the next step; it goes on with their budget.
///
/// The caller takes that step at once, by [`take_over`], or calls [`let_go`].
///
/// # Errors
///
/// Where the transaction's number can't be had.
pub fn leave(locks: &[(Oid, Mode)], budget: Budget) -> Result<()> {
    let sql = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.xid::text";
    let transaction = query::read_one(sql, &[], |row| row.get(1))?
        .ok_or_else(|| Error::Internal("the transaction has no number".to_owned()))?;
    // If one of them raised an error, the abort that follows would let go of all.
    let locks = locks.iter().map(|(relation, mode)| KeptLock::keep(*relation, *mode)).collect();
    KEPT.set(Some(Kept { locks: RefCell::new(locks), budget, transaction }));
    Ok(())
}

/// What the step before has left, if it was committed and nothing was aborted since.
///
/// To be called before the transaction takes any of these locks itself.
#[must_use]
pub fn take_over() -> Option<Kept> {
    KEPT.take().filter(|kept| kept.locks.borrow().iter().all(KeptLock::is_held))
}

/// Lets go of what was left, if anything was.
pub fn let_go() {
    if let Some(kept) = take_over() {
        kept.release();
    }
}

impl Kept {
    /// Since when others wait, and how long they may.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The number of the transaction that has left them, as text.
    #[must_use]
    pub fn transaction(&self) -> &str {
        &self.transaction
    }

    /// Lets go of them, once; those of the transaction stay.
    pub fn release(&self) {
        self.locks.take().iter().for_each(KeptLock::release);
    }
}
