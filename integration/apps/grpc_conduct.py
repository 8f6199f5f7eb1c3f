#!/usr/bin/env python3
"""How gRPC calls end, by grpcio on both sides, with bytes as messages.

    grpc_conduct.py serve PORT [limits]     limits: few streams at once, and connections that live for half a second
    grpc_conduct.py call TARGET CASE...     one JSON object a case; exits with 1 when one is not as it must be
"""
import concurrent.futures
import json
import random
import sys
import threading
import time

import grpc

SERVICE = "weft.test.Conduct"
LARGE = 64 << 20
SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
LIMITS = [
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_connection_age_ms", 500),
    ("grpc.max_connection_age_grace_ms", 20_000),
]
PINGS = [
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
BINARY = bytes(range(256))
DETAILS = b"\x08\x09\x12\x04\x00\xff\x80\n"
fates = {}
changed = threading.Condition()


def watch(context):
    """Notes under the call's name how long after its start it ended, and whether it was the client who ended it."""
    name = dict(context.invocation_metadata())["call"]
    started, whole = time.monotonic(), threading.Event()

    def ended():
        with changed:
            fates[name] = {"seconds": time.monotonic() - started, "left": not whole.is_set()}
            changed.notify_all()

    context.add_callback(ended)
    return whole


def fail(request, context):
    context.set_trailing_metadata((("grpc-status-details-bin", DETAILS), ("x-trailer", "kept")))
    context.abort(next(code for code in grpc.StatusCode if code.value[0] == int(request)), "no: 100% – ünicode\n\"")


def fail_late(request, context):
    for index in range(3):
        yield str(index).encode()
    fail(request, context)


def metadata(request, context):
    seen = [(key, value) for key, value in context.invocation_metadata() if key in ("sent-bin", "sent", "two")]
    context.send_initial_metadata(tuple(("head-" + key, value) for key, value in seen))
    context.set_trailing_metadata(tuple(("trail-" + key, value) for key, value in seen))
    return request


def wait(request, context):
    watch(context)
    while context.is_active():
        time.sleep(0.01)
    return b""


def wait_stream(request, context):
    watch(context)
    while context.is_active():
        yield b"tick"
        time.sleep(0.01)


def wait_upload(requests, context):
    watch(context)
    for _ in requests:
        pass
    return b""


def stop_early(requests, context):
    """Answers after the first message, whatever follows."""
    for first in requests:
        return first
    return b"none"


def fate(request, _context):
    name = request.decode()
    with changed:
        changed.wait_for(lambda: name in fates, timeout=10)
        return json.dumps(fates.get(name)).encode()


def echo(request, context):
    time.sleep(float(dict(context.invocation_metadata()).get("after", 0)))
    return request


def size(request, _context):
    return str(len(request)).encode()


def produce(request, _context):
    return b"0123456789abcdef" * (int(request) // 16)


def ticks(request, _context):
    for index in range(int(request)):
        yield str(index).encode()
        time.sleep(0.05)


def pressed(request, context):
    context.set_compression(grpc.Compression.Gzip)
    return request


def serve(port, options):
    one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Fail": one(fail), "FailLate": many(fail_late), "Metadata": one(metadata), "Wait": one(wait),
        "WaitStream": many(wait_stream), "WaitUpload": grpc.stream_unary_rpc_method_handler(wait_upload),
        "StopEarly": grpc.stream_unary_rpc_method_handler(stop_early), "Fate": one(fate), "Echo": one(echo),
        "Size": one(size), "Produce": one(produce), "Ticks": many(ticks), "Pressed": one(pressed),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=64), options=SIZES + options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


class Client:
    def __init__(self, target, options=()):
        self.channel = grpc.insecure_channel(target, options=SIZES + list(options))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def one(self, name):
        return self.channel.unary_unary(f"/{SERVICE}/{name}")

    def many(self, name):
        return self.channel.unary_stream(f"/{SERVICE}/{name}")

    def upload(self, name):
        return self.channel.stream_unary(f"/{SERVICE}/{name}")

    def fate(self, name):
        found = json.loads(self.one("Fate")(name.encode(), timeout=20))
        assert found is not None, f"the server does not know that {name} has ended"
        return found


def failure(call):
    """What a call that must fail failed with."""
    try:
        result = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"no error but {result!r}")


def check_status(error, code):
    assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
    assert error.details() == "no: 100% – ünicode\n\"", error.details()
    trailers = dict(error.trailing_metadata())
    assert trailers["grpc-status-details-bin"] == DETAILS and trailers["x-trailer"] == "kept", trailers


