//! Memory that is given back at the end of a piece of work, however much it asks for.

use pgrx::pg_sys;

/// Runs `work` with a memory context of its own, which is deleted then: for one of many pieces, each of which hands values to
/// the server. Nothing that the server has allocated may be in the result.
pub fn in_scratch<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: a child of the current context, which outlives it; after an error the abort goes back and deletes it with that.
    let (before, scratch) = unsafe {
        let scratch = pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurrentMemoryContext,
            c"pg_meshhook_events scratch".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        (pg_sys::MemoryContextSwitchTo(scratch), scratch)
    };
    let result = work();
    // SAFETY: `work` has gone back to the context that it began in, and left nothing of it behind.
    unsafe {
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextDelete(scratch);
    }
    result
}
