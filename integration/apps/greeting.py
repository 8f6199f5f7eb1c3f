"""Server that speaks first, as SMTP and MySQL do, then echoes lines.

Usage: greeting.py serve PORT
       greeting.py call HOST PORT COUNT    prints the milliseconds until each greeting
"""

import socket
import socketserver
import sys
import time

GREETING = b"220 greetings first\r\n"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(GREETING)
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 256


def call(host, port):
    start = time.monotonic()
    with socket.create_connection((host, port), timeout=10) as connection:
        stream = connection.makefile("rwb")
        assert stream.readline() == GREETING
        elapsed = (time.monotonic() - start) * 1000
        stream.write(b"EHLO there\r\n")
        stream.flush()
        assert stream.readline() == b"EHLO there\r\n"
        return elapsed


if sys.argv[1] == "serve":
    Server(("0.0.0.0", int(sys.argv[2])), Handler).serve_forever()
else:
    for _ in range(int(sys.argv[4])):
        print(f"{call(sys.argv[2], int(sys.argv[3])):.1f}")
