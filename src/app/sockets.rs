//! Listening sockets: those of the process before, those of the service manager, and for the rest
//! new ones. All are kept a second time, so that they can be handed to the process after this one.
//!
//! A socket that was handed on is never closed while somebody may be waiting in it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::error::AppError;
use crate::listen::{adopt, bind};

/// The gateway's listeners that speak clear text beside those that speak TLS.
pub(super) const CLEARTEXT: &str = "gateway_cleartext";

/// A listening socket and what it is for.
#[derive(Debug)]
pub(super) struct Named {
    /// Which listener; empty where only the address tells.
    pub(super) listener: String,
    /// The address as it was configured: the port may be 0.
    pub(super) address: SocketAddr,
    /// The socket.
    pub(super) socket: TcpListener,
}

/// Every listening socket of the process.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    are_inherited: bool,
    inherited: Vec<Named>,
    kept: Vec<Named>,
}

impl Sockets {
    /// Begins with what another process opened.
    pub(super) const fn of(inherited: Vec<Named>) -> Self {
        Self { are_inherited: !inherited.is_empty(), inherited, kept: Vec::new() }
    }

    /// Begins with what the service manager opened: `LISTEN_FDS`, as `sd_listen_fds(3)` has it.
    ///
    /// # Errors
    /// When one of them is no listening TCP socket.
    pub(super) fn of_service_manager() -> Result<Self, AppError> {
        let mut given = ListenFd::from_env();
        let mut inherited = Vec::with_capacity(given.len());
        let fault = AppError::runtime("a socket of LISTEN_FDS cannot be used: it must be a listening TCP socket");
        let read = (0..given.len()).try_for_each(|index| {
            if let Some(socket) = given.take_tcp_listener(index)? {
                inherited.push(Named { listener: String::new(), address: socket.local_addr()?, socket });
            }
            Ok(())
        });
        read.map_err(fault)?;
        Ok(Self::of(inherited))
    }

    /// The sockets of a listener, at least one for each worker. Those that another process opened
    /// are all among them: connections may be waiting in each.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(super) fn listen(
        &mut self,
        listener: &str,
        address: SocketAddr,
        workers: usize,
    ) -> Result<Vec<TcpListener>, AppError> {
        let mut sockets = self.take(|named| named.listener == listener && named.address == address);
        if sockets.is_empty() {
            sockets = self.take(|named| named.socket.local_addr().is_ok_and(|local| local == address));
        }
        let fault = || AppError::runtime("a socket of another process cannot be used");
        if sockets.is_empty() {
            let key = if listener == CLEARTEXT {
                "gateway.listen_cleartext".to_owned()
            } else {
                format!("{listener}.listen")
            };
            let fault = |fault| AppError::Listen { key, fault };
            sockets = bind(address, workers).map_err(fault)?;
        } else {
            sockets = sockets.into_iter().map(adopt).collect::<io::Result<_>>().map_err(fault())?;
        }
        let twice = |socket: &TcpListener| socket.try_clone();
        let kept = sockets.iter().map(twice).collect::<io::Result<Vec<_>>>().map_err(fault())?;
        // A new socket for a new worker would be lost with its queue, should this process not come to serve.
        let shared = sockets.iter().cycle().take(workers).skip(sockets.len()).map(twice);
        let shared = shared.collect::<io::Result<Vec<_>>>().map_err(fault())?;
        sockets.extend(shared);
        self.kept.extend(kept.into_iter().map(|socket| Named { listener: listener.to_owned(), address, socket }));
        Ok(sockets)
    }

    fn take(&mut self, wanted: impl Fn(&Named) -> bool) -> Vec<TcpListener> {
        self.inherited.extract_if(.., |named| wanted(named)).map(|named| named.socket).collect()
    }

    /// Closes what nothing listens on any more, and says so.
    pub(super) fn close_unused(&mut self) {
        for named in self.inherited.drain(..) {
            tracing::warn!(
                address = %named.address,
                "a socket was handed to this process that its configuration has no listener for: it is closed"
            );
        }
    }

    /// Whether another process opened some of them.
    pub(super) const fn are_inherited(&self) -> bool {
        self.are_inherited
    }

    /// Every socket, to be handed on.
    pub(super) fn kept(&self) -> &[Named] {
        &self.kept
    }

    /// Lets go of every socket; those that workers listen on they close by themselves.
    pub(super) fn let_go(&mut self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    fn port(socket: &TcpListener) -> u16 {
        socket.local_addr().expect("a bound socket").port()
    }

    fn handed_on(from: &Sockets) -> Sockets {
        let again = |named: &Named| Named {
            listener: named.listener.clone(),
            address: named.address,
            socket: named.socket.try_clone().expect("a file to spare"),
        };
        Sockets::of(from.kept().iter().map(again).collect())
    }

    #[test]
    fn listeners_get_their_own_sockets_back_whatever_their_ports() -> Result<(), AppError> {
        let any = LOOPBACK.parse().expect("an address");
        let mut first = Sockets::default();
        let gateway = first.listen("gateway", any, 2)?;
        let ops = first.listen("ops", any, 1)?;
        let mut second = handed_on(&first);
        assert_eq!(second.listen("ops", any, 1)?.iter().map(port).collect::<Vec<_>>(), [port(&ops[0])]);
        assert_eq!(second.listen("gateway", any, 2)?.iter().map(port).collect::<Vec<_>>(), [port(&gateway[0]); 2]);
        Ok(())
    }

    #[test]
    fn another_number_of_workers_leaves_no_socket_unserved_and_opens_none() -> Result<(), AppError> {
        let any = LOOPBACK.parse().expect("an address");
        let mut first = Sockets::default();
        assert_eq!(first.listen("gateway", any, 3)?.len(), 3);
        let mut fewer = handed_on(&first);
        assert_eq!((fewer.listen("gateway", any, 1)?.len(), fewer.kept().len()), (3, 3));
        let mut more = handed_on(&first);
        assert_eq!((more.listen("gateway", any, 5)?.len(), more.kept().len()), (5, 3));
        Ok(())
    }

    #[test]
    fn a_socket_without_a_name_is_known_by_its_address() -> Result<(), AppError> {
        let socket = TcpListener::bind(LOOPBACK).expect("a free port");
        let address = socket.local_addr().expect("a bound socket");
        let mut sockets = Sockets::of(vec![Named { listener: String::new(), address, socket }]);
        assert_eq!(sockets.listen("gateway", address, 2)?.len(), 2);
        sockets.close_unused();
        Ok(())
    }
}
