//! What a connection is doing, and until when it may take.
//!
//! Shared by the connection, its requests and its I/O. Every step moves one deadline of the connection's alarm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::credit::Credit;
use super::settings::{Settings, Timeouts};
use super::ticker::{Alarm, CoarseClock, NEVER, Slot, Tick};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Waiting for the first byte of all.
    FirstByte,
    /// Shaking hands.
    Handshake,
    /// Waiting for the rest of a head, or of an HTTP/2 preface.
    Head,
    /// Waiting for the next request.
    Idle,
    /// Answering: the handler and its bodies have timers of their own.
    Busy,
    /// Closing, and waiting for the other side to agree.
    Closing,
    /// In the hands of an upgrade.
    Upgraded,
}

impl Phase {
    const ALL: [Self; 7] =
        [Self::FirstByte, Self::Handshake, Self::Head, Self::Idle, Self::Busy, Self::Closing, Self::Upgraded];

    /// As metrics name what took too long.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::Handshake => "handshake",
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Busy => "request",
            Self::Closing => "close",
            Self::Upgraded => "upgrade",
        }
    }
}

/// HTTP/1 or HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// How an answer is taken.
#[derive(Debug)]
struct Writing {
    credit: Credit,
    blocked_since: Option<Tick>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Flow {
    /// Rings when the connection takes too long, or the listener stops.
    pub(super) alarm: Arc<Alarm>,
    coarse: CoarseClock,
    timeouts: Timeouts,
    /// The patience with what we write, and since when it is used up.
    writing: Mutex<Writing>,
    phase: AtomicU8,
    /// Requests of whose answers more is to come.
    open: AtomicU32,
    /// Bodies of HTTP/1 requests, answered or not, that have not come to their end.
    bodies: AtomicU32,
    read_bytes: AtomicU64,
    http2: AtomicBool,
    leaving: AtomicBool,
    unread: AtomicBool,
    unflushed: AtomicBool,
    eof: AtomicBool,
    /// Until when the other side may leave the connection without a request.
    idle_until: AtomicU64,
    /// When the last wait for a further request ends, and when buffers are given back; [`NEVER`] before the first.
    idle_ends: AtomicU64,
    rest_begins: AtomicU64,
}

impl Flow {
    pub(super) fn new(alarm: Arc<Alarm>, coarse: CoarseClock, settings: &Settings) -> Arc<Self> {
        let timeouts = settings.timeouts.clone();
        alarm.set(Slot::Age, coarse.after(timeouts.connection_age));
        let credit = Credit::new(timeouts.body_idle, settings.limits.rate_min);
        let flow = Self {
            alarm,
            coarse,
            timeouts,
            writing: Mutex::new(Writing { credit, blocked_since: None }),
            phase: AtomicU8::new(0),
            open: AtomicU32::new(0),
            bodies: AtomicU32::new(0),
            read_bytes: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            eof: AtomicBool::new(false),
            idle_until: AtomicU64::new(NEVER),
            idle_ends: AtomicU64::new(NEVER),
            rest_begins: AtomicU64::new(NEVER),
        };
        flow.enter(Phase::FirstByte);
        Arc::new(flow)
    }

