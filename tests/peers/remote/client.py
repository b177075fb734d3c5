"""`python -m remote.client PORT TOKEN [--trust chain.pem] [--stay]`: a caller that checks what comes back.

With `--stay` it makes a call of each kind that lasts, prints `open`, waits for their ends, and prints which status
each came with.
"""

import argparse
import threading
import time

import grpc

PATIENCE = 20
RICH = bytes(range(256))


class Caller:
    def __init__(self, port, token, trust):
        # By the name the certificate is for.
        where, options = f"localhost:{port}", [("grpc.max_receive_message_length", 8 << 20), ("grpc.enable_http_proxy", 0)]
        if trust:
            with open(trust, "rb") as chain:
                self.channel = grpc.secure_channel(where, grpc.ssl_channel_credentials(chain.read()), options)
        else:
            self.channel = grpc.insecure_channel(where, options)
        self.token = token

    def method(self, name, kind="unary_unary", service="pkg.Echo"):
        return getattr(self.channel, kind)(f"/{service}/{name}")

    def fields(self, *more, token=None):
        return (("authorization", f"Bearer {token or self.token}"), *more)


def same(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}: {got!r:.200}, not {wanted!r:.200}")
    print(f"{what}: as it should be")


def failure(call):
    """The error that a call ends with."""
    try:
        result = call()
        if hasattr(result, "__next__"):
            list(result)
    except grpc.RpcError as error:
        return error
    raise SystemExit("a call that must fail went well")


def kinds(caller):
    fields = caller.fields(("x-own", "a value"), ("x-own-bin", RICH), ("keyward-key-id", "spoofed"))
    answer, call = caller.method("Unary").with_call(b"hello", metadata=fields, timeout=PATIENCE)
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    same("unary", answer, b"hello")
    same("metadata first", (first["x-first"], first["x-first-bin"]), ("word", RICH))
    same("metadata last", (last["x-last"], last["x-last-bin"]), ("word", RICH))
    same("metadata there", (last["heard-x-own"], last["heard-x-own-bin"]), ("a value", RICH))
    same("the credential stays", "heard-authorization" in last, False)
    same("who calls is said by the gateway", last["heard-keyward-key-id"].startswith("key_"), True)
    same("the deadline arrives", 0 < float(last["heard-deadline"]) <= PATIENCE, True)

    large = RICH * 8192
    same("a large message", caller.method("Unary")(large, metadata=caller.fields(), timeout=PATIENCE), large)
    same("an empty message", caller.method("Unary")(b"", metadata=caller.fields(), timeout=PATIENCE), b"")

    stream = caller.method("ServerStream", "unary_stream")(b"500", metadata=caller.fields(), timeout=PATIENCE)
    same("server streaming", list(stream), [b"%d" % number for number in range(500)])

    parts = [b"%d," % number for number in range(500)]
    joined = caller.method("ClientStream", "stream_unary")(iter(parts), metadata=caller.fields(), timeout=PATIENCE)
    same("client streaming", joined, b"".join(parts))

    # Each message goes out only once the one before is back.
    back = []

    def turns():
        for number in range(50):
            yield b"%d" % number
            until(lambda: len(back) > number, "a message to come back")

    for message in caller.method("Both", "stream_stream")(turns(), metadata=caller.fields(), timeout=PATIENCE):
        back.append(message)
    same("both at once", back, [b"%d" % number for number in range(50)])


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.002)


def errors(caller):
    error = failure(lambda: caller.method("Fail")(b"", metadata=caller.fields(), timeout=PATIENCE))
    same("the status of an error", error.code(), grpc.StatusCode.INVALID_ARGUMENT)
    same("its words", error.details(), "größer als 100 % \n")
    last = dict(error.trailing_metadata())
    same("its details", (last["grpc-status-details-bin"], last["x-last"]), (RICH, "word"))

    stream = caller.method("FailLate", "unary_stream")(b"", metadata=caller.fields(), timeout=PATIENCE)
    same("messages before an error", [next(stream), next(stream)], [b"0", b"1"])
    same("an error after messages", failure(lambda: stream).code(), grpc.StatusCode.DATA_LOSS)

    error = failure(lambda: caller.method("Nowhere")(b"", metadata=caller.fields(), timeout=PATIENCE))
    same("a method that the service has not", error.code(), grpc.StatusCode.UNIMPLEMENTED)


