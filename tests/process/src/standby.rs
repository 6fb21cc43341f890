//! Streaming standbys: copied from a running server, waited for, promoted.

use std::path::Path;

use crate::os;
use crate::poll::{DEADLINE, poll_until};
use crate::server::Server;

impl Server {
    /// Copies this server with `pg_basebackup` and starts the copy as a hot standby that streams from it.
    ///
    /// The standby has the settings of its primary as they are now, and its own socket.
    pub fn standby(&self) -> Server {
        let mut standby = self.sibling();
        self.base_backup(&standby.data());
        standby.write_conf();
        standby.start();
        standby
    }

    fn base_backup(&self, data: &Path) {
        os::output(
            os::command(self.install().program("pg_basebackup"))
                .arg("--pgdata")
                .arg(data)
                .arg("--dbname")
                .arg(self.conninfo("postgres", "postgres"))
                .args([
                    "--write-recovery-conf",
                    "--checkpoint=fast",
                    "--wal-method=stream",
                    "--no-sync",
                ]),
        );
    }

    /// Whether the server is in recovery, that is, a standby.
    pub fn in_recovery(&self) -> bool {
        self.ask("SELECT pg_is_in_recovery()")
    }

    /// Waits until this standby has replayed all that `primary` has written so far.
    pub fn catch_up_with(&self, primary: &Server) {
        let target: String = primary.ask("SELECT pg_current_wal_lsn()::text");
        let reached =
            format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{target}'::pg_lsn, false)");
        let mut client = self.connect("postgres");
        poll_until(DEADLINE, || {
            let row = client.query_one(&reached, &[]).expect("a standby answers");
            row.get::<_, bool>(0).then_some(())
        })
        .unwrap_or_else(|| panic!("the standby did not reach {target}\n{}", self.log()));
    }

    /// Makes this standby a primary, and waits until it is one.
    pub fn promote(&self) {
        let asked: bool = self.ask("SELECT pg_promote(wait => false)");
        assert!(asked, "pg_promote failed\n{}", self.log());
        poll_until(DEADLINE, || (!self.in_recovery()).then_some(()))
            .unwrap_or_else(|| panic!("the standby was not promoted\n{}", self.log()));
    }
}