    pub(super) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Closing)
    }

    /// Begins `phase` and its time.
    pub(super) fn enter(&self, phase: Phase) {
        let limit = match phase {
            Phase::FirstByte => self.timeouts.first_byte,
            Phase::Handshake => self.timeouts.handshake,
            Phase::Head => self.timeouts.head,
            Phase::Idle => self.timeouts.idle,
            Phase::Closing => LINGER,
            Phase::Busy | Phase::Upgraded => Duration::MAX,
        };
        self.phase.store(phase as u8, Ordering::Relaxed);
        let rests = phase == Phase::Idle && !self.http2.load(Ordering::Relaxed);
        let rest = if rests { self.coarse.after(REST_AFTER.min(self.timeouts.idle / 4)) } else { NEVER };
        self.alarm.set(Slot::Rest, rest);
        let deadline = if limit == Duration::MAX { NEVER } else { self.coarse.after(limit) };
        let waits = matches!(phase, Phase::FirstByte | Phase::Idle);
        let deadline = if waits { deadline.min(self.idle_until.load(Ordering::Relaxed)) } else { deadline };
        self.alarm.set(Slot::Phase, deadline);
        if phase == Phase::Idle {
            self.idle_ends.store(deadline, Ordering::Relaxed);
            self.rest_begins.store(rest, Ordering::Relaxed);
        }
        if phase == Phase::Upgraded {
            self.alarm.set(Slot::Write, NEVER);
            self.alarm.set(Slot::Age, NEVER);
        }
    }

    /// What came between two requests began none: it is waited for as long as it was to be before. Nothing comes
    /// before a first request.
    pub(super) fn begins_nothing(&self) {
        let ends = self.idle_ends.load(Ordering::Relaxed);
        if self.phase() == Phase::Head && ends != NEVER {
            let rest = self.rest_begins.load(Ordering::Relaxed);
            self.enter(Phase::Idle);
            self.idle_ends.store(ends, Ordering::Relaxed);
            self.rest_begins.store(rest, Ordering::Relaxed);
            self.alarm.set(Slot::Rest, rest);
            self.alarm.set(Slot::Phase, ends.min(self.idle_until.load(Ordering::Relaxed)));
        }
    }

    /// Closes once the other side has read our last answer.
    pub(super) fn linger(&self) {
        self.enter(Phase::Closing);
        self.alarm.set(Slot::Phase, self.coarse.after(LINGER_UNREAD));
    }

    /// The protocol is known: from here on its heads are awaited.
    pub(super) fn speak(&self, protocol: Protocol) {
        self.http2.store(protocol == Protocol::Http2, Ordering::Relaxed);
        if self.phase() == Phase::Handshake {
            self.enter(Phase::FirstByte);
        }
    }

    /// The listener stops: a connection without a request is waited for until `idle_until` at most.
    pub(super) fn hurry(&self, idle_until: Tick) {
        if self.idle_until.swap(idle_until, Ordering::Relaxed) != idle_until
            && matches!(self.phase(), Phase::FirstByte | Phase::Idle)
        {
            self.enter(self.phase());
        }
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// The connection takes no further requests.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.alarm.set(Slot::Age, NEVER);
        if self.is_done() {
            self.enter(Phase::Closing);
        }
    }

    /// A request begins.
    pub(super) fn begin(&self, has_body: bool) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.unread.store(has_body, Ordering::Relaxed);
        self.unflushed.store(true, Ordering::Relaxed);
        self.enter(Phase::Busy);
    }

    /// All of an answer was handed over to be written, or a request was given up.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.settle();
    }

    /// The body of an HTTP/1 request is still to come.
    pub(super) fn begin_body(&self) {
        self.bodies.fetch_add(1, Ordering::Relaxed);
    }

    /// A body was read to its end, or nobody reads it any more: the parser then closes the connection.
    pub(super) fn end_body(&self) {
        self.bodies.fetch_sub(1, Ordering::Relaxed);
        self.settle();
    }

    /// Everything that was written of an HTTP/1 answer has left.
    pub(super) fn answered(&self) {
        self.unflushed.store(false, Ordering::Relaxed);
        self.settle();
    }

    /// Whether nothing of any request is on its way, in either direction. What is written over HTTP/2 is not known
    /// here to belong to one.
    fn is_done(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
            && self.bodies.load(Ordering::Relaxed) == 0
            && (self.is_http2() || !self.unflushed.load(Ordering::Relaxed))
    }

    /// Waits for the next request, once nothing of the last is on its way. An early answer alone is not its end:
    /// what then comes is still its body, and no head.
    fn settle(&self) {
        if self.is_done() && self.phase() == Phase::Busy {
            self.enter(Phase::Idle);
            if self.leaving.load(Ordering::Relaxed) {
                self.close();
            }
        }
    }

    /// Nothing more is awaited. What is still buffered for a slow reader gets the time of a body.
    pub(super) fn close(&self) {
        self.phase.store(Phase::Closing as u8, Ordering::Relaxed);
        self.alarm.set(Slot::Rest, NEVER);
        self.alarm.set(Slot::Phase, self.coarse.after(self.timeouts.body_idle));
    }

    /// `bytes` arrived; none is the end.
    pub(super) fn on_read(&self, bytes: usize) {
        if bytes == 0 {
            self.eof.store(true, Ordering::Relaxed);
            return;
        }
        let http2 = self.http2.load(Ordering::Relaxed);
        if self.phase() == Phase::FirstByte {
            self.enter(Phase::Head);
        }
        match self.phase() {
            Phase::Idle if !http2 => self.enter(Phase::Head),
            Phase::Head if http2 => {
                // Preface and first SETTINGS have come: what follows are requests, some day.
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                if self.read_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= HTTP2_GREETING_BYTES {
                    self.enter(Phase::Idle);
                }
            }
            Phase::FirstByte | Phase::Handshake | Phase::Head | Phase::Idle => {}
            Phase::Busy | Phase::Closing | Phase::Upgraded => {}
        }
    }

    /// The other side took so many bytes.
    pub(super) fn on_write(&self, bytes: usize) {
        if self.alarm.is_set(Slot::Write) {
            self.alarm.set(Slot::Write, NEVER);
            let mut writing = self.writing.lock();
            let since = writing.blocked_since.take().unwrap_or_else(|| self.coarse.now());
            writing.credit.spend(self.coarse.now().saturating_sub(since));
            writing.credit.earn(bytes);
        }
    }

    /// The other side takes no bytes at present.
    pub(super) fn on_write_blocked(&self) {
        if !self.alarm.is_set(Slot::Write) && self.phase() != Phase::Upgraded {
            let mut writing = self.writing.lock();
            writing.blocked_since = Some(self.coarse.now());
            self.alarm.set(Slot::Write, self.coarse.after(writing.credit.left()));
        }
    }

    /// Whether bytes of ours wait for the other side to take them.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.alarm.is_set(Slot::Write)
    }

    /// Whether this deadline has passed.
    pub(super) fn is_late(&self, slot: Slot) -> bool {
        self.alarm.is_late(slot, self.coarse.now())
    }

    /// Everything that was written has left.
    pub(super) fn on_flushed(&self) {
        if self.is_write_blocked() {
            // TLS took these bytes before, and counted none of them.
            self.on_write(TLS_BUFFER_BYTES);
        }
    }

    /// Whether it has been idle for so long that its buffers are better given back: over HTTP/1, with every request
    /// answered to the last byte.
    pub(super) fn may_rest(&self) -> bool {
        self.is_late(Slot::Rest) && self.phase() == Phase::Idle && self.is_done() && !self.is_http2()
    }

    /// The answer does not wait for what the other side may still send.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Nothing that the other side has sent is left unread, or it does not matter: the connection is closed as it is.
    pub(super) fn leave_at_once(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Whether the other side may still be sending, so that closing at once would destroy our last answer.
    pub(super) fn must_linger(&self) -> bool {
        self.unread.load(Ordering::Relaxed) && !self.eof.load(Ordering::Relaxed)
    }
}

/// After how long an idle connection gives its buffers back. Making them anew costs a microsecond.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long the other side may take to agree to a close.
const LINGER: Duration = Duration::from_secs(2);

/// How long what the other side still sends is read, so that it gets to read our last answer.
const LINGER_UNREAD: Duration = Duration::from_secs(5);

/// What rustls holds back at most of what it was given.
const TLS_BUFFER_BYTES: usize = 64 * 1024;

/// The preface and the header of the SETTINGS frame after it.
const HTTP2_GREETING_BYTES: u64 = 24 + 9;
