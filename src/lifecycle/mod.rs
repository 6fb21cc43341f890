//! The use cases. SQL functions and the worker both call these; neither decides anything itself.

pub mod adopt;
pub mod archive;
pub mod context;
pub mod coverage;
pub mod create;
pub mod default_partition;
pub mod detach;
pub mod growth;
pub mod hold;
pub mod inspect;
pub mod maintain;
pub mod migrate;
pub mod needs;
pub mod plan;
pub mod replay;
pub mod restore;
pub mod retire;
pub mod seal;
pub mod seal_check;
pub mod setup;
pub mod unarchive;
pub mod verify;
