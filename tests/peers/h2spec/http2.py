"""Cases of h2spec's group `http2`, by the sections of RFC 7540."""

import struct

from .cases import case, fields
from .wire import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Code,
    Failed,
    frames,
    said,
)

UNKNOWN = 0x16


# 3.5 Connection preface


@case("http2/3.5/1", "the server's preface is its first frame", handshake=False)
def _(wire):
    wire.send(PREFACE)
    wire.set((INITIAL_WINDOW_SIZE, 65535))
    first = wire.next()
    if first.type != SETTINGS or "ACK" in first.flags:
        raise Failed(f"the first frame is {said(first)}")
    return "SETTINGS"


@case("http2/3.5/2", "a preface that is none ends the connection", handshake=False)
def _(wire):
    wire.send(b"INVALID CONNECTION PREFACE\r\n\r\n")
    return wire.ended()


# 4.1 Frame format


@case("http2/4.1/1", "a frame of an unknown type is ignored")
def _(wire):
    wire.frame(UNKNOWN, 0, 0, bytes(8))
    wire.ping()
    return wire.pong()


@case("http2/4.1/2", "flags that mean nothing are ignored")
def _(wire):
    wire.ping(flags=0x16)
    return wire.pong()


@case("http2/4.1/3", "the reserved bit is ignored")
def _(wire):
    wire.frame(PING, 0x16, 1 << 31, bytes(8))
    return wire.pong()


# 4.2 Frame size


def frame_size(wire):
    return wire.settings.get(MAX_FRAME_SIZE, 16384)


@case("http2/4.2/1", "DATA as large as may be")
def _(wire):
    wire.post()
    wire.data(1, b"x" * frame_size(wire), True)
    return wire.answered()


@case("http2/4.2/2", "DATA one byte larger than may be")
def _(wire):
    wire.post()
    wire.data(1, b"x" * (frame_size(wire) + 1), True)
    return wire.stream_error(Code.FRAME_SIZE_ERROR)


@case("http2/4.2/3", "HEADERS larger than may be")
def _(wire):
    wire.head(fields=wire.target.fields() + fields(frame_size(wire), 2))
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


# 4.3 Header compression


@case("http2/4.3/1", "a header block that breaks off")
def _(wire):
    wire.frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40")
    return wire.connection_error(Code.COMPRESSION_ERROR)


def interrupted_by_priority(wire):
    wire.frame(HEADERS, 0, 1, wire.block(wire.target.fields()))
    wire.priority(1)
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


def interrupted_by_another_head(wire):
    wire.frame(HEADERS, 0, 1, wire.block(wire.target.fields()))
    wire.head(3)
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


case("http2/4.3/2", "PRIORITY within a header block")(interrupted_by_priority)
case("http2/4.3/3", "HEADERS of another stream within a header block")(interrupted_by_another_head)


# 5.1 Stream states


@case("http2/5.1/1", "idle: DATA")
def _(wire):
    wire.data(1, b"test", True)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1/2", "idle: RST_STREAM")
def _(wire):
    wire.reset(1)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1/3", "idle: WINDOW_UPDATE")
def _(wire):
    wire.window(1, 100)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1/4", "idle: CONTINUATION")
def _(wire):
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(wire.target.fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1/5", "half-closed: DATA")
def _(wire):
    wire.head()
    wire.data(1, b"test", True)
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/5.1/6", "half-closed: HEADERS")
def _(wire):
    wire.head()
    wire.head()
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/5.1/7", "half-closed: CONTINUATION")
def _(wire):
    block = wire.block(wire.target.fields())
    wire.frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
    wire.frame(CONTINUATION, END_HEADERS, 1, block)
    return wire.stream_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


@case("http2/5.1/8", "closed by RST_STREAM: DATA")
def _(wire):
    wire.head(end=False)
    wire.reset(1)
    wire.data(1, b"test", True)
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/5.1/9", "closed by RST_STREAM: HEADERS")
def _(wire):
    wire.head(end=False)
    wire.reset(1)
    wire.head()
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/5.1/10", "closed by RST_STREAM: CONTINUATION")
def _(wire):
    wire.head(end=False)
    wire.reset(1)
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.stream_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


@case("http2/5.1/11", "closed by its end: DATA")
def _(wire):
    wire.head()
    wire.answered()
    wire.data(1, b"test", True)
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/5.1/12", "closed by its end: HEADERS")
def _(wire):
    wire.head()
    wire.answered()
    wire.head()
    return wire.connection_error(Code.STREAM_CLOSED)


@case("http2/5.1/13", "closed by its end: CONTINUATION")
def _(wire):
    wire.head()
    wire.answered()
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


@case("http2/5.1.1/1", "a stream with an even number")
def _(wire):
    wire.head(2)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1.1/2", "a stream with a number lower than the last")
def _(wire):
    wire.head(5)
    wire.head(3)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/5.1.2/1", "one stream more than may be at a time")
def _(wire):
    streams = wire.settings.get(MAX_CONCURRENT_STREAMS)
    if streams is None:
        raise Failed("the server sets no limit")
    wire.set((INITIAL_WINDOW_SIZE, 0))
    wire.acknowledged()
    for number in range(streams + 1):
        wire.head(number * 2 + 1)
    return wire.stream_error(Code.PROTOCOL_ERROR, Code.REFUSED_STREAM, stream=streams * 2 + 1)


# 5.3.1 Stream dependencies


@case("http2/5.3.1/1", "HEADERS that depend on their own stream")
def _(wire):
    block = struct.pack(">IB", 1, 255) + wire.block(wire.target.fields())
    wire.frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, block)
    return wire.stream_error(Code.PROTOCOL_ERROR)


