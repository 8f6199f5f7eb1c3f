"""WebSocket echo with the `websockets` package.

Usage: websocket.py serve PORT
       websocket.py call URL    echoes texts and bytes both ways, with a ping and a proper close
"""

import asyncio
import sys

import websockets


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def serve(port):
    async with websockets.serve(echo, "0.0.0.0", port, max_size=None):
        await asyncio.get_running_loop().create_future()


async def call(url):
    async with websockets.connect(url, max_size=None, proxy=None) as connection:
        for message in ["text", "\N{SNOWMAN}" * 10_000, b"\x00\xff" * 100_000]:
            await connection.send(message)
            assert await connection.recv() == message
        await (await connection.ping())
    assert connection.close_code == 1000, connection.close_code
    print("echoed")


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(asyncio.wait_for(call(sys.argv[2]), 20))
