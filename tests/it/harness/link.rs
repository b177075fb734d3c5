//! The network between a gateway and a PostgreSQL server, and what may become of it: bytes that are held, connections
//! that are reset, an answer that stops in the middle of a row, a commit whose answer is lost.
//!
//! It knows as much of the protocol as tells one message from the next, in clear text alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::wait::Stopwatch;

/// What the network does to whoever uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing comes through, and what was sent arrives once the fault is over.
    Held,
    /// Every connection is reset, and so is every new one.
    Refused,
    /// What the server tells on its own (NOTIFY) is lost; all else comes through.
    Deaf,
    /// One answer stops half-way through a row, and its connection is stuck from there on.
    RowHeld,
    /// One COMMIT of a change is lost on its way to the server, with its connection.
    CommitLost,
    /// One COMMIT of a change is done, and its answer is lost, with its connection.
    AnswerLost,
    /// One COMMIT of a change is stuck on its way to the server.
    CommitHeld,
    /// One COMMIT of a change is done, and its answer is stuck.
    AnswerHeld,
    /// After so many messages, in either direction, the connection of the next is reset.
    CutAfter(usize),
}

/// A way to a server, which faults can be put on. Its connections end with it.
pub(crate) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Where the server is.
    server: SocketAddr,
    fault: Option<Fault>,
    /// How often the fault was met.
    met: usize,
    /// Since a message of the server's came through.
    silent: Stopwatch,
    ended: bool,
    /// The client's and the server's end of each connection.
    open: BTreeMap<u64, [TcpStream; 2]>,
    /// Connections on which nothing moves.
    stuck: BTreeSet<u64>,
    /// Connections with a transaction that changes keys.
    changing: BTreeSet<u64>,
    /// Connections on which such a transaction is being committed.
    committing: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    IsLost,
    /// One half now, the other once the connection is free again.
    IsHalved,
    /// The connection is no more.
    Ends,
}