@case("http2/5.3.1/2", "PRIORITY that depends on its own stream")
def _(wire):
    wire.priority(1, on=1)
    return wire.stream_error(Code.PROTOCOL_ERROR)


# 5.4.1 Connection errors


@case("http2/5.4.1/1", "after a connection error the connection is closed")
def _(wire):
    wire.frame(PING, 0, 3, bytes(8))
    return wire.ended()


@case("http2/5.4.1/2", "a connection error is told by GOAWAY", strict=True)
def _(wire):
    wire.frame(PING, 0, 3, bytes(8))
    frame = wire.until(lambda frame: isinstance(frame, frames.GoAwayFrame), "GOAWAY")
    if frame.error_code != Code.PROTOCOL_ERROR:
        raise Failed(f"expected PROTOCOL_ERROR, came {said(frame)}")
    return "GOAWAY PROTOCOL_ERROR"


# 5.5 Extensions


@case("http2/5.5/1", "a frame of an extension is ignored")
def _(wire):
    wire.frame(UNKNOWN, 0, 0, bytes(8))
    wire.ping()
    return wire.pong()


@case("http2/5.5/2", "a frame of an extension within a header block")
def _(wire):
    wire.frame(HEADERS, END_STREAM, 1, wire.block(wire.target.fields()))
    wire.frame(UNKNOWN, 0, 0, bytes(8))
    return wire.connection_error(Code.PROTOCOL_ERROR)


# 6.1 DATA


@case("http2/6.1/1", "DATA on stream 0")
def _(wire):
    wire.data(0, b"test", True)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.1/2", "DATA on a stream that is not open")
def _(wire):
    wire.head(fields=wire.target.fields("POST"))
    wire.data(1, b"test", True)
    return wire.stream_error(Code.STREAM_CLOSED)


@case("http2/6.1/3", "DATA with more padding than there is room")
def _(wire):
    wire.post(more=[("content-length", "4")])
    wire.frame(DATA, END_STREAM | PADDED, 1, b"\x06test")
    return wire.connection_error(Code.PROTOCOL_ERROR)


# 6.2 HEADERS

case("http2/6.2/1", "HEADERS without END_HEADERS, then PRIORITY")(interrupted_by_priority)
case("http2/6.2/2", "HEADERS without END_HEADERS, then HEADERS of another stream")(interrupted_by_another_head)


@case("http2/6.2/3", "HEADERS on stream 0")
def _(wire):
    wire.head(0)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.2/4", "HEADERS with more padding than there is room")
def _(wire):
    block = wire.block(wire.target.fields())
    wire.frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, bytes([len(block) + 2]) + block)
    return wire.stream_error(Code.PROTOCOL_ERROR)


# 6.3 PRIORITY


@case("http2/6.3/1", "PRIORITY on stream 0")
def _(wire):
    wire.priority(0)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.3/2", "PRIORITY of four bytes")
def _(wire):
    wire.head()
    wire.frame(PRIORITY, 0, 1, b"\x80\0\0\x01")
    return wire.stream_error(Code.FRAME_SIZE_ERROR)


# 6.4 RST_STREAM


@case("http2/6.4/1", "RST_STREAM on stream 0")
def _(wire):
    wire.reset(0)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.4/2", "RST_STREAM on an idle stream")
def _(wire):
    wire.reset(1)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.4/3", "RST_STREAM of three bytes")
def _(wire):
    wire.head()
    wire.frame(RST_STREAM, 0, 1, bytes(3))
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


# 6.5 SETTINGS


@case("http2/6.5/1", "SETTINGS with ACK that are not empty")
def _(wire):
    wire.frame(SETTINGS, ACK, 0, bytes(1))
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


@case("http2/6.5/2", "SETTINGS on a stream")
def _(wire):
    wire.frame(SETTINGS, 0, 1, struct.pack(">HI", MAX_CONCURRENT_STREAMS, 100))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.5/3", "SETTINGS that break off")
