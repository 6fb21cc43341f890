//! Archives: what was written comes back as it was; whatever goes wrong, the rows are in the partition still.

mod crash;
mod files;
mod refusals;
mod restore;
mod stage;
mod table;