def refusals(caller):
    unknown = caller.fields(token="kw_live_nonsense")
    refused = [
        ("a bad token", "UNAUTHENTICATED", lambda: caller.method("Unary")(b"", metadata=unknown, timeout=PATIENCE)),
        ("no token", "UNAUTHENTICATED", lambda: caller.method("Unary")(b"", timeout=PATIENCE)),
        (
            "a bad token on a stream",
            "UNAUTHENTICATED",
            lambda: caller.method("Both", "stream_stream")(iter([b"x"] * 9), metadata=unknown, timeout=PATIENCE),
        ),
        (
            "a flag is missing",
            "PERMISSION_DENIED",
            lambda: caller.method("Unary", service="pkg.Guarded")(b"", metadata=caller.fields(), timeout=PATIENCE),
        ),
        (
            "no such service",
            "UNIMPLEMENTED",
            lambda: caller.method("Unary", service="pkg.Nowhere")(b"", metadata=caller.fields(), timeout=PATIENCE),
        ),
    ]
    for what, status, call in refused:
        same(what, failure(call).code(), grpc.StatusCode[status])


def lasting(caller):
    """How many of the calls that last have begun at the service, and how many have ended."""
    begun, ended = caller.method("Calls")(b"", metadata=caller.fields(), timeout=PATIENCE).split()
    return int(begun), int(ended)


def ends(caller):
    error = failure(lambda: caller.method("Wait", "unary_stream")(b"", metadata=caller.fields(), timeout=0.3))
    same("a deadline that passes", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    # The service may not have heard of that call at all.
    until(lambda: len(set(lasting(caller))) == 1, "the service to hear of the deadline")

    begun, _ended = lasting(caller)
    stream = caller.method("Wait", "unary_stream")(b"", metadata=caller.fields(), timeout=PATIENCE)
    same("a stream begins", next(stream), b"open")
    stream.cancel()
    same("a call that is cancelled", failure(lambda: stream).code(), grpc.StatusCode.CANCELLED)
    until(lambda: lasting(caller) == (begun + 1, begun + 1), "the service to hear of the cancel")


def stay(caller):
    over = threading.Event()

    def upload():
        while not over.wait(0.02):
            yield b"x" * 1000

    fields = {"metadata": caller.fields(), "timeout": PATIENCE}
    quiet = caller.method("Wait", "unary_stream")(b"", **fields)
    next(quiet)
    tick = caller.method("Tick", "unary_stream")(b"", **fields)
    next(tick)
    flood = caller.method("Flood", "unary_stream")(b"", **fields)
    next(flood)
    mute = caller.method("Mute").future(b"", **fields)
    swallow = caller.method("Swallow", "stream_unary").future(upload(), **fields)
    until(lambda: lasting(caller) == (5, 0), "all calls to begin")
    print("open", flush=True)
    for what, call in [
        ("tick", lambda: skim(tick)),
        ("flood", lambda: skim(flood)),
        ("quiet", lambda: skim(quiet)),
        ("mute", mute.result),
        ("swallow", swallow.result),
    ]:
        print(what, failure(call).code().name, flush=True)
    over.set()


def skim(stream):
    for _ in stream:
        pass


def main():
    parser = argparse.ArgumentParser(prog="remote.client", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("token")
    parser.add_argument("--trust")
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    caller = Caller(arguments.port, arguments.token, arguments.trust)
    if arguments.stay:
        return stay(caller)
    kinds(caller)
    errors(caller)
    refusals(caller)
    ends(caller)
    print("all good")


main()
