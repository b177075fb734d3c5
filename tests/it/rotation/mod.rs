//! Rotations that are announced: by the real program, to a receiver that a library of others verifies
//! signatures for.

mod announcing;
mod receiver;
