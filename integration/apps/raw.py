#!/usr/bin/env python3
"""Sends bytes as they are and prints what comes back.

    raw.py HOST PORT [--half-close] < BYTES      until the other side closes, or nothing has come for 2 s
"""
import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as connection:
    connection.sendall(sys.stdin.buffer.read())
    if "--half-close" in sys.argv:
        connection.shutdown(socket.SHUT_WR)
    try:
        while data := connection.recv(65536):
            sys.stdout.buffer.write(data)
    except TimeoutError:
        pass
    except ConnectionResetError:
        sys.stdout.buffer.write(b"[reset]")