def _(wire):
    wire.frame(SETTINGS, 0, 0, struct.pack(">HIH", MAX_CONCURRENT_STREAMS, 100, 2))
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


@case("http2/6.5.2/1", "ENABLE_PUSH that is neither 0 nor 1")
def _(wire):
    wire.set((ENABLE_PUSH, 2))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.5.2/2", "INITIAL_WINDOW_SIZE larger than a window may be")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, WINDOW_MAX + 1))
    return wire.connection_error(Code.FLOW_CONTROL_ERROR)


@case("http2/6.5.2/3", "MAX_FRAME_SIZE smaller than it may be")
def _(wire):
    wire.set((MAX_FRAME_SIZE, 16383))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.5.2/4", "MAX_FRAME_SIZE larger than it may be")
def _(wire):
    wire.set((MAX_FRAME_SIZE, 1 << 24))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.5.2/5", "a setting that nobody knows is ignored")
def _(wire):
    wire.set((0xFF, 1))
    wire.ping()
    return wire.pong()


@case("http2/6.5.3/1", "of a setting that is said twice the second holds")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1))
    wire.acknowledged()
    wire.head()
    return wire.some(1)


@case("http2/6.5.3/2", "SETTINGS are acknowledged")
def _(wire):
    wire.set((ENABLE_PUSH, 0))
    return wire.acknowledged()


# 6.7 PING


@case("http2/6.7/1", "PING comes back with what it said")
def _(wire):
    wire.ping(b"h2spec\0\0")
    return wire.pong(b"h2spec\0\0")


@case("http2/6.7/2", "PING with ACK is not answered")
def _(wire):
    wire.ping(b"invalid\0", ACK)
    wire.ping(b"h2spec\0\0")
    return wire.pong(b"h2spec\0\0")


@case("http2/6.7/3", "PING on a stream")
def _(wire):
    wire.frame(PING, 0, 1, bytes(8))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.7/4", "PING of six bytes")
def _(wire):
    wire.frame(PING, 0, 0, bytes(6))
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


# 6.8 GOAWAY


@case("http2/6.8/1", "GOAWAY on a stream")
def _(wire):
    wire.frame(GOAWAY, 0, 1, bytes(8))
    return wire.connection_error(Code.PROTOCOL_ERROR)


# 6.9 WINDOW_UPDATE


@case("http2/6.9/1", "WINDOW_UPDATE of the connection by nothing")
def _(wire):
    wire.window(0, 0)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.9/2", "WINDOW_UPDATE of a stream by nothing")
def _(wire):
    wire.head(end=False)
    wire.window(1, 0)
    return wire.stream_error(Code.PROTOCOL_ERROR)


@case("http2/6.9/3", "WINDOW_UPDATE of three bytes")
def _(wire):
    wire.frame(WINDOW_UPDATE, 0, 0, b"\0\0\x01")
    return wire.connection_error(Code.FRAME_SIZE_ERROR)


@case("http2/6.9.1/1", "no more DATA than the window lets through")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 1))
    wire.acknowledged()
    wire.head()
    return wire.some(1)


@case("http2/6.9.1/2", "the connection's window grows beyond what it may")
def _(wire):
    wire.window(0, WINDOW_MAX)
    wire.window(0, WINDOW_MAX)
    return wire.connection_error(Code.FLOW_CONTROL_ERROR)


@case("http2/6.9.1/3", "a stream's window grows beyond what it may")
def _(wire):
    wire.head(end=False)
    wire.window(1, WINDOW_MAX)
    wire.window(1, WINDOW_MAX)
    return wire.stream_error(Code.FLOW_CONTROL_ERROR)


@case("http2/6.9.2/1", "windows of open streams follow the setting")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 0))
    wire.acknowledged()
    wire.head()
    wire.set((INITIAL_WINDOW_SIZE, 1))
    return wire.some(1)


@case("http2/6.9.2/2", "a window may become negative")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 3))
    wire.acknowledged()
    wire.head()
    wire.some(3)
    wire.set((INITIAL_WINDOW_SIZE, 2))
    wire.acknowledged()
    wire.window(1, 2)
    return wire.some(1)


@case("http2/6.9.2/3", "a setting that makes windows larger than they may be")
def _(wire):
    wire.frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 1 << 31))
    return wire.connection_error(Code.FLOW_CONTROL_ERROR)


# 6.10 CONTINUATION


@case("http2/6.10/1", "two CONTINUATION after HEADERS")
def _(wire):
    wire.frame(HEADERS, END_STREAM, 1, wire.block(wire.target.fields()))
    wire.frame(CONTINUATION, 0, 1, wire.block(fields()))
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.answered()


