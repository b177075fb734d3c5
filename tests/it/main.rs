//! The one test binary: the real program in a fresh folder, seen from outside; the floors of its
//! source; and the docs held against the code.
//!
//! Each module says `cfg(test)` because clippy's leave to unwrap, index and panic in tests looks
//! for that word, and an integration test has it nowhere else.

#[cfg(test)]
mod docs;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod layers;

#[cfg(test)]
mod admin;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod key_life;
#[cfg(test)]
mod odd;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod request;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod scan;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod sync;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstream;
