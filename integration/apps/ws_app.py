#!/usr/bin/env python3
"""WebSocket server and client by the `websockets` library.

    ws_app.py serve PORT
    ws_app.py call URL COUNT     sends COUNT messages and expects each back; exits with 1 otherwise
"""
import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def run_server(port):
    async with serve(echo, None, port) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def run_client(url, count):
    async with connect(url, proxy=None) as connection:
        for index in range(count):
            message = f"message {index} " + "x" * index
            await connection.send(message)
            if await asyncio.wait_for(connection.recv(), 10) != message:
                return 1
    print("ok", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(run_server(int(sys.argv[2])))
    else:
        sys.exit(asyncio.run(run_client(sys.argv[2], int(sys.argv[3]))))