@case("http2/6.10/2", "CONTINUATION that has to go on, then DATA")
def _(wire):
    wire.frame(HEADERS, 0, 1, wire.block(wire.target.fields("POST")))
    wire.frame(CONTINUATION, 0, 1, wire.block(fields()))
    wire.data(1, b"test", True)
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.10/3", "CONTINUATION on stream 0")
def _(wire):
    wire.frame(HEADERS, END_STREAM, 1, wire.block(wire.target.fields()))
    wire.frame(CONTINUATION, END_HEADERS, 0, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.10/4", "CONTINUATION after HEADERS with END_HEADERS")
def _(wire):
    wire.head()
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.10/5", "CONTINUATION after CONTINUATION with END_HEADERS")
def _(wire):
    wire.frame(HEADERS, END_STREAM, 1, wire.block(wire.target.fields()))
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


@case("http2/6.10/6", "CONTINUATION after DATA")
def _(wire):
    wire.frame(HEADERS, 0, 1, wire.block(wire.target.fields("POST")))
    wire.data(1, b"test", True)
    wire.frame(CONTINUATION, END_HEADERS, 1, wire.block(fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)


# 7 Error codes


@case("http2/7/1", "GOAWAY with a code that nobody knows")
def _(wire):
    wire.frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0xFF))
    wire.ping()
    return wire.pong_or_end()


@case("http2/7/2", "RST_STREAM with a code that nobody knows")
def _(wire):
    wire.post()
    wire.reset(1, 0xFF)
    wire.ping()
    return wire.pong()


# 8.1 Requests. What is malformed is a stream error of type PROTOCOL_ERROR.


@case("http2/8.1/1", "trailers without END_STREAM")
def _(wire):
    wire.post()
    wire.data(1, b"test", False)
    wire.head(fields=[("x-test", "ok")], end=False)
    return wire.stream_error(Code.PROTOCOL_ERROR)


@case("http2/8.1.2.1/3", "a pseudo-header field in trailers")
def _(wire):
    wire.post()
    wire.data(1, b"test", False)
    wire.head(fields=[(":method", "POST")], end=False)
    return wire.stream_error(Code.PROTOCOL_ERROR)


def without(*names):
    return lambda fields: [field for field in fields if field[0] not in names]


def twice(name):
    return lambda fields: fields + [field for field in fields if field[0] == name]


def and_also(name, value):
    return lambda fields: [*fields, (name, value)]


def after(name, value):
    return lambda fields: [(name, value), *fields]


def instead(name, value):
    return lambda fields: [(name, value) if field[0] == name else field for field in fields]


MALFORMED = [
    ("http2/8.1.2/1", "a field name in capitals", and_also("X-TEST", "ok")),
    ("http2/8.1.2.1/1", "a pseudo-header field that nobody knows", and_also(":test", "ok")),
    ("http2/8.1.2.1/2", "a pseudo-header field of answers", and_also(":status", "200")),
    ("http2/8.1.2.1/4", "pseudo-header fields after a field", after("x-test", "ok")),
    ("http2/8.1.2.2/1", "a field of one connection", and_also("connection", "keep-alive")),
    ("http2/8.1.2.2/2", "TE that is not trailers", and_also("te", "trailers, deflate")),
    ("http2/8.1.2.3/1", "an empty :path", instead(":path", "")),
    ("http2/8.1.2.3/2", "no :method", without(":method")),
    ("http2/8.1.2.3/3", "no :scheme", without(":scheme")),
    ("http2/8.1.2.3/4", "no :path", without(":path")),
    ("http2/8.1.2.3/5", "two :method", twice(":method")),
    ("http2/8.1.2.3/6", "two :scheme", twice(":scheme")),
    ("http2/8.1.2.3/7", "two :path", twice(":path")),
]

for number, title, change in MALFORMED:

    @case(number, title)
    def _(wire, change=change):
        wire.head(fields=change(wire.target.fields()))
        return wire.stream_error(Code.PROTOCOL_ERROR)


@case("http2/8.1.2.6/1", "a body of another length than it says")
def _(wire):
    wire.post(more=[("content-length", "1")])
    wire.data(1, b"test", True)
    return wire.stream_error(Code.PROTOCOL_ERROR)


@case("http2/8.1.2.6/2", "a body in two frames of another length than it says")
def _(wire):
    wire.post(more=[("content-length", "1")])
    wire.data(1, b"test", False)
    wire.data(1, b"test", True)
    return wire.stream_error(Code.PROTOCOL_ERROR)


# 8.2 Server push


@case("http2/8.2/1", "PUSH_PROMISE of a client")
def _(wire):
    wire.frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 3) + wire.block(wire.target.fields()))
    return wire.connection_error(Code.PROTOCOL_ERROR)
