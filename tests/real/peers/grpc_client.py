"""A gRPC client that does everything a client does: grpc_client.py TARGET [CA.pem]. Ends with a complaint, or tells who
served it."""

import queue
import sys
import time

import grpc

from common import Pinned, check

BOUND = 20


class Client:
    def __init__(self, channel):
        self.channel, self.pinned = channel, Pinned()

    def call(self, kind, method):
        return getattr(self.channel, kind)(f"/stickpin.Peer/{method}")

    def metadata(self):
        cookie = self.pinned.cookie
        return [("cookie", cookie)] if cookie else []

    def saw(self, call):
        metadata = dict_of_lists(call.initial_metadata())
        self.pinned.saw(*metadata.get("served-by", [None]), metadata.get("set-cookie", []))

    def unary(self, method, request):
        reply, call = self.call("unary_unary", method).with_call(request, BOUND, self.metadata())
        self.saw(call)
        return reply, call

    def failure(self, call, code):
        """The error with which it ends."""
        try:
            seen = list(call) if hasattr(call, "__iter__") else call()
            sys.exit(f"{seen!r} instead of {code}")
        except grpc.RpcError as error:
            check("code", error.code(), code)
            return error


def dict_of_lists(metadata):
    found = {}
    for key, value in metadata or []:
        found.setdefault(key, []).append(value)
    return found


def unary(client):
    for size in (0, 1, 1_000, 3_000_000):
        message = bytes(byte % 251 for byte in range(size))
        reply, call = client.unary("Unary", message)
        check(f"the echo of {size} bytes", reply == message, True)
        check("trailers", dict_of_lists(call.trailing_metadata()).get("bytes-seen"), [str(size)])
        check("code", call.code(), grpc.StatusCode.OK)


def client_stream(client):
    parts = [str(number).encode() * 50 for number in range(200)]
    reply, call = client.call("stream_unary", "ClientStream").with_call(iter(parts), BOUND, client.metadata())
    client.saw(call)
    check("all parts", reply, b"|".join(parts))


def server_stream(client):
    call = client.call("unary_stream", "ServerStream")(b"500", BOUND, client.metadata())
    seen = list(call)
    client.saw(call)
    check("all parts", seen, [str(number).encode() * 100 for number in range(500)])


def two_way(client):
    """Each message is sent only once the one before has come back: nothing on the way may wait for more."""
    asked = queue.Queue()
    call = client.call("stream_stream", "TwoWay")(iter(asked.get, None), BOUND, client.metadata())
    for number in range(100):
        asked.put(f"message {number}".encode())
        check("the answer", next(call), f"MESSAGE {number}".encode())
    asked.put(None)
    check("the end", next(call, "end"), "end")
    client.saw(call)
    check("code", call.code(), grpc.StatusCode.OK)


def statuses(client):
    error = client.failure(lambda: client.call("unary_unary", "Fail")(b"", BOUND, client.metadata()),
                           grpc.StatusCode.FAILED_PRECONDITION)
    check("details", error.details(), "nicht möglich: 100 %")
    trailers = dict_of_lists(error.trailing_metadata())
    check("trailer", trailers.get("why"), ["as asked"])
    check("binary trailer", trailers.get("detail-bin"), [bytes(range(256))])
    error = client.failure(client.call("unary_stream", "FailLate")(b"", BOUND, client.metadata()),
                           grpc.StatusCode.DATA_LOSS)
    check("details", error.details(), "after the first")
    client.failure(lambda: client.call("unary_unary", "Nothing")(b"", BOUND, client.metadata()),
                   grpc.StatusCode.UNIMPLEMENTED)


def deadlines_and_cancels(client):
    """The server has to learn of both, or it would work for nobody."""
    call = client.call("unary_stream", "Hang")(b"", 1, client.metadata())
    client.failure(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    check("the server saw the deadline", client.unary("OneWasCancelled", b"")[0], b"yes")
    call = client.call("unary_stream", "Hang")(b"", BOUND, client.metadata())
    check("it hangs", next(call), b"hanging")
    client.saw(call)
    call.cancel()
    client.failure(call, grpc.StatusCode.CANCELLED)
    check("the server saw the cancel", client.unary("OneWasCancelled", b"")[0], b"yes")


def many_at_once(client):
    """On one connection."""
    calls = [client.call("unary_unary", "Unary").future(str(number).encode(), BOUND, client.metadata())
             for number in range(100)]
    for number, call in enumerate(calls):
        check("the answer", call.result(), str(number).encode())
        client.saw(call)


def metadata(client):
    ours = [("x-ascii", "a b;c"), ("x-twice", "1"), ("x-twice", "2"), ("x-bin", b"\0\1\xff")]
    reply, call = client.call("unary_unary", "Seen").with_call(b"", BOUND, client.metadata() + ours)
    client.saw(call)
    lines = reply.decode().splitlines()
    for key, value in ours:
        # Two of one name may come as one.
        found = [line for line in lines if line.startswith(f"{key}: ")]
        if key == "x-twice":
            check(key, "".join(found).replace("x-twice: ", "").replace(",", "").replace(" ", ""), "12")
        else:
            check(key, found, [f"{key}: {value}"])
    check("the pin stays with the proxy", [line for line in lines if line.startswith("cookie")], [])


def main():
    target, *ca_file = sys.argv[1:]
    if ca_file:
        with open(ca_file[0], "rb") as file:
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(target)
    with channel:
        client = Client(channel)
        for part in (unary, client_stream, server_stream, two_way, statuses, deadlines_and_cancels, many_at_once,
                     metadata):
            began = time.monotonic()
            part(client)
            print(f"{part.__name__}: {time.monotonic() - began:.2f} s", file=sys.stderr)
        client.pinned.one_home()


if __name__ == "__main__":
    main()
