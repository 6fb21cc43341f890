//! The databases of the cluster, read without being connected to one.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A database that may be maintained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// A half-dropped database has this connection limit (`DATCONNLIMIT_INVALID_DB`).
const INVALID_DATABASE: i32 = -2;

/// The scan of pg_database, with its transaction; ended when dropped.
struct Scan {
    relation: pg_sys::Relation,
    scan: pg_sys::TableScanDesc,
}

impl Scan {
    fn begin() -> Self {
        // SAFETY: outside a transaction; a process without a database can read shared catalogs. The
        // snapshot is what the autovacuum launcher takes before the same scan (get_database_list).
        unsafe {
            pg_sys::StartTransactionCommand();
            pg_sys::GetTransactionSnapshot();
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
            let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
            Self { relation, scan }
        }
    }

    /// The next row, good until the call after.
    fn next(&mut self) -> Option<&pg_sys::FormData_pg_database> {
        // SAFETY: the scan is open; the row's fixed part starts at t_hoff (GETSTRUCT in C).
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let tuple = pg_sys::heap_getnext(self.scan, forward).as_ref()?;
            let header = tuple.t_data;
            header
                .cast::<u8>()
                .add(usize::from((*header).t_hoff))
                .cast::<pg_sys::FormData_pg_database>()
                .as_ref()
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The abort that follows an error releases all of it.
            return;
        }
        // SAFETY: ends what begin() began, in reverse. table_endscan() is inline in C: it calls the
        // access method, which every relation with storage has.
        unsafe {
            if let Some(end) = (*(*self.relation).rd_tableam).scan_end {
                end(self.scan);
            }
            pg_sys::table_close(self.relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            pg_sys::CommitTransactionCommand();
        }
    }
}

/// The databases that allow connections and are no templates, by OID.
#[must_use]
pub fn connectable() -> Vec<Database> {
    let mut databases = Vec::new();
    let mut scan = Scan::begin();
    while let Some(row) = scan.next() {
        if row.datallowconn && !row.datistemplate && row.datconnlimit != INVALID_DATABASE {
            // SAFETY: a NameData always ends with NUL.
            let name = unsafe { CStr::from_ptr(row.datname.data.as_ptr()) };
            databases.push(Database {
                oid: row.oid.to_u32(),
                name: name.to_string_lossy().into_owned(),
            });
        }
    }
    drop(scan);
    databases.sort_by_key(|database| database.oid);
    databases
}
