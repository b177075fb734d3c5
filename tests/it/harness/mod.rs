//! What the tests are told in: a [`Site`] is a folder with a configuration, a [`Gateway`] is the
//! real program serving from it, an [`Upstream`] is a service behind it that remembers what
//! reached it, and a [`Call`] is one request.
//!
//! Everything blocks, listens on free ports, waits on conditions with a deadline, and is gone
//! when it is dropped.

mod call;
mod cluster;
mod config;
mod gateway;
mod link;
mod quickstart;
mod site;
mod stream;
mod upstream;
mod wait;
mod websocket;

pub(crate) use call::{Answer, Call, Client, Connection, Http, client_config, delete, get, patch, post, put};
pub(crate) use cluster::{Care, Cluster, as_somebody, client, give, programs, version_of};
pub(crate) use config::Config;
pub(crate) use gateway::Gateway;
pub(crate) use link::{Fault, Link};
pub(crate) use quickstart::Quickstart;
pub(crate) use site::{Key, Ran, Site};
pub(crate) use upstream::{Gate, Reply, Upstream};
pub(crate) use wait::{Stopwatch, times, until};
pub(crate) use websocket::{EchoService, WebSocket};

mod tests {
    use super::*;

    #[test]
    fn an_upstream_remembers_what_a_call_sent() {
        let upstream = Upstream::answering(|request| Reply::zeros(request.body.bytes * 2).header("x-own", "1"));
        let mut connection = Connection::open(upstream.address(), None, Http::One);
        let answer = connection.send(put("/a?b").bearer("t").zeros(100_000).chunked());
        assert_eq!((answer.status, answer.body.bytes, answer.header("x-own")), (200, 200_000, Some("1")));
        assert_eq!(connection.send(post("/c").text("x")).body.bytes, 2);
        let arrived = upstream.requests();
        assert_eq!((arrived[0].target.as_str(), arrived[0].header("authorization")), ("/a?b", Some("Bearer t")));
        assert_eq!((arrived[1].method.as_str(), arrived[1].body.beginning.as_slice()), ("POST", b"x".as_slice()));
        assert_eq!(upstream.connections(), 1);
    }
}
