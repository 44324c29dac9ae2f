"""Serves a store's reports beside Dagster's UI, so that an asset's page can link to its section of the report.

Belongs here: that server, for this machine alone. Does not: making reports, Dagster's own server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 1.0


class ReportsHandler(SimpleHTTPRequestHandler):
    """Files of one folder; nothing for a page of another origin that has this machine's address in its name."""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] in (HOST, "localhost"):
            super().do_GET()
        else:
            self.send_error(HTTPStatus.FORBIDDEN)

    def log_message(self, *_args: object) -> None:
        """Say nothing: the terminal is Dagster's."""


def start_beside(reports: Path, port: int) -> str | None:
    """Serve a folder from a process that ends with this one; its address, or None where the port is taken."""
    try:
        ThreadingHTTPServer((HOST, port), ReportsHandler).server_close()
    except OSError:
        return None
    command = [sys.executable, "-m", "pipelines.reports_server", str(reports), str(port)]
    subprocess.Popen(command, start_new_session=True)  # noqa: S603
    return f"http://{HOST}:{port}"


def serve(reports: Path, port: int, parent: int) -> None:
    """Serve until the parent process is gone."""
    with ThreadingHTTPServer((HOST, port), partial(ReportsHandler, directory=str(reports))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        server.shutdown()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), os.getppid())
