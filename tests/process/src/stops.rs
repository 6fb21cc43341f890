//! Stops: a process of a server is held just before the n-th thing that it does to certain files, or that and what follows
//! fails.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::os;
use crate::server::Server;

/// The library that is preloaded into the server's processes.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stops.so"));

// Where the fields of `struct control` of stops.c lie.
const ARMED: u64 = 0;
const PID: u64 = 4;
const LEFT: u64 = 8;
const FAULT: u64 = 12;
const HELD: u64 = 16;
const GO: u64 = 20;
const SEEN: u64 = 24;
const TITLE: u64 = 28;
const UNDER: [u64; 2] = [64, 320];
const CALLS: u64 = 576;
const SIZE: u64 = CALLS + 65536;

/// Whose calls count.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// Those of one process.
    Pid(i32),
    /// Those of the processes that have this in their title.
    Title(&'a str),
}

/// The two files of a server's stops: the library, and what it is told.
#[derive(Clone, Debug)]
pub(crate) struct Stops {
    library: PathBuf,
    control: PathBuf,
}

impl Stops {
    /// Makes the files, in a directory that the owner of clusters can enter.
    pub(crate) fn create(dir: &Path) -> Self {
        let stops = Self { library: dir.join("stops.so"), control: dir.join("stops") };
        fs::write(&stops.library, LIBRARY).expect("the library can be written");
        let control = File::create(&stops.control).expect("the file can be made");
        control.set_len(SIZE).expect("the file can be made larger");
        os::give(&stops.library);
        os::give(&stops.control);
        stops
    }

    /// What a server's environment has to have.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("PROCESS_STOPS", &self.control)]
    }

    fn file(&self) -> File {
        let file = File::options().read(true).write(true).open(&self.control);
        file.expect("the file is there")
    }

    fn set(&self, at: u64, value: i32) {
        self.file().write_all_at(&value.to_ne_bytes(), at).expect("the file can be written");
    }

    fn get(&self, at: u64) -> i32 {
        let mut bytes = [0; 4];
        self.file().read_exact_at(&mut bytes, at).expect("the file can be read");
        i32::from_ne_bytes(bytes)
    }

    fn set_text(&self, at: u64, size: usize, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        assert!(bytes.len() < size, "{text} is too long");
        bytes.resize(size, 0);
        self.file().write_all_at(&bytes, at).expect("the file can be written");
    }
}

impl Server {
    fn stops(&self) -> &Stops {
        self.own_stops().expect("the server was given stops")
    }

    /// Counts the calls of `whose` to files with one of these in their path: `calls` are let through, and the next is held
    /// just before it is made, or halfway for one that writes; or this and all that follow fail with the errno `fault`.
    ///
    /// # Panics
    ///
    /// If the server was made without [`stops`](crate::Builder::stops).
    pub fn stop_after(&self, calls: usize, whose: Whose, under: [&str; 2], fault: Option<i32>) {
        let stops = self.stops();
        self.let_go();
        let (pid, title) = match whose {
            Whose::Pid(pid) => (pid, ""),
            Whose::Title(title) => (0, title),
        };
        stops.set(PID, pid);
        stops.set_text(TITLE, 36, title);
        for (at, path) in UNDER.into_iter().zip(under) {
            stops.set_text(at, 256, path);
        }
        stops.set(LEFT, i32::try_from(calls).expect("they are few"));
        stops.set(FAULT, fault.unwrap_or(0));
        for at in [HELD, GO, SEEN] {
            stops.set(at, 0);
        }
        stops.set(ARMED, 1);
    }

    /// The process that is held.
    pub fn held(&self) -> Option<i32> {
        let held = self.stops().get(HELD);
        (held != 0).then_some(held)
    }

    /// Counts no more, and lets go of the process that is held.
    pub fn let_go(&self) {
        let stops = self.stops();
        stops.set(ARMED, 0);
        stops.set(GO, 1);
    }

    /// Counts no more; what is held stays.
    pub fn stop_no_more(&self) {
        self.stops().set(ARMED, 0);
    }

    /// The calls that were counted since the last [`stop_after`](Self::stop_after), with the names of their files: the last
    /// is the one that is held.
    pub fn calls(&self) -> Vec<String> {
        let stops = self.stops();
        let mut bytes = vec![0; usize::try_from(stops.get(SEEN)).unwrap_or(0)];
        stops.file().read_exact_at(&mut bytes, CALLS).expect("all calls fit");
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}
