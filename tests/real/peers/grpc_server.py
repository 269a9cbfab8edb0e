"""A gRPC server: grpc_server.py NAME. Messages are bytes as they are; plain HTTP/2, as backends speak it."""

import sys
import threading
from concurrent import futures

import grpc

from common import started

NAME = sys.argv[1]
cancelled = threading.Semaphore(0)


def served(context):
    context.send_initial_metadata([("served-by", NAME)])


def unary(request, context):
    served(context)
    context.set_trailing_metadata([("bytes-seen", str(len(request)))])
    return request


def client_stream(requests, context):
    served(context)
    return b"|".join(requests)


def server_stream(request, context):
    served(context)
    for number in range(int(request)):
        yield str(number).encode() * 100


def two_way(requests, context):
    served(context)
    for request in requests:
        yield request.upper()


def fail(request, context):
    served(context)
    context.set_trailing_metadata([("why", "as asked"), ("detail-bin", bytes(range(256)))])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100 %")


def fail_late(request, context):
    served(context)
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "after the first")


def hang(request, context):
    """Until the client does not want it any more."""
    served(context)
    done = threading.Event()
    context.add_callback(done.set)
    yield b"hanging"
    if done.wait(30):
        cancelled.release()


def one_was_cancelled(request, context):
    """Waits for the end of a `hang`."""
    served(context)
    return b"yes" if cancelled.acquire(timeout=10) else b"no"


def seen(request, context):
    """The metadata that came."""
    served(context)
    return "\n".join(f"{key}: {value}" for key, value in context.invocation_metadata()).encode()


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "TwoWay": grpc.stream_stream_rpc_method_handler(two_way),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Hang": grpc.unary_stream_rpc_method_handler(hang),
    "OneWasCancelled": grpc.unary_unary_rpc_method_handler(one_was_cancelled),
    "Seen": grpc.unary_unary_rpc_method_handler(seen),
}

if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("stickpin.Peer", METHODS)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    started(port)
    server.wait_for_termination()
