#!/usr/bin/env python3
"""An HTTP/1 server on raw sockets that does on request what well-behaved servers never do.

    http_app.py PORT [--idle SECONDS]

It listens on all addresses (IPv4 and IPv6). `--idle` closes a keep-alive connection after that long without a request.
The path says what to answer:

    /echo            200, JSON of what arrived: request line and its parts, header lines in order, body (text, if it is
                     short), its length and SHA-256, trailers; and who answers. So does a path that is none of these.
    /size/N          200, N bytes with Content-Length
    /stream/N/MS     200, N chunks, one every MS milliseconds
    /trailers        200, chunked with an undeclared trailer
    /early           103 Early Hints, then 200
    /reason          299 with a reason phrase of its own and oddly written header names
    /reset-after     reads the whole request, counts it, then resets the connection
    /truncate        promises 100 bytes, sends 10, closes
    /upgrade         101 to any protocol, then echoes bytes (as does CONNECT, whatever it names)
    /count           200, how many requests each path has had
    /status/N        N with an empty body
    /slow/MS         200 after MS milliseconds
"""
import argparse
import hashlib
import json
import os
import socket
import struct
import threading
import time

counts = {}
counts_lock = threading.Lock()


class Reader:
    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def fill(self):
        data = self.connection.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.fill():
                return None
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def exactly(self, length):
        while len(self.buffer) < length:
            if not self.fill():
                raise ConnectionError("body ended early")
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data


SHORT = 64 << 10


def body_of(reader, connection, fields):
    if "expect" in fields and fields["expect"].lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    digest, length, text = hashlib.sha256(), 0, b""
    trailers = []
    if "chunked" in fields.get("transfer-encoding", "").lower():
        while True:
            size = int(reader.until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                while True:
                    line = reader.until(b"\r\n")
                    if not line:
                        break
                    trailers.append(line.decode("latin-1"))
                break
            data = reader.exactly(size)
            reader.exactly(2)
            digest.update(data)
            text += data[: SHORT - len(text)]
            length += size
    else:
        left = int(fields.get("content-length", "0"))
        while left:
            data = reader.exactly(min(left, 65536))
            digest.update(data)
            text += data[: SHORT - len(text)]
            length += len(data)
            left -= len(data)
    return {
        "body": text.decode("latin-1") if length <= SHORT else None,
        "length": length,
        "sha256": digest.hexdigest(),
        "trailers": trailers,
    }


def answer(status, body, extra=""):
    return (f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n").encode() + body


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def handle(connection, peer, idle):
    reader = Reader(connection)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    served = 0
    while True:
        connection.settimeout(idle if served else 60)
        try:
            head = reader.until(b"\r\n\r\n")
        except TimeoutError:
            return
        if head is None:
            return
        connection.settimeout(60)
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        fields = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            fields[name.lower()] = value.strip()
        path = target.split("?")[0]
        with counts_lock:
            counts[path] = counts.get(path, 0) + 1
        parts = path.strip("/").split("/")
        if parts[0] == "upgrade" and "upgrade" in fields:
            connection.sendall(
                f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {fields['upgrade']}\r\n\r\n".encode()
            )
            connection.sendall(reader.buffer)
            connection.settimeout(60)
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return
        if method == "CONNECT":
            connection.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n" + reader.buffer)
            connection.settimeout(60)
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return
        received = body_of(reader, connection, fields)
        served += 1
        head_only = method == "HEAD"
        if parts[0] == "size":
            connection.sendall(answer("200 OK", b"x" * int(parts[1])))
        elif parts[0] == "stream":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for index in range(int(parts[1])):
                data = f"chunk {index}\n".encode()
                connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                time.sleep(int(parts[2]) / 1000)
            connection.sendall(b"0\r\n\r\n")
        elif parts[0] == "trailers":
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: 5d41\r\n\r\n"
            )
        elif parts[0] == "early":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            connection.sendall(answer("200 OK", b"after hints"))
        elif parts[0] == "reason":
            connection.sendall(answer("299 Quite Fine", b"ok", "X-oDD-cAsE: Yes\r\nx-second: 2\r\nX-oDD-cAsE: Again\r\n"))
        elif parts[0] == "reset-after":
            reset(connection)
            return
        elif parts[0] == "truncate":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
            return
        elif parts[0] == "count":
            with counts_lock:
                body = json.dumps(counts).encode()
            connection.sendall(answer("200 OK", body, "Content-Type: application/json\r\n"))
        elif parts[0] == "status":
            connection.sendall(f"HTTP/1.1 {parts[1]} X\r\n{'' if parts[1] in ('204', '304') else 'Content-Length: 0'}".encode()
                               + (b"\r\n\r\n" if parts[1] not in ("204", "304") else b"\r\n"))
        elif parts[0] == "slow":
            time.sleep(int(parts[1]) / 1000)
            connection.sendall(answer("200 OK", b"slow"))
        else:
            document = {
                "line": lines[0], "method": method, "target": target, "headers": lines[1:], "peer": peer,
                "pod": os.environ.get("WEFT_INSTANCE"), "served_on_connection": served,
            }
            body = json.dumps(document | received).encode()
            reply = answer("200 OK", body, "Content-Type: application/json\r\n")
            connection.sendall(reply[: len(reply) - len(body)] if head_only else reply)
        keep = "close" not in fields.get("connection", "").lower()
        if version == "HTTP/1.0":
            keep = "keep-alive" in fields.get("connection", "").lower()
        if not keep:
            return


def serve(connection, peer, idle):
    try:
        handle(connection, peer, idle)
    except (OSError, ValueError, AttributeError):
        pass  # the client left in the middle; that is part of what tests do
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--idle", type=float, default=60)
    arguments = parser.parse_args()
    listener = socket.create_server(("", arguments.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    print("listening", flush=True)
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=serve, args=(connection, peer[0], arguments.idle), daemon=True).start()


if __name__ == "__main__":
    main()
