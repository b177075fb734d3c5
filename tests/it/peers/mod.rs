//! Clients, services and proxies that nobody here wrote, on both sides of the gateway. What is Python
//! lies in `tests/peers` and runs with the packages that `make tools` installs.

mod grpc;
mod h2spec;
mod haproxy;
mod load;
mod process;
mod proxies;
pub(crate) mod python;
mod services;
mod sockets;