impl Link {
    /// A way to a server of this machine.
    pub(crate) fn to(port: u16) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = socket.local_addr().expect("a bound socket");
        let state = State {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            fault: None,
            met: 0,
            silent: Stopwatch::start(),
            ended: false,
            open: BTreeMap::new(),
            stuck: BTreeSet::new(),
            changing: BTreeSet::new(),
            committing: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&shared, &socket))
        };
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Where the server seems to be.
    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where its database seems to be.
    pub(crate) fn url(&self) -> String {
        format!("postgres://keyward@127.0.0.1:{}/keyward", self.port())
    }

    /// From here on this is wrong, and nothing else.
    pub(crate) fn suffer(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.recover();
        state.fault = Some(fault);
        if fault == Fault::Refused {
            state.reset_all();
        }
        self.shared.changed.notify_all();
    }

    /// Nothing is wrong any more, and what was held goes on.
    pub(crate) fn heal(&self) {
        self.shared.lock().recover();
        self.shared.changed.notify_all();
    }

    /// Resets every connection that there is.
    pub(crate) fn reset(&self) {
        self.shared.lock().reset_all();
        self.shared.changed.notify_all();
    }

    /// Leads to another server of this machine, as an address does that is moved: connections to the old are reset.
    pub(crate) fn move_to(&self, port: u16) {
        let mut state = self.shared.lock();
        state.server.set_port(port);
        state.reset_all();
        self.shared.changed.notify_all();
    }

    /// How often the fault that it suffers was met.
    pub(crate) fn met(&self) -> usize {
        self.shared.lock().met
    }

    /// For how long nothing of the server's has come through.
    pub(crate) fn silent_for(&self) -> Duration {
        self.shared.lock().silent.elapsed()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ended = true;
            state.reset_all();
        }
        self.shared.changed.notify_all();
        // It looks up when somebody comes.
        let _awake = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a message, once it is its turn.
    fn meet(&self, connection: u64, way: Way, message: &[u8]) -> Fate {
        let mut state = self.lock();
        let (mut judged, mut was_held) = (None, false);
        loop {
            if state.ended || !state.open.contains_key(&connection) {
                return Fate::Ends;
            }
            if state.fault == Some(Fault::Held) {
                state.met += usize::from(!std::mem::replace(&mut was_held, true));
            } else if !state.stuck.contains(&connection) {
                let fate = match judged {
                    None => state.judge(connection, way, message),
                    Some(fate) => fate,
                };
                if !state.stuck.contains(&connection) || fate == Fate::IsHalved {
                    return fate;
                }
                judged = Some(fate);
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until a connection is no longer stuck; whether it is still there.
    fn is_free(&self, connection: u64) -> bool {
        let mut state = self.lock();
        while state.stuck.contains(&connection) && state.open.contains_key(&connection) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.open.contains_key(&connection)
    }
}

impl State {
    fn recover(&mut self) {
        self.fault = None;
        self.met = 0;
        self.stuck.clear();
        self.committing.clear();
    }

    /// A fault that strikes once did.
    fn strike(&mut self) {
        self.met += 1;
        self.fault = None;
    }

    fn reset_all(&mut self) {
        let connections: Vec<u64> = self.open.keys().copied().collect();
        connections.into_iter().for_each(|connection| self.reset(connection));
    }

    fn reset(&mut self, connection: u64) {
        for end in self.open.remove(&connection).into_iter().flatten() {
            // With this the last to let go of it sends a reset. Whoever reads from it wakes up.
            let _gone = SockRef::from(&end).set_linger(Some(Duration::ZERO));
            let _gone = end.shutdown(Shutdown::Read);
        }
        self.forget(connection);
    }

    /// One end has closed it.
    fn close(&mut self, connection: u64) {
        for end in self.open.remove(&connection).into_iter().flatten() {
            let _gone = end.shutdown(Shutdown::Both);
        }
        self.forget(connection);
    }

    fn forget(&mut self, connection: u64) {
        self.stuck.remove(&connection);
        self.changing.remove(&connection);
        self.committing.remove(&connection);
    }

    fn judge(&mut self, connection: u64, way: Way, message: &[u8]) -> Fate {
        let mut is_commit = false;
        if way == Way::ToServer && message.first() == Some(&b'Q') {
            if contains(message, b"UPDATE keyward.counter SET revision = revision + 1") {
                self.changing.insert(connection);
            }
            is_commit = message.ends_with(b"COMMIT\0") && self.changing.remove(&connection);
            if message.ends_with(b"ROLLBACK\0") {
                self.changing.remove(&connection);
            }
        }
        let is_answer = way == Way::ToClient && self.committing.contains(&connection);
        match self.fault {
            None | Some(Fault::Held) => Fate::Passes,
            Some(Fault::Refused) => {
                self.met += 1;
                self.reset(connection);
                Fate::Ends
            }
            Some(Fault::Deaf) if way == Way::ToClient && message.first() == Some(&b'A') => {
                self.met += 1;
                Fate::IsLost
            }
            Some(Fault::RowHeld) if way == Way::ToClient && message.first() == Some(&b'D') => {
                self.strike();
                self.stuck.insert(connection);
                Fate::IsHalved
            }
            Some(Fault::CommitLost) if is_commit => {
                self.strike();
                self.reset(connection);
                Fate::Ends
            }
            Some(Fault::CommitHeld) if is_commit => {
                self.strike();
                self.stuck.insert(connection);
                Fate::Passes
            }
            Some(Fault::AnswerLost | Fault::AnswerHeld) if is_commit => {
                self.committing.insert(connection);
                Fate::Passes
            }
            Some(Fault::AnswerLost) if is_answer => {
                self.strike();
                self.reset(connection);
                Fate::Ends
            }
            Some(Fault::AnswerHeld) if is_answer => {
                self.strike();
                self.stuck.insert(connection);
                Fate::Passes
            }
            Some(Fault::CutAfter(0)) => {
                self.strike();
                self.reset(connection);
                Fate::Ends
            }
            Some(Fault::CutAfter(left)) => {
                self.fault = Some(Fault::CutAfter(left - 1));
                Fate::Passes
            }
            Some(_other) => Fate::Passes,
        }
    }
}

fn contains(message: &[u8], wanted: &[u8]) -> bool {
    message.windows(wanted.len()).any(|part| part == wanted)
}

fn accept(shared: &Arc<Shared>, socket: &TcpListener) {
    for (connection, client) in (0..).zip(socket.incoming()) {
        let Ok(client) = client else { continue };
        let (server, is_refused) = {
            let state = shared.lock();
            if state.ended {
                return;
            }
            (state.server, state.fault == Some(Fault::Refused))
        };
        // Whoever finds no server is refused as by a machine without one.
        let _unset = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        if is_refused {
            shared.lock().met += 1;
            continue;
        }
        let Ok(server) = TcpStream::connect(server) else { continue };
        let _unset = SockRef::from(&client).set_linger(None);
        for end in [&client, &server] {
            end.set_nodelay(true).expect("a socket");
        }
        let again = |end: &TcpStream| end.try_clone().expect("a socket");
        shared.lock().open.insert(connection, [again(&client), again(&server)]);
        for (way, from, to) in
            [(Way::ToServer, again(&client), again(&server)), (Way::ToClient, again(&server), again(&client))]
        {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                carry(&shared, connection, way, from, to);
                shared.lock().close(connection);
                shared.changed.notify_all();
            });
        }
    }
}

/// Carries messages one way until the connection ends.
fn carry(shared: &Shared, connection: u64, way: Way, mut from: TcpStream, mut to: TcpStream) {
    let (mut waiting, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    let mut is_greeting = way == Way::ToServer;
    loop {
        let Ok(length @ 1..) = from.read(&mut chunk) else { return };
        waiting.extend_from_slice(&chunk[..length]);
        while let Some(length) = message_length(&waiting, is_greeting).filter(|length| *length <= waiting.len()) {
            let message: Vec<u8> = waiting.drain(..length).collect();
            is_greeting = false;
            let sent = match shared.meet(connection, way, &message) {
                Fate::Passes => to.write_all(&message).is_ok(),
                Fate::IsLost => true,
                Fate::IsHalved => {
                    let (first, second) = message.split_at(length / 2);
                    to.write_all(first).is_ok() && shared.is_free(connection) && to.write_all(second).is_ok()
                }
                Fate::Ends => false,
            };
            if !sent {
                return;
            }
            if way == Way::ToClient {
                shared.lock().silent = Stopwatch::start();
            }
        }
    }
}

/// How long the first message is, once enough of it is there to tell: a kind, unless it is the client's greeting, and
/// a length that counts itself.
fn message_length(bytes: &[u8], is_greeting: bool) -> Option<usize> {
    let kind = usize::from(!is_greeting);
    let length: [u8; 4] = bytes.get(kind..kind + 4)?.try_into().ok()?;
    Some(kind + usize::try_from(u32::from_be_bytes(length)).expect("a short message"))
}
