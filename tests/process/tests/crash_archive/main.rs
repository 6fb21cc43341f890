//! Whatever ends on the way of a month into its archive and back, and wherever: its rows are in the partition, or in an
//! archive that is whole, and the next run completes it.
//!
//! What a crash leaves is what is on disk. So a process is ended just before each thing that it does to files of archives and
//! to the write-ahead log: between two of those, a crash leaves the same.

mod faults;
mod function;
mod point;
mod restore;
mod stage;
mod wiring;
mod worker;