def case_statuses(client):
    for code in grpc.StatusCode:
        if code != grpc.StatusCode.OK:
            value = str(code.value[0]).encode()
            check_status(failure(lambda: client.one("Fail")(value, timeout=10)), code)
            replies = client.many("FailLate")(value, timeout=10)
            assert [next(replies) for _ in range(3)] == [b"0", b"1", b"2"]
            check_status(failure(lambda: next(replies)), code)


def case_metadata(client):
    sent = (("sent-bin", BINARY), ("sent-bin", b""), ("sent", "a, b;c=\"d\""), ("two", "1"), ("two", "2"))
    reply, call = client.one("Metadata").with_call(b"m", metadata=sent, timeout=10)
    assert reply == b"m"
    for place, seen in (("head-", call.initial_metadata()), ("trail-", call.trailing_metadata())):
        found = sorted((key, value) for key, value in seen if key.startswith(place))
        assert found == sorted((place + key, value) for key, value in sent), found


def case_deadline(client):
    for kind, name in ((client.one, "Wait"), (client.many, "WaitStream")):
        key = f"deadline-{name}-{random.random()}"
        started = time.monotonic()
        error = failure(lambda: list(kind(name)(b"", metadata=(("call", key),), timeout=1)))
        took = time.monotonic() - started
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, (error.code(), error.details())
        # Not before, and when it is over: a machine at work may be late by seconds.
        assert 0.9 < took < 5, took
        fate = client.fate(key)
        assert fate["left"] and 0.5 < fate["seconds"] < 5, fate


def case_cancel(client):
    def cancelled(name, begin):
        key = f"cancel-{name}-{random.random()}"
        call = begin(metadata=(("call", key),), timeout=30)
        return key, call

    key, call = cancelled("Wait", lambda **more: client.one("Wait").future(b"", **more))
    # Something that went the same way later has arrived.
    assert client.one("Echo")(b"x", timeout=10) == b"x"
    call.cancel()
    assert client.fate(key)["left"]
    key, call = cancelled("WaitStream", lambda **more: client.many("WaitStream")(b"", **more))
    assert next(call) == b"tick"
    call.cancel()
    assert client.fate(key)["left"]
    stop = threading.Event()

    def endless():
        while not stop.wait(0.01):
            yield b"x" * 1000

    key, call = cancelled("WaitUpload", lambda **more: client.upload("WaitUpload").future(endless(), **more))
    assert client.one("Echo")(b"x", timeout=10) == b"x"
    call.cancel()
    stop.set()
    assert client.fate(key)["left"]


def case_stop_early(client):
    stop = threading.Event()

    def endless():
        yield b"first"
        while not stop.wait(0.001):
            yield b"x" * 10_000

    assert client.upload("StopEarly")(endless(), timeout=20) == b"first"
    stop.set()


def case_large(client):
    assert client.one("Size")(b"x" * LARGE, timeout=60) == str(LARGE).encode()
    reply = client.one("Produce")(str(LARGE).encode(), timeout=60)
    assert len(reply) == LARGE and reply[-16:] == b"0123456789abcdef"


def case_compression(client):
    text = b"compress me " * 200_000
    reply = client.one("Pressed")(text, compression=grpc.Compression.Gzip, timeout=20)
    assert reply == text


def case_pings(client):
    with Client(client.target, PINGS) as pinging:
        assert list(pinging.many("Ticks")(b"40", timeout=30))[-1] == b"39"
        # Neither call nor connection was given up while nothing but PING moved.
        assert pinging.one("Echo")(b"x", metadata=(("after", "3"),), timeout=30) == b"x"


def case_many(client):
    """More calls at once than the server takes on a connection, while its connections come and go."""
    def unary(index):
        after = random.random() / 4
        return client.one("Echo")(str(index).encode(), metadata=(("after", str(after)),), timeout=30)

    with concurrent.futures.ThreadPoolExecutor(max_workers=24) as pool:
        streams = [pool.submit(lambda: list(client.many("Ticks")(b"30", timeout=30))) for _ in range(3)]
        calls = [pool.submit(unary, index) for index in range(150)]
        assert [call.result() for call in calls] == [str(index).encode() for index in range(150)]
        for stream in streams:
            assert stream.result() == [str(index).encode() for index in range(30)]


CASES = {name[5:].replace("_", "-"): case for name, case in list(globals().items()) if name.startswith("case_")}


def call(target, names):
    failed = False
    with Client(target) as client:
        client.target = target
        for name in names:
            started = time.monotonic()
            try:
                CASES[name](client)
                outcome = "ok"
            except (AssertionError, grpc.RpcError) as error:
                outcome, failed = str(error) or repr(error), True
            seconds = round(time.monotonic() - started, 3)
            print(json.dumps({"case": name, "outcome": outcome, "seconds": seconds}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), LIMITS if sys.argv[3:] == ["limits"] else [])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
