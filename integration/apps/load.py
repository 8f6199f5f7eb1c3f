#!/usr/bin/env python3
"""Steady load on one HTTP server: half on kept connections, half on new ones, GET and POST in turn.

    load.py URL SECONDS WORKERS [--until-refused]

Prints one JSON object: how many were answered, how many connections were refused (the first after how many seconds), and
each kind of failure with its count. A refused connection is a failure too, but with --until-refused, where it ends its worker in order.
"""
import collections
import http.client
import json
import sys
import threading
import time
import urllib.parse

GAP = 0.01


def worker(url, ends, kept, until_refused, lock, totals, failures):
    connection = None
    sent = 0
    while time.monotonic() < ends:
        if connection is None or not kept:
            connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
        method = "POST" if sent % 2 else "GET"
        try:
            if connection.sock is None:
                connection.connect()
        except ConnectionRefusedError as error:
            with lock:
                totals["refused"] += 1
                totals.setdefault("first_refused", time.monotonic())
                if not until_refused:
                    failures[repr(error)] += 1
            if until_refused:
                break
            time.sleep(GAP)
            continue
        except OSError as error:
            with lock:
                failures[f"connecting: {error!r}"] += 1
            connection = None
            continue
        try:
            connection.request(method, url.path, body=b"x" * 100 if sent % 2 else None)
            response = connection.getresponse()
            body = response.read()
            failure = None if response.status == 200 else f"{method} {response.status} {body[:100]!r}"
            if response.will_close:
                connection.close()
                connection = None
        except (OSError, http.client.HTTPException) as error:
            failure, connection = f"{method} {error!r}", None
        if connection is not None and not kept:
            connection.close()
        sent += 1
        if failure:
            with lock:
                failures[failure] += 1
        time.sleep(GAP)
    with lock:
        totals["sent"] += sent


def main():
    url, seconds, count = urllib.parse.urlparse(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    totals, failures, lock = collections.Counter(), collections.Counter(), threading.Lock()
    began = time.monotonic()
    ends = began + seconds
    until_refused = "--until-refused" in sys.argv
    threads = [
        threading.Thread(target=worker, args=(url, ends, index % 2 == 0, until_refused, lock, totals, failures))
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused_after = totals["first_refused"] - began if totals["refused"] else None
    told = {"sent": totals["sent"], "refused": totals["refused"], "refused_after": refused_after}
    print(json.dumps(told | {"failed": sum(failures.values()), "failures": failures}))


if __name__ == "__main__":
    main()
