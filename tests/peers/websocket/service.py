"""A service that prints its port and then talks by WebSocket, as it is told.

A message is sent back as it came, in as many fragments; what begins with `!` is an order:
`!close CODE REASON` closes, `!ping` is answered once the caller has answered a ping, `!extensions` and `!header NAME`
tell of the handshake, and `!last` of how the connection before was closed.
"""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MESSAGE_MAX = 4 * 1024 * 1024
last = "nothing"


async def talk(connection):
    global last
    try:
        async for message in connection:
            await answer(connection, message)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    if connection.request.path.endswith("/spoken"):
        last = f"{connection.close_code} {connection.close_reason}"


async def answer(connection, message):
    if not isinstance(message, str) or not message.startswith("!"):
        # Halves, so that the way back has fragments too.
        middle = len(message) // 2
        await connection.send([message[:middle], message[middle:]] if middle else message)
        return
    order, _, rest = message.partition(" ")
    match order:
        case "!close":
            code, _, reason = rest.partition(" ")
            await connection.close(int(code), reason)
        case "!ping":
            await (await connection.ping(b"are you there"))
            await connection.send("pong")
        case "!extensions":
            await connection.send(" ".join(extension.name for extension in connection.protocol.extensions) or "none")
        case "!header":
            await connection.send(connection.request.headers.get(rest, "none"))
        case "!last":
            await connection.send(last)


async def main():
    # Compression is what the package offers by default.
    async with serve(talk, "127.0.0.1", 0, max_size=MESSAGE_MAX, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
