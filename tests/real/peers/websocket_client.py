"""A WebSocket client that does everything a client does: websocket_client.py URL [CA.pem]. Ends with a complaint, or tells
who served it."""

import os
import ssl
import sys
import time

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import connect

from common import Pinned, check

BOUND = 20


class Client:
    def __init__(self, url, tls):
        self.url, self.tls, self.pinned = url, tls, Pinned()

    def open(self, **settings):
        headers = [("Cookie", f"app=1; {self.pinned.cookie}")] if self.pinned.cookie else []
        connection = connect(self.url, ssl=self.tls, additional_headers=headers, max_size=None, open_timeout=BOUND,
                             close_timeout=BOUND, proxy=None, **settings)
        headers = connection.response.headers
        self.pinned.saw(headers.get("Served-By"), headers.get_all("Set-Cookie"))
        return connection


def echo(client):
    for compression in ("deflate", None):
        with client.open(compression=compression) as connection:
            for message in ("", "grüße", "x" * 70_000, b"", b"\0\xff" * 10, os.urandom(200_000)):
                connection.send(message)
                check("the echo", connection.recv(BOUND) == message, True)


def large_messages(client):
    message = os.urandom(8 << 20)
    with client.open(compression=None) as connection:
        connection.send(message)
        check("8 MiB in one frame", connection.recv(BOUND) == message, True)
        connection.send(message[at:at + 100_000] for at in range(0, len(message), 100_000))
        check("8 MiB in many frames", connection.recv(BOUND) == message, True)


def pings(client):
    with client.open() as connection:
        check("our ping comes back", connection.ping(b"one").wait(BOUND), True)
        connection.send("ping")
        check("theirs too", connection.recv(BOUND), "pong after True")


def close_codes(client):
    with client.open() as connection:
        connection.send("close 4001 enough of it")
        try:
            sys.exit(f"{connection.recv(BOUND)!r} instead of a close")
        except ConnectionClosed as end:
            check("the server's close", (end.rcvd.code, end.rcvd.reason), (4001, "enough of it"))
    with client.open() as connection:
        connection.close(4002, "that is all")
    with client.open() as connection:
        # Those of the other parts came before.
        seen = None
        while seen != "4002 that is all":
            connection.send("closed")
            seen = connection.recv(BOUND)
            if seen == "nobody":
                sys.exit("the server did not see how the client closed")


def ends_without_a_close(client):
    """A server that is gone must not look like one that is slow."""
    with client.open() as connection:
        connection.send("vanish")
        try:
            sys.exit(f"{connection.recv(BOUND)!r} instead of an end")
        except ConnectionClosedError as end:
            check("no close frame", end.rcvd, None)


def handshake(client):
    with client.open(subprotocols=["chat.v1"]) as connection:
        headers = connection.response.headers
        check("the subprotocol", connection.subprotocol, "chat.v1")
        check("what the server was told", headers["Seen-X-Forwarded-Proto"], "https" if client.tls else "http")
        check("the pin stays with the proxy", headers["Seen-Cookie"], "app=1")


def main():
    url, *ca_file = sys.argv[1:]
    client = Client(url, ssl.create_default_context(cafile=ca_file[0]) if ca_file else None)
    for part in (echo, large_messages, pings, close_codes, ends_without_a_close, handshake):
        began = time.monotonic()
        part(client)
        print(f"{part.__name__}: {time.monotonic() - began:.2f} s", file=sys.stderr)
    client.pinned.one_home()


if __name__ == "__main__":
    main()
