"""Cases of h2spec's group `generic`: what every server must be able to take."""

import struct

from .cases import case
from .wire import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PREFACE,
    WITH_PRIORITY,
    Failed,
    said,
)


@case("generic/1/1", "the client's preface is answered with SETTINGS before anything else", handshake=False)
def _(wire):
    wire.send(PREFACE)
    wire.set((INITIAL_WINDOW_SIZE, 65535))
    first = wire.next()
    if first.type != 4 or "ACK" in first.flags:
        raise Failed(f"the first frame is {said(first)}")
    return "SETTINGS"


@case("generic/2/1", "PRIORITY on an idle stream is taken")
def _(wire):
    wire.priority(1)
    wire.ping()
    return wire.pong()


@case("generic/2/2", "WINDOW_UPDATE on a half-closed stream opens its window")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 0))
    wire.head()
    wire.window(1, 1)
    return wire.some(1)


@case("generic/2/3", "PRIORITY on a half-closed stream is taken")
def _(wire):
    wire.set((INITIAL_WINDOW_SIZE, 0))
    wire.head()
    wire.priority(1)
    wire.window(1, 1)
    return wire.some(1)


@case("generic/2/4", "RST_STREAM on a half-closed stream is taken")
def _(wire):
    wire.head()
    wire.reset(1)
    wire.ping()
    return wire.pong_or_end()


@case("generic/2/5", "PRIORITY on a closed stream is taken")
def _(wire):
    wire.head()
    wire.answered()
    wire.priority(1)
    wire.ping()
    return wire.pong()


@case("generic/3.1/1", "a body of one DATA frame")
def _(wire):
    wire.post()
    wire.data(1, b"test", True)
    return wire.answered()


@case("generic/3.1/2", "a body of two DATA frames")
def _(wire):
    wire.post()
    wire.data(1, b"test", False)
    wire.data(1, b"test", True)
    return wire.answered()


@case("generic/3.1/3", "a body of one padded DATA frame")
def _(wire):
    wire.post()
    wire.frame(DATA, END_STREAM | PADDED, 1, b"\x06test" + bytes(6))
    return wire.answered()


@case("generic/3.2/1", "a HEADERS frame")
def _(wire):
    wire.head()
    return wire.answered()


@case("generic/3.2/2", "a padded HEADERS frame")
def _(wire):
    wire.frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\x08" + wire.block(wire.target.fields()) + bytes(8))
    return wire.answered()


@case("generic/3.2/3", "a HEADERS frame with a priority")
def _(wire):
    block = struct.pack(">IB", 0, 255) + wire.block(wire.target.fields())
    wire.frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, block)
    return wire.answered()


def prioritized(wire, stream, **priority):
    wire.priority(stream, **priority)
    wire.head()
    return wire.answered()


@case("generic/3.3/1", "PRIORITY with the least weight")
def _(wire):
    return prioritized(wire, 1, weight=0)


@case("generic/3.3/2", "PRIORITY with the greatest weight")
def _(wire):
    return prioritized(wire, 1, weight=255)


@case("generic/3.3/3", "PRIORITY that depends on another stream")
def _(wire):
    return prioritized(wire, 3, on=1, weight=0)


@case("generic/3.3/4", "PRIORITY that is exclusive")
def _(wire):
    return prioritized(wire, 1, weight=0, exclusive=True)


@case("generic/3.3/5", "PRIORITY on an idle stream, then a request on a lower one")
def _(wire):
    return prioritized(wire, 3)


@case("generic/3.4/1", "RST_STREAM")
def _(wire):
    wire.head(end=False)
    wire.reset(1)
    wire.ping()
    return wire.pong_or_end()


@case("generic/3.5/1", "SETTINGS of every kind are acknowledged")
def _(wire):
    wire.set(
        (HEADER_TABLE_SIZE, 4096),
        (ENABLE_PUSH, 1),
        (MAX_CONCURRENT_STREAMS, 100),
        (INITIAL_WINDOW_SIZE, 65535),
        (MAX_FRAME_SIZE, 16384),
        (MAX_HEADER_LIST_SIZE, 100),
    )
    return wire.acknowledged()


