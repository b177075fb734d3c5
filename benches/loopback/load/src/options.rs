//! What was asked for on the command line.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::Outcome;

#[derive(Debug)]
pub struct Options {
    /// Where the service behind the proxy listens, if it is to run here.
    pub backend: Option<u16>,
    /// At how many addresses, from 127.0.0.1 on.
    pub addresses: u32,
    /// The proxy; none where only the service is wanted.
    pub target: Option<SocketAddrV4>,
    /// The proxy's process, whose processor time is read.
    pub process: Option<u32>,
    pub connections: usize,
    pub warm: Duration,
    pub span: Duration,
    pub tls: bool,
    /// One request a connection.
    pub close: bool,
    /// TLS sessions are resumed.
    pub resume: bool,
    /// Requests a second, whether or not the last ones were answered.
    pub rate: Option<f64>,
    /// One request on each connection, and then none.
    pub idle: bool,
    /// Each request asks for a WebSocket, on which nothing is said.
    pub websocket: bool,
    /// Bytes of each answer.
    pub body: usize,
    /// Bytes of each request's body.
    pub upload: usize,
    /// The status that is expected, or the first digit of it.
    pub status: u16,
    /// Tokens, one for each request in turn.
    pub keys: Vec<String>,
}

impl Options {
    pub fn read() -> Outcome<Self> {
        let mut given: Vec<String> = std::env::args().skip(1).collect();
        let mut has = |name: &str| given.iter().position(|other| other == name).map(|at| given.remove(at)).is_some();
        let (tls, close, resume, idle) = (has("--tls"), has("--close"), has("--resume"), has("--idle"));
        let websocket = has("--websocket");
        let value = |name: &str| given.iter().position(|other| other == name).and_then(|at| given.get(at + 1));
        fn number<T: std::str::FromStr>(text: Option<&String>, usual: T) -> Outcome<T> {
            text.map_or(Ok(usual), |text| text.parse().map_err(|_| format!("{text}: not a number").into()))
        }
        let seconds = |name: &str, usual: f64| number(value(name), usual).map(Duration::from_secs_f64);
        let keys = match value("--keys") {
            Some(file) => std::fs::read_to_string(file)?.lines().take(KEYS_MAX).map(str::to_owned).collect(),
            None => vec!["none".to_owned()],
        };
        Ok(Self {
            backend: value("--backend").map(|port| port.parse()).transpose()?,
            addresses: number(value("--addresses"), 1)?,
            target: value("--target").map(|target| target.parse()).transpose()?,
            process: value("--process").map(|process| process.parse()).transpose()?,
            connections: number(value("--connections"), 64)?,
            warm: seconds("--warm", 0.5)?,
            span: seconds("--seconds", 2.0)?,
            tls,
            close,
            resume,
            rate: value("--rate").map(|rate| rate.parse()).transpose()?,
            idle,
            websocket,
            body: number(value("--body"), 100)?,
            upload: number(value("--upload"), 0)?,
            status: number(value("--status"), 200)?,
            keys,
        })
    }
}

/// As many different ones as take part: more would measure the cache of the load side.
const KEYS_MAX: usize = 20_000;
