//! Names of targets whose addresses change, by a resolver that the test plays.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connect::{AnyLink, Connector};
use super::link::{Asked, Dial, Endpoint, Upload};
use super::{Pool, Service, Standings};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::proxy::metrics::{PoolCells, UpstreamCells};
use crate::proxy::settings::{Speaks, Target, Upstream};
use crate::wire::Transfer;

/// The real way to connect, and names that the test says.
#[derive(Debug)]
struct Named {
    connector: Connector,
    addresses: RefCell<Option<Vec<SocketAddr>>>,
    asked: Cell<usize>,
    answers: watch::Sender<bool>,
}

impl Dial for Named {
    type Link = AnyLink;

    async fn dial(&self, to: Endpoint<'_>) -> io::Result<AnyLink> {
        self.connector.dial(to).await
    }

    async fn look_up(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, "service.example");
        self.asked.set(self.asked.get() + 1);
        self.answers.subscribe().wait_for(|answers| *answers).await.expect("the sender is here");
        self.addresses.borrow().clone().ok_or_else(|| io::Error::other("no answer"))
    }
}

/// A service of one name, asked for by one worker.
struct House {
    dial: Rc<Named>,
    clock: Arc<ManualClock>,
    service: Service<Named>,
    cells: Arc<PoolCells>,
    tasks: RefCell<JoinSet<()>>,
}

const RESOLVE_EVERY: Duration = Duration::from_secs(10);
const AGE: Duration = Duration::from_secs(60);

impl House {
    fn new() -> Self {
        let dial = Rc::new(Named {
            connector: Connector::default(),
            addresses: RefCell::default(),
            asked: Cell::default(),
            answers: watch::Sender::new(true),
        });
        let target = Target {
            authority: "service.example:80".to_owned(),
            host: "service.example".to_owned(),
            port: 80,
            address: None,
            speaks: Speaks::Http,
        };
        let mut upstream = Upstream::new(vec![target.clone()]);
        upstream.resolve_every = RESOLVE_EVERY;
        upstream.connection_age = AGE;
        upstream.pool_idle = Duration::from_secs(86_400);
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1)));
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let (standings, cells) = (Arc::new(Standings::default()), Arc::new(PoolCells::default()));
        let standing = standings.of("service", &target.authority, false);
        let pool = Pool::new(target, None, standing, Rc::clone(&dial), Arc::clone(&shared), Arc::clone(&cells));
        let service =
            Service::new(upstream, vec![pool], standings, shared, Arc::new(UpstreamCells::default()), Rc::default());
        Self { dial, clock, service, cells, tasks: RefCell::default() }
    }

    /// An address at which `name` answers.
    async fn serve(&self, name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        self.tasks.borrow_mut().spawn_local(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn_local(answer(stream, name));
            }
        });
        address
    }

    fn say(&self, addresses: Option<Vec<SocketAddr>>) {
        *self.dial.addresses.borrow_mut() = addresses;
    }

    /// Lets time pass, and the worker look after its pools.
    async fn pass(&self, span: Duration) {
        let asked = self.dial.asked.get();
        self.clock.advance(span);
        self.service.sweep();
        while self.dial.asked.get() == asked {
            tokio::task::yield_now().await;
        }
        // What was answered is taken in within a turn.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// Who answers; nobody where the request fails.
    async fn who(&self) -> String {
        let mut request = Request::new(Upload::Empty);
        *request.method_mut() = Method::GET;
        request.headers_mut().insert("host", "service.example".parse().expect("a value"));
        let transfer = Transfer::default();
        transfer.end();
        let Ok(exchange) = self.service.send(Box::new(Asked::of(request)), &transfer, false, None).await else {
            return "nobody".to_owned();
        };
        let name = exchange.response.into_body().collect().await.expect("an answer").to_bytes();
        exchange.lease.give_back();
        String::from_utf8(name.to_vec()).expect("text")
    }
}

async fn answer(mut stream: TcpStream, name: &'static str) {
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        head.extend_from_slice(&chunk[..count]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn in_house<F: Future<Output = ()>>(test: impl FnOnce(House) -> F) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test(House::new())).await.expect("the test hangs");
    });
}

#[test]
fn a_name_that_moves_is_followed_once_its_connections_have_had_their_time() {
    in_house(async |house| {
        let (old, new) = (house.serve("old").await, house.serve("new").await);
        house.say(Some(vec![old]));
        assert_eq!(house.who().await, "old");
        house.say(Some(vec![new]));
        house.pass(RESOLVE_EVERY).await;
        assert_eq!(house.who().await, "old", "a connection that is good is used");
        house.pass(AGE).await;
        assert_eq!(house.who().await, "new");
        assert_eq!(house.dial.asked.get(), 3);
        // One that is closed earlier is replaced by one to the new address.
        house.say(Some(vec![old]));
        house.pass(RESOLVE_EVERY).await;
        assert_eq!(house.who().await, "new");
    });
}

#[test]
fn where_a_name_cannot_be_looked_up_its_last_addresses_stay() {
    in_house(async |house| {
        let address = house.serve("there").await;
        house.say(Some(vec![address]));
        assert_eq!(house.who().await, "there");
        for nothing in [None, Some(Vec::new())] {
            house.say(nothing);
            for _ in 0..3 {
                house.pass(AGE).await;
                assert_eq!(house.who().await, "there");
            }
        }
        assert_eq!(house.cells.lookups_failed.read(), 6);
        // Each had its own connection: the one before was too old.
        assert_eq!(house.cells.open.read(), 1);
    });
}

#[test]
fn a_name_that_was_never_known_is_asked_for_by_one_request_at_a_time() {
    in_house(async |house| {
        assert_eq!(house.who().await, "nobody");
        house.say(Some(vec![house.serve("there").await]));
        house.dial.answers.send_replace(false);
        let asks = async { tokio::join!(house.who(), house.who(), house.who(), house.who()) };
        let answers = async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            assert_eq!(house.dial.asked.get(), 2);
            house.dial.answers.send_replace(true);
        };
        let ((one, two, three, four), ()) = tokio::join!(asks, answers);
        assert!([one, two, three, four].iter().all(|who| who == "there"));
        assert_eq!(house.dial.asked.get(), 2);
    });
}

#[test]
fn an_address_that_does_not_answer_leaves_the_request_to_the_others() {
    in_house(async |house| {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        house.say(Some(vec![gone, house.serve("there").await]));
        for _ in 0..4 {
            assert_eq!(house.who().await, "there");
            house.pass(AGE).await;
        }
    });
}
