//! Reading the event log: the events of a run, and what its partitions hold.

pub mod partition_count;
pub mod partition_stats;
pub mod run_events;
