//! Expressions stored in the catalogs about one relation, written out for another of the same columns.

use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
use pgrx::{PgRelation, pg_sys};

use crate::error::{Error, Result};

/// A function that `pg_sys` doesn't have. It raises errors, so it is called behind the guard that turns
/// them into unwinding.
mod c {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        pub fn map_partition_varattnos(
            expression: *mut pg_sys::List,
            from_number: c_int,
            to: pg_sys::Relation,
            from: pg_sys::Relation,
        ) -> *mut pg_sys::List;
    }
}

/// A single relation's columns are stored as those of the first entry of a range table.
const FIRST_RELATION: c_int = 1;

/// Writes out `tree`, an expression stored about `from`, as one about `to`.
///
/// Columns are found by their names, so that numbers which differ (columns once dropped, another order)
/// do no harm, and where the text names its relation, inside a subquery, it names `to`.
///
/// # Errors
///
/// The server raises one where a column is missing.
pub fn written_for(from: pg_sys::Oid, to: pg_sys::Oid, tree: &str) -> Result<String> {
    let tree = CString::new(tree).map_err(|e| Error::Internal(e.to_string()))?;
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: both are relations; the guards close them, and the locks stay until the transaction ends.
    let (from, to_relation) =
        unsafe { (PgRelation::with_lock(from, lock), PgRelation::with_lock(to, lock)) };
    let name = CString::new(to_relation.name()).map_err(|e| Error::Internal(e.to_string()))?;
    // SAFETY: the tree was written by nodeToString, and read back is a node; a list of it is what the
    // mapping takes and gives. The text is palloc'd, and copied.
    unsafe {
        let node = pg_sys::stringToNode(tree.as_ptr());
        let list =
            pg_sys::list_make1_impl(pg_sys::NodeTag::T_List, pg_sys::ListCell { ptr_value: node });
        // Where the numbers agree there is nothing to map, and a reference to the whole row stays one.
        let mapped = if have_same_columns(&from, &to_relation) {
            list
        } else {
            pg_guard_ffi_boundary(|| {
                c::map_partition_varattnos(
                    list,
                    FIRST_RELATION,
                    to_relation.as_ptr(),
                    from.as_ptr(),
                )
            })
        };
        let node = (*(*mapped).elements).ptr_value.cast::<pg_sys::Node>();
        let context = pg_sys::deparse_context_for(name.as_ptr(), to);
        let text = pg_sys::deparse_expression(node, context, false, false);
        Ok(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// Whether every number stands for a column of the same name in both.
fn have_same_columns(a: &PgRelation, b: &PgRelation) -> bool {
    let columns = |relation: &PgRelation| {
        let columns = relation.tuple_desc();
        columns.iter().map(|c| (c.attisdropped, c.name().to_owned())).collect::<Vec<_>>()
    };
    columns(a) == columns(b)
}