@case("generic/3.7/1", "PING comes back")
def _(wire):
    wire.ping(b"h2spec\0\0")
    return wire.pong(b"h2spec\0\0")


@case("generic/3.8/1", "GOAWAY ends the connection, or is at least taken")
def _(wire):
    wire.frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"h2spec")
    wire.ping()
    return wire.pong_or_end()


@case("generic/3.9/1", "WINDOW_UPDATE of the connection")
def _(wire):
    wire.window(0, 1)
    wire.ping()
    return wire.pong()


@case("generic/3.9/2", "WINDOW_UPDATE of a stream")
def _(wire):
    wire.head()
    wire.window(1, 1)
    return wire.answered()


@case("generic/3.10/1", "a head in HEADERS and CONTINUATION")
def _(wire):
    block = wire.block(wire.target.fields())
    wire.frame(HEADERS, END_STREAM, 1, block[:5])
    wire.frame(CONTINUATION, END_HEADERS, 1, block[5:])
    return wire.answered()


@case("generic/3.10/2", "a head in HEADERS and two CONTINUATION")
def _(wire):
    block = wire.block(wire.target.fields())
    wire.frame(HEADERS, END_STREAM, 1, block[:5])
    wire.frame(CONTINUATION, 0, 1, block[5:10])
    wire.frame(CONTINUATION, END_HEADERS, 1, block[10:])
    return wire.answered()


@case("generic/4/1", "GET")
def _(wire):
    wire.head()
    return wire.answered()


@case("generic/4/2", "HEAD")
def _(wire):
    wire.head(fields=wire.target.fields("HEAD"))
    return wire.answered(body=False)


@case("generic/4/3", "POST")
def _(wire):
    wire.post()
    wire.data(1, b"test", True)
    return wire.answered()


@case("generic/4/4", "POST with trailers")
def _(wire):
    wire.post(more=[("trailer", "x-test")])
    wire.data(1, b"test", False)
    wire.head(fields=[("x-test", "ok")])
    return wire.answered()


# RFC 7541: what stands for a field in a header block. 58 is `user-agent` in the static table.
USER_AGENT = 58
PLAIN_NAME, PLAIN_VALUE = b"\x06x-test", b"\x06h2spec"
# The same by the Huffman code.
SHORT_NAME, SHORT_VALUE = b"\x85\xf2\xb2\x4a\x84\xff", b"\x84\x9c\x48\xac\xa4"

REPRESENTATIONS = [
    ("an indexed field", bytes([0x80 | USER_AGENT])),
    *(
        (f"a literal {kind}, {how}", index + rest if name is None else name + rest)
        for kind, index, name_first in [
            ("with indexing", bytes([0x40 | USER_AGENT]), b"\x40"),
            ("without indexing", b"\x0f" + bytes([USER_AGENT - 15]), b"\x00"),
            ("that is never indexed", b"\x1f" + bytes([USER_AGENT - 15]), b"\x10"),
        ]
        for how, name, rest in [
            ("indexed name", None, PLAIN_VALUE),
            ("indexed name, by Huffman", None, SHORT_VALUE),
            ("new name", name_first + PLAIN_NAME, PLAIN_VALUE),
            ("new name, by Huffman", name_first + SHORT_NAME, SHORT_VALUE),
        ]
    ),
]

for position, (title, representation) in enumerate(REPRESENTATIONS, 1):

    @case(f"generic/5/{position}", title)
    def _(wire, representation=representation):
        wire.head(more=representation)
        return wire.answered()


@case("generic/5/14", "a new size of the dynamic table")
def _(wire):
    wire.head(before=b"\x20")
    return wire.answered()


@case("generic/5/15", "two new sizes of the dynamic table, 0 and 4096")
def _(wire):
    wire.head(before=b"\x20\x3f\xe1\x1f")
    return wire.answered()
