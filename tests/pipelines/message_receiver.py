"""A server on this machine that takes what apprise sends: a real service for the tests of alerts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Receiver(NamedTuple):
    """Its apprise address, the messages that it took, and those that it refused."""

    address: str
    accepted: list[dict]
    refused: list[dict]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A running server; it answers 500 where a path says 'refuse'."""
    accepted: list[dict] = []
    refused: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            refuse = "refuse" in self.path
            (refused if refuse else accepted).append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if refuse else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Receiver(f"json://127.0.0.1:{listening.server_port}", accepted, refused)
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
