//! A plain table becomes partitions while it is in use, and a plain table again: nothing of it is lost, nobody fails, and
//! whatever stops it, it goes on.

mod altered;
mod both_forms;
mod bystander;
mod callers;
mod calls;
mod crash;
mod differential;
mod disk;
mod holders;
mod model;
mod moment;
mod observer;
mod phases;
mod refusals;
mod shapes;
mod snapshots;
mod stage;
mod users;
mod writer;
