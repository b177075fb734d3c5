//! The commands, as somebody at a terminal or in a script meets them.

mod exchange;
mod keys;
mod manners;
mod remote;
mod store;
mod users;
