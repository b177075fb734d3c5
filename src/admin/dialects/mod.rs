//! The same operations in other documented shapes, so that clients written against those documents work
//! unchanged: a file a dialect.

pub(super) mod flag_keys;
pub(super) mod user_keys;
