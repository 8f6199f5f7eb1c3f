#!/usr/bin/env python3
"""Steady load on one HTTP server: half on kept connections, half on new ones, GET and POST in turn.

    load.py URL SECONDS WORKERS

Prints one JSON object: how many were sent, and each kind of failure with its count.
"""
import collections
import http.client
import json
import sys
import threading
import time
import urllib.parse

GAP = 0.01


def worker(url, ends, kept, lock, totals, failures):
    connection = None
    sent = 0
    while time.monotonic() < ends:
        if connection is None or not kept:
            connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
        method = "POST" if sent % 2 else "GET"
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
    ends = time.monotonic() + seconds
    threads = [
        threading.Thread(target=worker, args=(url, ends, index % 2 == 0, lock, totals, failures))
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"sent": totals["sent"], "failed": sum(failures.values()), "failures": failures}))


if __name__ == "__main__":
    main()
