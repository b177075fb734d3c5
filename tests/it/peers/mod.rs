//! Clients, services and proxies that nobody here wrote, on both sides of the gateway. What is Python
//! lies in `tests/peers` and runs with the packages that `make tools` installs.

mod h2spec;
pub(crate) mod python;
