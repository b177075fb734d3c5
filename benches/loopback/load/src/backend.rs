//! The service behind the proxy: `GET /s100` is answered with 100 bytes, a POST once its body, by its
//! declared length, is here, and who asks for a WebSocket gets one on which nothing is said. Answers are made once and kept.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with, listen, sockopt};

use crate::{BACKEND, LISTENER, Outcome};

pub struct Backend {
    listeners: Vec<TcpListener>,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    answers: HashMap<usize, Rc<[u8]>>,
    buffer: Vec<u8>,
}

/// One connection of the proxy.
struct Link {
    socket: OwnedFd,
    /// The beginning of a head whose end has not come.
    head: Vec<u8>,
    /// What is missing of a request's body.
    missing: usize,
    /// What is asked for by the request whose body is coming, and whether it is a WebSocket.
    wanted: usize,
    is_upgrade: bool,
    /// Answers on their way, and how much of the first has left.
    sending: VecDeque<Rc<[u8]>>,
    sent: usize,
}

impl Backend {
    /// One service at so many addresses, from 127.0.0.1 on.
    pub fn listen(poll: &OwnedFd, port: u16, addresses: u32) -> Outcome<Self> {
        let first = u32::from(Ipv4Addr::LOCALHOST);
        let bind = |at: u32| {
            let listener = TcpListener::bind((Ipv4Addr::from(first + at), port))?;
            listen(&listener, 8192)?;
            listener.set_nonblocking(true)?;
            epoll::add(poll, &listener, EventData::new_u64(LISTENER | u64::from(at)), EventFlags::IN)?;
            Ok(listener)
        };
        let listeners = (0..addresses).map(bind).collect::<Outcome<_>>()?;
        let buffer = vec![0; 256 * 1024];
        Ok(Self { listeners, links: Vec::new(), free: Vec::new(), answers: HashMap::new(), buffer })
    }

    pub fn accept(&mut self, listener: usize, poll: &OwnedFd) -> Outcome<()> {
        loop {
            let socket = match accept_with(&self.listeners[listener], SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let at = self.free.pop().unwrap_or_else(|| {
                self.links.push(None);
                self.links.len() - 1
            });
            let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(poll, &socket, EventData::new_u64(BACKEND | at as u64), events)?;
            let link = Link {
                socket,
                head: Vec::new(),
                missing: 0,
                wanted: 0,
                is_upgrade: false,
                sending: VecDeque::new(),
                sent: 0,
            };
            self.links[at] = Some(link);
        }
    }

    pub fn on_event(&mut self, at: usize, flags: EventFlags) -> Outcome<()> {
        let Some(link) = self.links[at].as_mut() else { return Ok(()) };
        let mut open = true;
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            loop {
                match read(&link.socket, &mut self.buffer[..]) {
                    Ok(0) | Err(Errno::CONNRESET) => open = false,
                    Ok(count) => {
                        link.take(&self.buffer[..count], &mut self.answers);
                        if count == self.buffer.len() {
                            continue;
                        }
                    }
                    Err(Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
                break;
            }
        }
        if open && !link.sending.is_empty() {
            open = link.send()?;
        }
        if !open {
            self.links[at] = None;
            self.free.push(at);
        }
        Ok(())
    }
}

impl Link {
    /// Takes in what was read, and queues an answer for each request that is whole.
    fn take(&mut self, read: &[u8], answers: &mut HashMap<usize, Rc<[u8]>>) {
        let mut rest = read;
        loop {
            if self.missing > 0 {
                let count = self.missing.min(rest.len());
                self.missing -= count;
                rest = &rest[count..];
                if self.missing > 0 {
                    return;
                }
                self.answer(answers);
            }
            if rest.is_empty() {
                return;
            }
            let kept = !self.head.is_empty();
            if kept {
                self.head.extend_from_slice(rest);
            }
            let seen = if kept { &self.head[..] } else { rest };
            let Some(end) = end_of_head(seen) else {
                if !kept {
                    self.head.extend_from_slice(rest);
                }
                return;
            };
            let head = &seen[..end];
            self.wanted = wanted(head);
            self.is_upgrade = field(head, b"upgrade:").is_some();
            self.missing = if head.starts_with(b"GET ") { 0 } else { length(head).unwrap_or(0) };
            if head.starts_with(b"HEAD ") {
                self.wanted = 0;
            }
            if kept {
                let over = seen.len() - end;
                self.head.clear();
                rest = &rest[rest.len() - over..];
            } else {
                rest = &rest[end..];
            }
            if self.missing == 0 {
                self.answer(answers);
            }
        }
    }

    fn answer(&mut self, answers: &mut HashMap<usize, Rc<[u8]>>) {
        if self.is_upgrade {
            self.sending.push_back(WEBSOCKET.into());
            return;
        }
        let wanted = self.wanted;
        let answer = answers.entry(wanted).or_insert_with(|| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: be\r\nContent-Type: application/json\r\nContent-Length: {wanted}\r\n\r\n"
            );
            let mut answer = head.into_bytes();
            answer.resize(answer.len() + wanted, b'x');
            answer.into()
        });
        self.sending.push_back(Rc::clone(answer));
    }

    /// Sends what the proxy takes. Whether it is still there.
    fn send(&mut self) -> Outcome<bool> {
        while let Some(answer) = self.sending.front() {
            match write(&self.socket, &answer[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    if self.sent == answer.len() {
                        self.sending.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Where the body begins.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    // Nearly always a head and nothing else: nobody sends the next request before the answer to the last.
    if bytes.ends_with(b"\r\n\r\n") {
        return Some(bytes.len());
    }
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The declared length of a body.
pub fn length(head: &[u8]) -> Option<usize> {
    std::str::from_utf8(field(head, b"content-length:")?).ok()?.trim().parse().ok()
}

/// What a field says.
fn field<'h>(head: &'h [u8], wanted: &[u8]) -> Option<&'h [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(wanted.len())?;
        name.eq_ignore_ascii_case(wanted).then_some(value)
    })
}

/// To the key that the load side sends.
const WEBSOCKET: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What `/s<bytes>` asks for.
fn wanted(head: &[u8]) -> usize {
    let digits = head.iter().skip_while(|byte| **byte != b'/').skip(2).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
