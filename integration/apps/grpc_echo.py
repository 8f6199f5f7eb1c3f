"""All four kinds of gRPC call with grpcio, without generated code: messages are raw bytes.

Usage: grpc_echo.py serve PORT
       grpc_echo.py call HOST:PORT
"""

import os
import sys
from concurrent import futures

import grpc

POD = os.environ.get("WEFT_INSTANCE", "")


def unary(request, context):
    context.set_trailing_metadata((("x-pod", POD), ("bin-bin", b"\x00\xff")))
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return str(sum(int(request) for request in requests)).encode()


def both(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    context.set_trailing_metadata((("x-pod", POD),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked, 100% \N{SNOWMAN}")


def serve(port):
    handlers = grpc.method_handlers_generic_handler(
        "weft.test.Echo",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "Both": grpc.stream_stream_rpc_method_handler(both),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
        },
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((handlers,))
    assert server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def call(target):
    with grpc.insecure_channel(target) as channel:
        path = "/weft.test.Echo/"
        reply, info = channel.unary_unary(path + "Unary").with_call(b"x" * 100_000, timeout=20)
        assert reply == b"x" * 100_000
        trailers = dict(info.trailing_metadata())
        assert trailers["x-pod"] and trailers["bin-bin"] == b"\x00\xff", trailers
        assert list(channel.unary_stream(path + "ServerStream")(b"500", timeout=20)) == [
            str(number).encode() for number in range(500)
        ]
        numbers = (str(number).encode() for number in range(500))
        assert channel.stream_unary(path + "ClientStream")(numbers, timeout=20) == b"124750"
        words = [b"one", b"two", b"three"]
        assert list(channel.stream_stream(path + "Both")(iter(words), timeout=20)) == [word.upper() for word in words]
        try:
            channel.unary_unary(path + "Fail")(b"", timeout=20)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "as asked, 100% \N{SNOWMAN}", error.details()
            assert dict(error.trailing_metadata())["x-pod"]
        try:
            channel.unary_unary(path + "Missing")(b"", timeout=20)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("all kinds work")


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    call(sys.argv[2])
