//! Connections that a balancer passes on, with a PROXY header before all else.

use tokio::io::AsyncWriteExt;

use super::harness::{House, Plan, SHORT, exchange, read_to_close, run};
use crate::listen::{Clients, Timeouts};
use crate::wire::Network;

const WHO: &str = "GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn behind(balancer: &str) -> Plan {
    let network = Network { address: balancer.parse().expect("an address"), bits: 32 };
    Plan { proxy_protocol: vec![network], ..Plan::default() }
}

#[test]
fn the_peer_is_whom_a_trusted_balancer_speaks_for() {
    run(async {
        let house = House::open(behind("127.0.0.1"));
        for (header, address) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "192.0.2.7:4711"),
            ("PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "[2001:db8::7]:4711"),
            ("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x7f\0\0\x01\x12\x67\x01\x02", "1.2.3.4:4711"),
        ] {
            let answer = exchange(house.connect().await, &format!("{header}{WHO}")).await;
            assert!(answer.contains(&format!(" {address}")), "{answer}");
        }
        let own = exchange(house.connect().await, &format!("PROXY UNKNOWN\r\n{WHO}")).await;
        assert!(own.contains(" 127.0.0.1:"), "{own}");
        assert_eq!(house.metrics.bad_introductions.get(), 0);
    });
}

#[test]
fn without_its_header_a_balancers_connection_is_closed_without_a_word() {
    run(async {
        let house = House::open(behind("127.0.0.1"));
        let twice = format!("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\nPROXY TCP4 6.6.6.6 10.0.0.1 1 2\r\n{WHO}");
        for text in [WHO, "PROXY TCP4 nobody 10.0.0.1 1 2\r\n", "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\nGET"] {
            assert_eq!(exchange(house.connect().await, text).await, "", "{text}");
        }
        assert_eq!(house.metrics.bad_introductions.get(), 3);
        let answer = exchange(house.connect().await, &twice).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
}

#[test]
fn a_header_that_never_comes_whole_is_not_waited_for() {
    run(async {
        let timeouts = Timeouts { first_byte: SHORT, ..Timeouts::default() };
        let house = House::open(Plan { timeouts, ..behind("127.0.0.1") });
        assert_eq!(exchange(house.connect().await, "PROXY TCP4 192.0").await, "");
        assert_eq!(read_to_close(house.connect().await).await, "");
        assert_eq!(house.timeouts("first_byte"), 2);
    });
}

#[test]
fn who_a_balancer_speaks_for_is_counted_and_not_the_balancer() {
    run(async {
        let plan = behind("127.0.0.1");
        let trusted = plan.proxy_protocol.clone();
        let clients = Clients { connections_max: 1, trusted, ..Clients::default() };
        let house = House::open(Plan { clients, ..plan });
        let said = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n");
        let mut open = Vec::new();
        for client in ["192.0.2.7", "192.0.2.8"] {
            let mut stream = house.connect().await;
            stream.write_all(said(client).as_bytes()).await.expect("a socket");
            stream.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("a socket");
            stream.readable().await.expect("an answer");
            open.push(stream);
        }
        let own = exchange(house.connect().await, &format!("PROXY UNKNOWN\r\n{WHO}")).await;
        assert!(own.contains(" 127.0.0.1:"), "{own}");
        let refused = exchange(house.connect().await, &format!("{}{WHO}", said("192.0.2.7"))).await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        assert_eq!((house.metrics.refused_of_client.get(), house.metrics.accepted.get()), (1, 3));
        drop(open);
        while house.metrics.open.get() > 0 {
            tokio::task::yield_now().await;
        }
        let again = exchange(house.connect().await, &format!("{}{WHO}", said("192.0.2.7"))).await;
        assert!(again.contains(" 192.0.2.7:4711"), "{again}");
    });
}

#[test]
fn nobody_else_can_speak_for_another() {
    run(async {
        let house = House::open(behind("192.0.2.1"));
        let own = exchange(house.connect().await, WHO).await;
        assert!(own.contains(" 127.0.0.1:"), "{own}");
        let forged = exchange(house.connect().await, &format!("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n{WHO}")).await;
        assert!(forged.starts_with("HTTP/1.1 400 "), "{forged}");
    });
}
