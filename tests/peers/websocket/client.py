"""`python -m websocket.client URL TOKEN [--trust chain.pem] [--stay]`: a caller that checks what comes back.

With `--stay` it prints `open`, waits for the end, and prints with which code and reason that came.

All in one thread: before Python 3.13 the `ssl` module loses bytes where one thread reads and another writes.
"""

import argparse
import asyncio
import os
import ssl

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

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

    async def ask(self, said, path="echo", **options):
        """The answer to one message on a connection of its own."""
        async with self.open(path, **options) as connection:
            await connection.send(said)
            return await soon(connection.recv())


def soon(waiting):
    return asyncio.wait_for(waiting, PATIENCE)


def same(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}: {got!r:.200}, not {wanted!r:.200}")
    print(f"{what}: as it should be")


async def messages(caller, **options):
    async with caller.open(**options) as connection:
        for what, message in [
            ("text", "a word, größer als ASCII"),
            ("an empty text", ""),
            ("binary", bytes(range(256))),
            ("a megabyte that packs well", b"x" * 2**20),
            ("a megabyte that does not", os.urandom(2**20)),
            ("a megabyte of text", "ä" * 2**19),
        ]:
            await connection.send(message)
            same(what, await soon(connection.recv()), message)
        await connection.send(["in ", "three ", "fragments"])
        same("fragments", await soon(connection.recv()), "in three fragments")
        await connection.send([b"\0" * 70000, b"\1" * 5, b"\2" * 200])
        same("large fragments", await soon(connection.recv()), b"\0" * 70000 + b"\1" * 5 + b"\2" * 200)
        # Frames of control may stand between the fragments of a message.
        await connection.send(pinging(connection))
        same("a ping between fragments", await soon(connection.recv()), "before after")


async def pinging(connection):
    yield "before "
    await soon(await connection.ping(b"between"))
    yield "after"


async def pings(caller):
    async with caller.open() as connection:
        await soon(await connection.ping(b"0123456789" * 12))
        await connection.send("!ping")
        same("a ping of the service", await soon(connection.recv()), "pong")


async def closes(caller):
    for code, reason in [(1000, ""), (1001, "going"), (4321, "größer"), (3000, "x" * 123)]:
        async with caller.open("spoken") as connection:
            await connection.close(code, reason)
        # The service writes it down once its side has ended.
        said = await caller.ask("!last")
        for _ in range(100):
            if said == f"{code} {reason}":
                break
            said = await caller.ask("!last")
        same(f"the caller closes with {code}", said, f"{code} {reason}")
    for code, reason in [(1000, ""), (1011, "broken"), (4999, "größer")]:
        async with caller.open() as connection:
            await connection.send(f"!close {code} {reason}")
            try:
                await soon(connection.recv())
            except ConnectionClosed as closed:
                same(f"the service closes with {code}", (closed.rcvd.code, closed.rcvd.reason), (code, reason))


async def extensions(caller):
    async with caller.open() as connection:
        answered = connection.response.headers.get("sec-websocket-extensions", "")
        same("compression is agreed to", answered.split(";")[0], "permessage-deflate")
    same("compression arrives", await caller.ask("!extensions"), "permessage-deflate")
    same("no compression arrives", await caller.ask("!extensions", compression=None), "none")


async def handshakes(caller):
    try:
        await caller.open(token="kw_live_nonsense")
        raise SystemExit("a bad token: it was let in")
    except InvalidStatus as refused:
        same("a bad token", refused.response.status_code, 401)
    same("the credential stays", await caller.ask("!header authorization"), "none")
    if await caller.ask("!header keyward-key-id") in ("spoofed", "none"):
        raise SystemExit("who calls was not said, or by the caller")


async def stay(caller):
    async with caller.open("spoken") as connection:
        await connection.send("hello")
        await soon(connection.recv())
        print("open", flush=True)
        try:
            await soon(connection.recv())
        except ConnectionClosed:
            pass
    print(f"closed {connection.close_code} {connection.close_reason}")


async def main():
    parser = argparse.ArgumentParser(prog="websocket.client", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--trust")
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    caller = Caller(arguments.url, arguments.token, arguments.trust)
    if arguments.stay:
        return await stay(caller)
    await messages(caller)
    await messages(caller, compression=None)
    await pings(caller)
    await closes(caller)
    await extensions(caller)
    await handshakes(caller)
    print("all good")


asyncio.run(main())
