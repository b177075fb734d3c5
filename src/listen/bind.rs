//! Listening sockets: one for each worker on the same address, between which the kernel shares out connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", remedy(source))]
pub struct BindFault {
    /// The address as it was asked for.
    pub address: SocketAddr,
    source: io::Error,
}

fn remedy(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it or choose another port".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted: ports below 1024 need CAP_NET_BIND_SERVICE or a port above".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Listens on `address` with one non-blocking socket for each worker. Port 0 takes a free port, the same for all.
///
/// An IPv6 address takes IPv6 alone, so `0.0.0.0` and `[::]` can be listened on together.
///
/// # Errors
/// When the address is taken, not permitted, or not of this machine.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, BindFault> {
    open(address, workers).map_err(|source| BindFault { address, source })
}

fn open(mut address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would share the port with another process of the same user in silence.
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    drop(probe);
    let mut listeners = Vec::with_capacity(workers.max(1));
    for _worker in 0..workers.max(1) {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Makes a listening socket that another process opened like one of [`bind`].
///
/// # Errors
/// When the operating system refuses an option.
pub fn adopt(listener: TcpListener) -> io::Result<TcpListener> {
    prepare(&SockRef::from(&listener))?;
    Ok(listener)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    prepare(&SockRef::from(&socket))?;
    Ok(socket)
}

fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both on Linux, which saves five system calls a connection.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(4);
    socket.set_tcp_keepalive(&keepalive)
}

/// The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let listeners = bind("127.0.0.1:0".parse().expect("an address"), 3).expect("a free port");
        let ports: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_in_use_is_named_with_a_remedy() {
        let taken = bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
        let address = taken[0].local_addr().expect("bound");
        let fault = bind(address, 2).expect_err("the port is taken").to_string();
        assert!(fault.contains(&address.to_string()) && fault.contains("stop it"), "{fault}");
    }

    #[test]
    fn both_families_can_share_a_port() {
        let four = bind("0.0.0.0:0".parse().expect("an address"), 1).expect("a free port");
        let port = four[0].local_addr().expect("bound").port();
        if let Err(fault) = bind(format!("[::]:{port}").parse().expect("an address"), 1) {
            // A machine without IPv6 is none of this test's business.
            assert_ne!(fault.source.kind(), io::ErrorKind::AddrInUse, "{fault}");
        }
    }
}
