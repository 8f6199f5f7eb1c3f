#!/usr/bin/env python3
"""TCP server and client for what is not HTTP.

    tcp_app.py greet PORT              says "220 ready\\r\\n" first, as SMTP and MySQL servers do, then echoes lines
    tcp_app.py sink PORT               reads to the end, then answers with the count and SHA-256, then closes
    tcp_app.py echo PORT               echoes bytes until the end
    tcp_app.py greeted HOST PORT N     as a client of `greet` N times, prints the median milliseconds to its greeting
    tcp_app.py send HOST PORT BYTES    sends that many bytes, half-closes, prints what comes back
    tcp_app.py chat HOST PORT          on one connection to `echo`: sends each line of its input, prints what comes back
    tcp_app.py exchange HOST PORT BYTES  sends that many random bytes to `echo`, half-closes, compares what comes back
"""
import hashlib
import random
import socket
import statistics
import sys
import threading
import time


def each(port, serve):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=guarded, args=(serve, connection), daemon=True).start()


def guarded(serve, connection):
    with connection:
        try:
            serve(connection)
        except OSError:
            pass  # the client left; that is part of what tests do


GREETING = b"220 ready\r\n"


def greet(connection):
    connection.sendall(GREETING)
    echo(connection)


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def sink(connection):
    digest, count = hashlib.sha256(), 0
    while data := connection.recv(1 << 20):
        digest.update(data)
        count += len(data)
    connection.sendall(f"{count} {digest.hexdigest()}\n".encode())


def greeted(host, port, times):
    taken = []
    for _ in range(times):
        started = time.monotonic()
        with socket.create_connection((host, port), timeout=15) as connection:
            stream = connection.makefile("rwb")
            assert stream.readline() == GREETING
            taken.append((time.monotonic() - started) * 1000)
            stream.write(b"EHLO there\r\n")
            stream.flush()
            assert stream.readline() == b"EHLO there\r\n"
    print(f"{statistics.median(taken):.3f}")


def send(host, port, total):
    block = bytes(range(256)) * 4096
    digest, left = hashlib.sha256(), total
    with socket.create_connection((host, port), timeout=60) as connection:
        while left:
            piece = block[: min(left, len(block))]
            connection.sendall(piece)
            digest.update(piece)
            left -= len(piece)
        connection.shutdown(socket.SHUT_WR)
        reply = b""
        while data := connection.recv(65536):
            reply += data
    expected = f"{total} {digest.hexdigest()}\n".encode()
    print(reply.decode(), end="")
    sys.exit(0 if reply == expected else 1)


def chat(host, port):
    with socket.create_connection((host, port), timeout=20) as connection:
        stream = connection.makefile("rwb")
        for line in sys.stdin.buffer:
            stream.write(line)
            stream.flush()
            print(stream.readline().decode(), end="", flush=True)


def exchange(host, port, total):
    sent = random.Random(total).randbytes(total)
    received = bytearray()
    with socket.create_connection((host, port), timeout=60) as connection:
        def write():
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        writing = threading.Thread(target=write)
        writing.start()
        while data := connection.recv(65536):
            received += data
        writing.join()
    if received != sent:
        differ = next((at for at, (ours, theirs) in enumerate(zip(sent, received)) if ours != theirs), len(received))
        sys.exit(f"{len(received)} of {total} bytes came back; the first that differs is {differ}")


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb in ("greet", "sink", "echo"):
        each(int(rest[0]), {"greet": greet, "sink": sink, "echo": echo}[verb])
    elif verb == "greeted":
        greeted(rest[0], int(rest[1]), int(rest[2]))
    elif verb == "chat":
        chat(rest[0], int(rest[1]))
    elif verb == "exchange":
        exchange(rest[0], int(rest[1]), int(rest[2]))
    else:
        send(rest[0], int(rest[1]), int(rest[2]))
