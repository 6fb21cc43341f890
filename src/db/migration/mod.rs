//! A migration between a plain table and partitions: its state, the shadow table, the copying, the swap of names.

pub mod capture;
pub mod compare;
pub mod copy;
pub mod definition;
pub mod dependents;
pub mod queue;
pub mod shadow;
pub mod state;
pub mod suitable;
pub mod swap;

/// The name of the table that is built beside the one in use.
pub const SHADOW: &str = "workflow_events_shadow";

/// The name of the table that was replaced.
pub const OLD: &str = "workflow_events_old";
