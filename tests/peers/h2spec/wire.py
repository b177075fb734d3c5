"""A connection that can send what no good client sends, and what a server may answer to that."""

import enum
import socket
import ssl
import struct
import time

import hpack
import hyperframe.exceptions
import hyperframe.frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

WINDOW_MAX = 2**31 - 1
# How an outcome says that the connection ended by another code than the RFC's.
OTHER_CODE = "by GOAWAY"
# Long enough for a busy machine, short enough for a case that fails.
PATIENCE = 10


class Code(enum.IntEnum):
    """Error codes, RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Failed(Exception):
    """The server did something else."""


class Gone(Exception):
    """The server has closed the connection."""


class Late(Exception):
    """The server did nothing for too long."""


class Target:
    """Where the server is. A GET or POST of `path` must be answered with 200 and a body of five bytes or more."""

    def __init__(self, host, port, path, trusted=None):
        self.host, self.port, self.path, self.trusted = host, port, path, trusted

    def connect(self):
        """An open connection, over TLS with ALPN where there is a certificate to trust."""
        stream = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.trusted is None:
            return stream
        context = ssl.create_default_context(cafile=self.trusted)
        context.set_alpn_protocols(["h2"])
        stream = context.wrap_socket(stream, server_hostname="localhost")
        if stream.selected_alpn_protocol() != "h2":
            raise Failed("the handshake did not settle on h2")
        return stream

    def fields(self, method="GET"):
        """The fields of a request."""
        scheme = "http" if self.trusted is None else "https"
        return [(":method", method), (":scheme", scheme), (":path", self.path), (":authority", f"localhost:{self.port}")]


class Wire:
    """One connection."""

    def __init__(self, target):
        self.target = target
        self.stream = target.connect()
        self.deadline = time.monotonic() + PATIENCE
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.read = b""
        self.settings = {}

    def close(self):
        self.stream.close()

    # what is sent

    def send(self, data):
        """Bytes, to a server that may be gone by now."""
        try:
            self.stream.sendall(data)
        except OSError:
            pass

    def frame(self, kind, flags, stream, payload=b""):
        """A frame, whatever it may mean."""
        self.send(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def handshake(self):
        """Both prefaces, each acknowledged."""
        self.send(PREFACE)
        self.set((INITIAL_WINDOW_SIZE, 65535))
        acknowledged = False
        while not (acknowledged and self.settings):
            arrived = self.next()
            if isinstance(arrived, frames.SettingsFrame):
                acknowledged |= "ACK" in arrived.flags
                if "ACK" not in arrived.flags:
                    self.settings = {0: 0, **arrived.settings}
                    self.frame(SETTINGS, ACK, 0)

    def set(self, *settings):
        self.frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in settings))

    def block(self, fields):
        """A header block, by an encoder that remembers the ones before."""
        return self.encoder.encode(fields)

    def head(self, stream=1, fields=None, end=True, more=b"", before=b""):
        """Opens a stream: a GET of the path, or with these fields; bytes may be added to the header block."""
        fields = self.target.fields() if fields is None else fields
        self.frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, before + self.block(fields) + more)

    def post(self, stream=1, more=()):
        """Opens a stream for a POST whose body is to come."""
        self.head(stream, self.target.fields("POST") + list(more), end=False)

    def data(self, stream, data, end):
        self.frame(DATA, END_STREAM if end else 0, stream, data)

    def priority(self, stream, on=0, weight=255, exclusive=False):
        self.frame(PRIORITY, 0, stream, struct.pack(">IB", on | (exclusive << 31), weight))

    def reset(self, stream, code=Code.CANCEL):
        self.frame(RST_STREAM, 0, stream, struct.pack(">I", code))

    def window(self, stream, more):
        self.frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))

    def ping(self, said=bytes(8), flags=0):
        self.frame(PING, flags, 0, said)

    # what comes

    def next(self):
        """The next frame."""
        while True:
            if len(self.read) >= 9:
                try:
                    frame, length = frames.Frame.parse_frame_header(memoryview(self.read)[:9])
                    if len(self.read) >= 9 + length:
                        frame.parse_body(memoryview(self.read)[9 : 9 + length])
                        self.read = self.read[9 + length :]
                        return frame
                except hyperframe.exceptions.HyperframeError as fault:
                    raise Failed(f"the server sent a bad frame: {fault}") from fault
            self.more()

    def more(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Late
        self.stream.settimeout(left)
        try:
            data = self.stream.recv(65536)
        except TimeoutError as fault:
            raise Late from fault
        except OSError as fault:
            raise Gone from fault
        if not data:
            raise Gone
        self.read += data

    def until(self, wanted, what):
        """The first frame that is wanted. That the connection ends before is a failure."""
        seen = []
        try:
            while True:
                frame = self.next()
                if wanted(frame):
                    return frame
                seen.append(said(frame))
        except Gone:
            seen.append("the end of the connection")
        except Late:
            seen.append("nothing more")
        raise Failed(f"expected {what}, came {', '.join(seen)}")

    # what is expected

    def acknowledged(self):
        """SETTINGS with ACK."""
        self.until(lambda frame: isinstance(frame, frames.SettingsFrame) and "ACK" in frame.flags, "SETTINGS with ACK")

    def answered(self, stream=1, body=True):
        """A whole answer with 200; its body."""
        head = self.until(lambda frame: isinstance(frame, frames.HeadersFrame) and frame.stream_id == stream, "HEADERS")
        fields = dict(self.decoder.decode(head.data))
        if fields.get(":status") != "200":
            raise Failed(f"expected an answer with 200, came {fields}")
        got = b""
        while "END_STREAM" not in head.flags:
            head = self.until(lambda frame: frame.stream_id == stream, "the rest of the answer")
            got += head.data
        if bool(got) != body:
            raise Failed(f"the answer's body is {got}")
        return "200"

    def some(self, length, stream=1):
        """DATA of this length."""
        frame = self.until(lambda frame: isinstance(frame, frames.DataFrame) and frame.stream_id == stream, "DATA")
        if len(frame.data) != length or "END_STREAM" in frame.flags:
            raise Failed(f"expected {length} bytes of DATA, came {said(frame)}")
        return f"{length} bytes"

    def pong(self, data=bytes(8)):
        """PING with ACK and this payload; any other PING is a failure."""
        frame = self.until(lambda frame: isinstance(frame, frames.PingFrame), "PING with ACK")
        if "ACK" not in frame.flags or frame.opaque_data != data:
            raise Failed(f"expected PING with ACK of {data}, came {said(frame)}")
        return "PING"

    def connection_error(self, *codes):
        """The connection's end, by GOAWAY with one of these codes.

        As with h2spec the end is what counts. GOAWAY may be lost: what we have sent too much of may make the network
        drop it. A code of a more general kind is told of in the outcome.
        """
        return self.error(0, codes)

    def stream_error(self, *codes, stream=1):
        """RST_STREAM with one of these codes, or the connection's end, which RFC 9113 section 5.4.2 allows too."""
        return self.error(stream, codes)

    def error(self, stream, codes):
        wanted = " or ".join(code.name for code in codes)
        seen, told = [], None
        try:
            while True:
                frame = self.next()
                seen.append(said(frame))
                if isinstance(frame, frames.GoAwayFrame):
                    told = frame.error_code
                if isinstance(frame, frames.RstStreamFrame) and stream and frame.stream_id == stream:
                    if frame.error_code not in codes:
                        break
                    return f"RST_STREAM {Code(frame.error_code).name}"
        except Gone:
            if told is None:
                return "closed"
            if told in codes:
                return f"GOAWAY {Code(told).name}"
            if told != Code.NO_ERROR:
                return f"closed, {OTHER_CODE} {Code(told).name} for {wanted}"
        except Late:
            seen.append("nothing more")
        raise Failed(f"expected {wanted}, came {', '.join(seen)}")

    def ended(self):
        """The end of the connection, whatever is said before it."""
        try:
            while True:
                self.read = b""
                self.more()
        except Gone:
            return "closed"
        except Late as fault:
            raise Failed("the connection stays open") from fault

    def pong_or_end(self, data=bytes(8)):
        """PING with ACK, or a connection that ends in peace."""
        try:
            while True:
                frame = self.next()
                if isinstance(frame, frames.PingFrame) and "ACK" in frame.flags and frame.opaque_data == data:
                    return "PING"
                if isinstance(frame, frames.GoAwayFrame) and frame.error_code != Code.NO_ERROR:
                    raise Failed(f"came {said(frame)}")
        except Gone:
            return "closed"
        except Late as fault:
            raise Failed("expected PING with ACK or the end, came nothing") from fault


def said(frame):
    """A frame in a word or two."""
    name = type(frame).__name__.removesuffix("Frame")
    code = getattr(frame, "error_code", None)
    return f"{name}({frame.stream_id}, {sorted(frame.flags)}{'' if code is None else f', {Code(code).name}'})"
