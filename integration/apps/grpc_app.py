#!/usr/bin/env python3
"""gRPC server and client by grpcio, with bytes as messages so that nothing has to be generated.

    grpc_app.py serve PORT
    grpc_app.py call TARGET CASE      CASE: unary server-stream client-stream bidi error missing deadline cancel
                                       large all (cancel asks the server afterwards: there must be one only)

The client prints one JSON object a case and exits with 1 when one is not as it must be.
"""
import concurrent.futures
import json
import os
import sys
import threading
import time

import grpc

SERVICE = "weft.test.Echo"
LARGE = 64 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
POD = os.environ.get("WEFT_INSTANCE", "")
TRAILERS = (("x-trailer", "kept"), ("x-pod", POD), ("bin-bin", b"\x00\xff"))
cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata(TRAILERS)
    seen = dict(context.invocation_metadata())
    if request == b"metadata":
        return json.dumps({key: value for key, value in seen.items() if isinstance(value, str)}).encode()
    return request


def server_stream(request, _context):
    for index in range(int(request)):
        yield str(index).encode()


def client_stream(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def bidi(requests, _context):
    for request in requests:
        yield b"re:" + request


def error(_request, context):
    context.set_trailing_metadata(TRAILERS)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100% – ünicode")


def slow(_request, context):
    context.add_callback(cancelled.set)
    time.sleep(5)
    return b"late"


def was_cancelled(_request, _context):
    return b"yes" if cancelled.wait(3) else b"no"


def serve(port):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Error": grpc.unary_unary_rpc_method_handler(error),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def check_trailers(call):
    trailers = dict(call.trailing_metadata())
    assert trailers["x-trailer"] == "kept" and "x-pod" in trailers and trailers["bin-bin"] == b"\x00\xff", trailers


def case_unary(channel):
    for message in (b"hello", b"", b"x" * 100_000):
        reply, call = channel.unary_unary(f"/{SERVICE}/Unary").with_call(message, timeout=10)
        assert reply == message, reply
        check_trailers(call)


def case_server_stream(channel):
    replies = list(channel.unary_stream(f"/{SERVICE}/ServerStream")(b"1000", timeout=30))
    assert replies == [str(index).encode() for index in range(1000)], len(replies)


def case_client_stream(channel):
    reply = channel.stream_unary(f"/{SERVICE}/ClientStream")((b"x" * 1000 for _ in range(100)), timeout=30)
    assert reply == b"100000", reply


def case_bidi(channel):
    turn = threading.Semaphore(1)

    def requests():
        for index in range(50):
            turn.acquire()
            yield str(index).encode()

    seen = []
    for reply in channel.stream_stream(f"/{SERVICE}/Bidi")(requests(), timeout=30):
        seen.append(reply)
        turn.release()
    assert seen == [f"re:{index}".encode() for index in range(50)], seen


def case_error(channel):
    try:
        channel.unary_unary(f"/{SERVICE}/Error")(b"", timeout=10)
    except grpc.RpcError as failure:
        assert failure.code() == grpc.StatusCode.FAILED_PRECONDITION, failure.code()
        assert failure.details() == "not today: 100% – ünicode", failure.details()
        check_trailers(failure)
    else:
        raise AssertionError("no error")


def case_missing(channel):
    try:
        channel.unary_unary(f"/{SERVICE}/Missing")(b"", timeout=10)
    except grpc.RpcError as failure:
        assert failure.code() == grpc.StatusCode.UNIMPLEMENTED, failure.code()
    else:
        raise AssertionError("no error")


def case_deadline(channel):
    started = time.monotonic()
    try:
        channel.unary_unary(f"/{SERVICE}/Slow")(b"", timeout=0.5)
    except grpc.RpcError as failure:
        assert failure.code() == grpc.StatusCode.DEADLINE_EXCEEDED, failure.code()
    else:
        raise AssertionError("no error")
    assert time.monotonic() - started < 3


def case_cancel(channel):
    call = channel.unary_unary(f"/{SERVICE}/Slow").future(b"", timeout=10)
    time.sleep(0.3)
    call.cancel()
    assert channel.unary_unary(f"/{SERVICE}/WasCancelled")(b"", timeout=10) == b"yes"


def case_large(channel):
    message = b"0123456789abcdef" * (LARGE // 16)
    assert channel.unary_unary(f"/{SERVICE}/Unary")(message, timeout=60) == message


CASES = {
    "unary": case_unary, "server-stream": case_server_stream, "client-stream": case_client_stream, "bidi": case_bidi,
    "error": case_error, "missing": case_missing, "deadline": case_deadline, "cancel": case_cancel, "large": case_large,
}


def call(target, names):
    failed = False
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        for name in names:
            started = time.monotonic()
            try:
                CASES[name](channel)
                outcome = "ok"
            except (AssertionError, grpc.RpcError) as failure:
                outcome, failed = str(failure) or repr(failure), True
            print(json.dumps({"case": name, "outcome": outcome, "seconds": round(time.monotonic() - started, 3)}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.exit(call(sys.argv[2], list(CASES) if sys.argv[3] == "all" else sys.argv[3:]))
