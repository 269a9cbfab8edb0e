"""What the servers of this folder have in common."""

import os
import sys
import threading


def started(port):
    """Says where it listens, and ends with whoever started it."""
    print(f"listening on {port}", flush=True)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin():
    sys.stdin.read()
    os._exit(0)


class Pinned:
    """A client of one proxy: keeps the pin, and knows who served it."""

    def __init__(self):
        self.cookie = None
        self.servers = []

    def saw(self, server, cookies):
        for cookie in cookies:
            self.cookie = cookie.partition(";")[0]
        if not server or not self.cookie:
            sys.exit(f"served by {server!r}, pinned by {self.cookie!r}")
        self.servers.append(server)

    def one_home(self):
        if len(set(self.servers)) != 1:
            sys.exit(f"the pin was not kept: {self.servers}")
        print(f"{len(self.servers)} times served by {self.servers[0]}")


def check(what, seen, expected):
    if seen != expected:
        sys.exit(f"{what}: {seen!r} instead of {expected!r}")
