//! How many connections may be open at a time, in all and for one client, over all workers and listeners that
//! share the count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use prometheus::IntGauge;
use rustix::process::{Resource, getrlimit};

use super::settings::Clients;

/// The count of open connections, and its cap.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: AtomicUsize,
    /// How many each client has that is counted.
    of_clients: Mutex<HashMap<u128, usize>>,
}

impl Connections {
    /// A count with this cap. 0: half the limit of open files.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let (open, max) = (AtomicUsize::new(0), AtomicUsize::new(effective(max)));
        Arc::new(Self { open, max, of_clients: Mutex::default() })
    }

    /// Sets another cap; what is open stays open.
    pub fn set_max(&self, max: usize) {
        self.max.store(effective(max), Ordering::Relaxed);
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place, or none where the cap is reached.
    pub(super) fn enter(self: &Arc<Self>, gauge: &IntGauge) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        gauge.inc();
        Some(Place { connections: Arc::clone(self), gauge: gauge.clone(), client: None })
    }
}

fn effective(max: usize) -> usize {
    if max > 0 {
        return max;
    }
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    // A request needs another file, to its service.
    files.map_or(usize::MAX, |files| (files / 2).max(1))
}

/// The place of one open connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    gauge: IntGauge,
    /// The client that it is counted for, in a box: most are counted for nobody.
    client: Option<Box<u128>>,
}

/// A client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientIsFull;

impl Place {
    /// Counts it for the client at `address`, where clients are counted. Once for each place.
    ///
    /// # Errors
    /// When that client has as many as it may.
    pub(super) fn count_for(&mut self, address: IpAddr, clients: &Clients) -> Result<(), ClientIsFull> {
        if clients.connections_max == 0 || clients.trusted.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        let client = clients.prefix.of(address);
        let mut of_clients = self.connections.of_clients.lock();
        let open = of_clients.entry(client).or_default();
        if *open >= clients.connections_max {
            return Err(ClientIsFull);
        }
        *open += 1;
        self.client = Some(Box::new(client));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
        let Some(client) = self.client.take() else { return };
        let mut of_clients = self.connections.of_clients.lock();
        if let Some(open) = of_clients.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                of_clients.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ClientPrefix, Network};

    fn enter(connections: &Arc<Connections>, from: &str, clients: &Clients) -> Option<Place> {
        let mut place = connections.enter(&IntGauge::new("open", "Open.").expect("a gauge")).expect("no cap");
        place.count_for(from.parse().expect("an address"), clients).ok().map(|()| place)
    }

    #[test]
    fn a_client_has_as_many_as_it_may_and_keeps_nobody_else_out() {
        let connections = Connections::new(100);
        let clients = Clients { connections_max: 2, ..Clients::default() };
        let first = enter(&connections, "192.0.2.1", &clients).expect("the first");
        let _second = enter(&connections, "192.0.2.1", &clients).expect("the second");
        assert!(enter(&connections, "192.0.2.1", &clients).is_none());
        let _other = enter(&connections, "192.0.2.2", &clients).expect("another client");
        assert_eq!(connections.open(), 3);
        drop(first);
        let _again = enter(&connections, "192.0.2.1", &clients).expect("a place that was given back");
        assert_eq!(connections.of_clients.lock().len(), 2);
    }

    #[test]
    fn addresses_of_one_prefix_are_one_client() {
        let connections = Connections::new(100);
        let prefix = ClientPrefix { v4: 32, v6: 56 };
        let clients = Clients { connections_max: 1, prefix, trusted: Vec::new() };
        let _one = enter(&connections, "2001:db8:0:100::1", &clients).expect("the first");
        assert!(enter(&connections, "2001:db8:0:1ff::2", &clients).is_none());
        let _other = enter(&connections, "2001:db8:0:200::1", &clients).expect("another network");
    }

    #[test]
    fn who_speaks_for_many_is_not_counted_and_nobody_is_where_there_is_no_limit() {
        let connections = Connections::new(100);
        let trusted = vec![Network { address: "10.0.0.0".parse().expect("an address"), bits: 8 }];
        for clients in [Clients { connections_max: 1, trusted, ..Clients::default() }, Clients::default()] {
            let all: Vec<_> = (0..5).filter_map(|_| enter(&connections, "10.1.2.3", &clients)).collect();
            assert_eq!(all.len(), 5);
            assert!(connections.of_clients.lock().is_empty());
        }
    }
}
