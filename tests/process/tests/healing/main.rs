//! Whatever ends a worker, and whatever users do between its steps: the next worker goes on, and drops nothing that isn't its
//! own.

mod hands;
mod points;
mod stage;
