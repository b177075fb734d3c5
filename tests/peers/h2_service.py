"""`python -m h2_service [--requests N]`: a service that speaks HTTP/2 in clear text by the `h2` package; prints its port.

It sends back the body it gets, or a word, and trailers. After N requests it says goodbye on a connection, and what
comes after those is not looked at. The first try of a path that ends in `/refused` is refused.
"""

import argparse
import asyncio
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

seen = set()


class Connection(asyncio.Protocol):
    number = 0

    def __init__(self, requests_max):
        self.requests_max, self.requests = requests_max, 0
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.heads, self.bodies, self.sending = {}, {}, {}
        self.over = False
        Connection.number += 1
        self.number = Connection.number

    def connection_made(self, transport):
        self.transport = transport
        self.h2.initiate_connection()
        # A small window, so that bodies wait for it.
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20000})
        self.flush()

    def flush(self):
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data):
        if self.over:
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as fault:
            print(f"h2_service: {fault!r}", file=sys.stderr)
            self.over = True
            self.flush()
            self.transport.close()
            return
        for event in events:
            self.heard(event)
        for stream in list(self.sending):
            self.send(stream)
        if self.requests >= self.requests_max and not self.sending and not self.heads:
            self.over = True
            self.h2.close_connection(last_stream_id=self.last)
        self.flush()

    def heard(self, event):
        match event:
            case h2.events.RequestReceived() if self.requests < self.requests_max:
                self.requests += 1
                self.last = event.stream_id
                self.heads[event.stream_id] = dict(event.headers)
                self.bodies[event.stream_id] = b""
            case h2.events.DataReceived():
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_id in self.bodies:
                    self.bodies[event.stream_id] += event.data
            case h2.events.StreamEnded() if event.stream_id in self.heads:
                self.answer(event.stream_id)
            case h2.events.StreamReset():
                for waiting in (self.heads, self.bodies, self.sending):
                    waiting.pop(event.stream_id, None)

    def answer(self, stream):
        head, body = self.heads.pop(stream), self.bodies.pop(stream)
        path = head[":path"]
        if path.endswith("/refused") and path not in seen:
            seen.add(path)
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        fields = [(":status", "200"), ("x-connection", str(self.number)), ("x-key", head.get("keyward-key-id", "none"))]
        # More than one frame holds.
        fields += [(f"x-long-{number}", "y" * 6000) for number in range(4 if path.endswith("/long") else 0)]
        self.h2.send_headers(stream, fields)
        self.sending[stream] = body or b"h2"

    def send(self, stream):
        left = self.sending[stream]
        while left:
            length = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(left))
            if length <= 0:
                self.sending[stream] = left
                return
            self.h2.send_data(stream, left[:length])
            left = left[length:]
        del self.sending[stream]
        self.h2.send_headers(stream, [("x-trailer", "word")], end_stream=True)


async def main():
    parser = argparse.ArgumentParser(prog="h2_service", description=__doc__)
    parser.add_argument("--requests", type=int, default=1 << 30)
    arguments = parser.parse_args()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(arguments.requests), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
