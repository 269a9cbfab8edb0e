"""A WebSocket server: websocket_server.py NAME. Echoes; a text message may be an order instead. And a page for browsers."""

import sys
import threading

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
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
            elif order == "name":
                connection.send(NAME)
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


# It is loaded when /until is, which is answered behind /done: when the WebSocket has been closed.
PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>page</title><link rel=icon href=data:,>
<img src=/until>
<pre id=seen></pre>
<script>
  const seen = ["%s"], socket = new WebSocket(`wss://${location.host}/`);
  const messages = ["name", "gr\\u00fc\\u00dfe", "x".repeat(300000)], expected = [seen[0], ...messages.slice(1)];
  socket.onopen = () => messages.forEach(it => socket.send(it));
  socket.onerror = () => seen.push("error");
  socket.onmessage = ({data}) => {
    seen.push(data === expected.shift() ? "echo" : data);
    if (!expected.length) { expected.push(null); socket.send("close 4321 enough"); }
  };
  socket.onclose = end => {
    seen.push(end.code, end.reason);
    document.getElementById("seen").textContent = JSON.stringify(seen);
    fetch("/done");
  };
</script></html>
""" % NAME
done = threading.Event()


def page(connection, request):
    """`None` for what is no page."""
    if request.path == "/page":
        done.clear()
        return reply("text/html; charset=utf-8", PAGE)
    if request.path == "/done":
        done.set()
        return reply("text/plain", "thanks")
    if request.path == "/until":
        done.wait(20)
        return reply("image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    return None


def reply(kind, text):
    body = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    return Response(200, "OK", Headers(headers), body)


def name(connection, request, response):
    if response.status_code != 101:
        return
    response.headers["Served-By"] = NAME
    for key in ("X-Forwarded-Proto", "Cookie"):
        response.headers[f"Seen-{key}"] = request.headers.get(key, "")


def choose(connection, subprotocols):
    return "chat.v1" if "chat.v1" in subprotocols else None


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", 0, process_request=page, process_response=name, select_subprotocol=choose,
               max_size=None) as server:
        started(server.socket.getsockname()[1])
        server.serve_forever()
