"""Both ends of a WebSocket, by the `websockets` package."""
