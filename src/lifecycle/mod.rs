//! The use cases. SQL functions and the worker both call these; neither decides anything itself.

pub mod adopt;
pub mod context;
pub mod coverage;
pub mod create;
pub mod default_partition;
pub mod detach;
pub mod inspect;
pub mod maintain;
pub mod needs;
pub mod plan;
pub mod retire;
pub mod setup;
pub mod verify;
