"""A WebSocket server: websocket_server.py NAME. Echoes; a text message may be an order instead."""

import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from common import started

NAME = sys.argv[1]
# Of connections that clients closed, the latest first.
closed, change = [], threading.Condition()


def handle(connection):
    try:
        for message in connection:
            order, *rest = message.split(" ", 2) if isinstance(message, str) else [None]
            if order == "close":
                connection.close(int(rest[0]), rest[1])
                return
            if order == "ping":
                connection.send(f"pong after {connection.ping().wait(10)}")
            elif order == "vanish":
                connection.socket.close()
                return
            elif order == "closed":
                with change:
                    change.wait_for(lambda: closed, 10)
                    connection.send(closed.pop() if closed else "nobody")
            else:
                connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        if connection.protocol.close_rcvd and connection.protocol.close_rcvd_then_sent:
            frame = connection.protocol.close_rcvd
            with change:
                closed.append(f"{int(frame.code)} {frame.reason}")
                change.notify_all()


def name(connection, request, response):
    response.headers["Served-By"] = NAME
    for key in ("X-Forwarded-Proto", "Cookie"):
        response.headers[f"Seen-{key}"] = request.headers.get(key, "")


def choose(connection, subprotocols):
    return "chat.v1" if "chat.v1" in subprotocols else None


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", 0, process_response=name, select_subprotocol=choose, max_size=None) as server:
        started(server.socket.getsockname()[1])
        server.serve_forever()
