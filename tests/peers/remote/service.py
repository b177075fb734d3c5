"""`python -m remote.service [--chain chain.pem --key key.pem]`: prints its port, then serves `pkg.Echo` and `pkg.Guarded`."""

import argparse
import threading
from concurrent import futures

import grpc

RICH = bytes(range(256))


class Echo:
    def __init__(self):
        self.begun = self.ended = 0
        self.lock = threading.Lock()

    def unary(self, said, context):
        """Sends the message back, with what it heard about the caller."""
        heard = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-first", "word"), ("x-first-bin", RICH)))
        told = [(f"heard-{name}", heard[name]) for name in ("x-own", "x-own-bin", "keyward-key-id", "authorization") if name in heard]
        left = context.time_remaining()
        told.append(("heard-deadline", "none" if left is None or left > 10**6 else f"{left:.3f}"))
        context.set_trailing_metadata((*told, ("x-last", "word"), ("x-last-bin", RICH)))
        return said

    def server_stream(self, said, context):
        """As many messages as it is told."""
        for number in range(int(said)):
            yield b"%d" % number

    def client_stream(self, said, context):
        """All messages in one."""
        return b"".join(said)

    def both(self, said, context):
        """Each message back as it comes."""
        yield from said

    def fail(self, said, context):
        """An error with all that gRPC knows to say of one."""
        context.set_trailing_metadata((("grpc-status-details-bin", RICH), ("x-last", "word")))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "größer als 100 % \n")

    def fail_late(self, said, context):
        """An error after two messages."""
        yield b"0"
        yield b"1"
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def begin(self, context):
        """What is set once the caller has had enough."""
        over = threading.Event()

        def gone():
            with self.lock:
                self.ended += 1
            over.set()

        context.add_callback(gone)
        with self.lock:
            self.begun += 1
        return over

    def wait(self, said, context):
        """Says a word, and then nothing until the caller has had enough."""
        over = self.begin(context)
        yield b"open"
        over.wait(30)

    def mute(self, said, context):
        """Says nothing at all."""
        self.begin(context).wait(30)
        return b""

    def tick(self, said, context):
        """Says a word now and then."""
        over = self.begin(context)
        while not over.wait(0.005):
            yield b"x" * 100

    def flood(self, said, context):
        """Never stops to talk."""
        over = self.begin(context)
        while not over.is_set():
            yield b"x" * 300000

    def swallow(self, said, context):
        """Listens, and says nothing."""
        over = self.begin(context)
        for _ in said:
            pass
        over.wait(30)
        return b""

    def calls(self, said, context):
        """How many of the calls that last have begun and how many have ended."""
        with self.lock:
            return b"%d %d" % (self.begun, self.ended)


def main():
    parser = argparse.ArgumentParser(prog="remote.service", description=__doc__)
    parser.add_argument("--chain")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    echo = Echo()
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(echo.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(echo.client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(echo.both),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(echo.fail_late),
        "Wait": grpc.unary_stream_rpc_method_handler(echo.wait),
        "Mute": grpc.unary_unary_rpc_method_handler(echo.mute),
        "Tick": grpc.unary_stream_rpc_method_handler(echo.tick),
        "Flood": grpc.unary_stream_rpc_method_handler(echo.flood),
        "Swallow": grpc.stream_unary_rpc_method_handler(echo.swallow),
        "Calls": grpc.unary_unary_rpc_method_handler(echo.calls),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 8 << 20)])
    for service in ("pkg.Echo", "pkg.Guarded"):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    if arguments.chain:
        with open(arguments.key, "rb") as key, open(arguments.chain, "rb") as chain:
            credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
        port = server.add_secure_port("localhost:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


main()
