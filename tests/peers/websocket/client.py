"""`python -m websocket.client URL TOKEN [--trust chain.pem] [--stay]`: a caller that checks what comes back.

With `--stay` it prints `open`, waits for the end, and prints with which code and reason that came.
"""

import argparse
import os
import ssl

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

MESSAGE_MAX = 4 * 1024 * 1024
PATIENCE = 20


class Caller:
    def __init__(self, url, token, trust):
        self.url, self.token = url, token
        self.context = ssl.create_default_context(cafile=trust) if trust else None

    def open(self, path="echo", token=None, **options):
        fields = {"authorization": f"Bearer {token or self.token}", "keyward-key-id": "spoofed"}
        options.setdefault("ping_interval", None)
        return connect(
            f"{self.url}/{path}",
            additional_headers=fields,
            ssl=self.context,
            max_size=MESSAGE_MAX,
            proxy=None,
            open_timeout=PATIENCE,
            **options,
        )

    def ask(self, said, path="echo", **options):
        """The answer to one message on a connection of its own."""
        with self.open(path, **options) as connection:
            connection.send(said)
            return connection.recv(PATIENCE)


def same(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}: {got!r:.200}, not {wanted!r:.200}")
    print(f"{what}: as it should be")


def messages(caller, **options):
    with caller.open(**options) as connection:
        for what, message in [
            ("text", "a word, größer als ASCII"),
            ("an empty text", ""),
            ("binary", bytes(range(256))),
            ("a megabyte that packs well", b"x" * 2**20),
            ("a megabyte that does not", os.urandom(2**20)),
            ("a megabyte of text", "ä" * 2**19),
        ]:
            connection.send(message)
            same(what, connection.recv(PATIENCE), message)
        connection.send(["in ", "three ", "fragments"])
        same("fragments", connection.recv(PATIENCE), "in three fragments")
        connection.send([b"\0" * 70000, b"\1" * 5, b"\2" * 200])
        same("large fragments", connection.recv(PATIENCE), b"\0" * 70000 + b"\1" * 5 + b"\2" * 200)
        # Frames of control may stand between the fragments of a message.
        connection.send(pinging(connection))
        same("a ping between fragments", connection.recv(PATIENCE), "before after")


def pinging(connection):
    yield "before "
    if not connection.ping(b"between").wait(PATIENCE):
        raise SystemExit("a ping between fragments: no pong")
    yield "after"


def pings(caller):
    with caller.open() as connection:
        same("a ping of the caller", connection.ping(b"0123456789" * 12).wait(PATIENCE), True)
        connection.send("!ping")
        same("a ping of the service", connection.recv(PATIENCE), "pong")


def closes(caller):
    for code, reason in [(1000, ""), (1001, "going"), (4321, "größer"), (3000, "x" * 123)]:
        with caller.open("spoken") as connection:
            connection.close(code, reason)
        # The service writes it down once its side has ended.
        said = caller.ask("!last")
        for _ in range(100):
            if said == f"{code} {reason}":
                break
            said = caller.ask("!last")
        same(f"the caller closes with {code}", said, f"{code} {reason}")
    for code, reason in [(1000, ""), (1011, "broken"), (4999, "größer")]:
        with caller.open() as connection:
            connection.send(f"!close {code} {reason}")
            try:
                connection.recv(PATIENCE)
            except ConnectionClosed as closed:
                same(f"the service closes with {code}", (closed.rcvd.code, closed.rcvd.reason), (code, reason))


def extensions(caller):
    with caller.open() as connection:
        answered = connection.response.headers.get("sec-websocket-extensions", "")
        same("compression is agreed to", answered.split(";")[0], "permessage-deflate")
    same("compression arrives", caller.ask("!extensions"), "permessage-deflate")
    same("no compression arrives", caller.ask("!extensions", compression=None), "none")


def handshakes(caller):
    try:
        caller.open(token="kw_live_nonsense")
        raise SystemExit("a bad token: it was let in")
    except InvalidStatus as refused:
        same("a bad token", refused.response.status_code, 401)
    same("the credential stays", caller.ask("!header authorization"), "none")
    if caller.ask("!header keyward-key-id") in ("spoofed", "none"):
        raise SystemExit("who calls was not said, or by the caller")


def stay(caller):
    with caller.open("spoken") as connection:
        connection.send("hello")
        connection.recv(PATIENCE)
        print("open", flush=True)
        try:
            connection.recv(PATIENCE)
        except ConnectionClosed:
            pass
    print(f"closed {connection.close_code} {connection.close_reason}")


def main():
    parser = argparse.ArgumentParser(prog="websocket.client", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--trust")
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    caller = Caller(arguments.url, arguments.token, arguments.trust)
    if arguments.stay:
        return stay(caller)
    messages(caller)
    messages(caller, compression=None)
    pings(caller)
    closes(caller)
    extensions(caller)
    handshakes(caller)
    print("all good")


main()
