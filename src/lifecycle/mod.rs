//! The use cases. SQL functions and the worker both call these; neither decides anything itself.

pub mod adopt;
pub mod context;
pub mod create;
pub mod inspect;
pub mod maintain;
pub mod retire;
pub mod setup;
pub mod verify;
