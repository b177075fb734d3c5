//! A service that keeps connections open: it echoes WebSockets, and answers everything else in a
//! word. Its frames are not looked at: to a proxy a WebSocket is bytes both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::wait::until;

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The service. Its threads end with the test's process.
pub(crate) struct EchoService {
    address: SocketAddr,
}

impl EchoService {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // The gateway may close a connection at any time.
                std::thread::spawn(move || serve(stream).ok());
            }
        });
        Self { address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let Some(head) = read_head(&mut reader)? else { return Ok(()) };
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            stream.write_all(AGREED.as_bytes())?;
            let mut chunk = [0; 4096];
            loop {
                match reader.read(&mut chunk)? {
                    0 => return Ok(()),
                    length => stream.write_all(&chunk[..length])?,
                }
            }
        }
        stream.write_all(ANSWER.as_bytes())?;
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// A WebSocket through the gateway.
pub(crate) struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    /// Opens one, which must be agreed to.
    pub(crate) fn open(gateway: SocketAddr, path: &str, token: &str) -> Self {
        let mut stream = TcpStream::connect(gateway).expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .expect("a request");
        let head = read_head(&mut BufReader::with_capacity(1, &stream)).expect("an answer").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        Self { stream }
    }

    /// Sends a word and has it back.
    pub(crate) fn echoes(&mut self) -> bool {
        let mut back = [0; 4];
        self.stream.write_all(b"ping").is_ok() && self.stream.read_exact(&mut back).is_ok() && &back == b"ping"
    }

    /// Waits until the gateway has cut it.
    pub(crate) fn until_cut(&mut self) {
        until("the WebSocket to be cut", || !self.echoes());
    }
}
