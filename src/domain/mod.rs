//! The decisions: plain Rust that knows neither PostgreSQL nor the clock, tested in milliseconds.
//!
//! Everything the decisions need comes in as values ([`plan::Facts`], [`policy::Policy`]), everything
//! they want done goes out as values ([`plan::Creation`], [`plan::Retirement`]).

#![forbid(unsafe_code)]

pub mod archive;
pub mod blocker;
pub mod bound_text;
pub mod calendar;
pub mod csv;
pub mod digest;
pub mod growth;
pub mod instant;
pub mod maintenance;
pub mod migration;
pub mod name;
pub mod partition;
pub mod plan;
pub mod policy;
pub mod queue;
pub mod retry;
pub mod schedule;
pub mod seal;
