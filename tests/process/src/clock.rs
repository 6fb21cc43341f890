//! A server's wall clock, which a test can move while the server runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::os;
use crate::server::Server;

/// The library that is preloaded into the server's processes.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clock.so"));

/// The two files of a clock: the library, and by how many microseconds it is ahead of the real time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Makes the files of a clock that shows the real time, in a directory that the owner of clusters can enter.
    pub(crate) fn create(dir: &Path) -> Self {
        let clock = Self { library: dir.join("clock.so"), offset: dir.join("clock") };
        fs::write(&clock.library, LIBRARY).expect("the library can be written");
        fs::write(&clock.offset, 0_i64.to_ne_bytes()).expect("the offset can be written");
        os::give(&clock.library);
        os::give(&clock.offset);
        clock
    }

    /// What a server's environment has to have.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("PROCESS_CLOCK", &self.offset)]
    }

    fn offset_us(&self) -> i64 {
        let bytes = fs::read(&self.offset).expect("the offset can be read");
        i64::from_ne_bytes(bytes.try_into().expect("the offset is one number"))
    }

    fn set_offset_us(&self, offset: i64) {
        // In place: the processes have mapped this very file. Eight bytes are written at once.
        let file = File::options().write(true).open(&self.offset).expect("the offset is there");
        file.write_all_at(&offset.to_ne_bytes(), 0).expect("the offset can be written");
    }
}

impl Server {
    fn clock(&self) -> &Clock {
        self.own_clock().expect("the server was given a clock of its own")
    }

    /// Moves the server's wall clock by so many seconds, at once and for all its processes. Timers and sleeps go on as
    /// they were.
    ///
    /// # Panics
    ///
    /// If the server was made without [`clock`](crate::Builder::clock).
    pub fn move_clock(&self, seconds: i64) {
        let clock = self.clock();
        clock.set_offset_us(clock.offset_us() + seconds * 1_000_000);
    }

    /// Moves it by so many days.
    pub fn move_clock_days(&self, days: i64) {
        self.move_clock(days * 86_400);
    }

    /// Sets it to a time, given as an SQL expression of the type `timestamptz`.
    pub fn set_clock(&self, time: &str) {
        let ahead =
            format!("SELECT (extract(epoch FROM ({time}) - clock_timestamp()) * 1000000)::bigint");
        let ahead: i64 = self.ask(&ahead);
        let clock = self.clock();
        clock.set_offset_us(clock.offset_us() + ahead);
    }
}
