#!/usr/bin/env python3
"""WebSocket server and client by the `websockets` library.

    ws_app.py serve PORT
    ws_app.py call URL      sends texts and bytes, short and long, a ping and a proper close; exits with 1 when something
                            does not come back as it was sent
"""
import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

MESSAGES = ["text", "", "\N{SNOWMAN}" * 10_000, b"\x00\xff" * 100_000] + [f"message {n} " + "x" * n for n in range(100)]


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def run_server(port):
    async with serve(echo, None, port, max_size=None) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def run_client(url):
    async with connect(url, max_size=None, proxy=None) as connection:
        for message in MESSAGES:
            await connection.send(message)
            assert await connection.recv() == message
        await (await connection.ping())
    assert connection.close_code == 1000, connection.close_code
    print("echoed")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(run_server(int(sys.argv[2])))
    else:
        asyncio.run(asyncio.wait_for(run_client(sys.argv[2]), 20))
