"""An S3 server on loopback: moto's, whose requests are answered one after another.

moto looks whether `If-None-Match: *` holds and then puts, without a lock in between, so of two puts at once both may
succeed. S3 and its kin answer one of them with 412. One lock around the application makes moto do so, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUCKET = "gap-store"
KEY, SECRET = "an-id", "a-word-that-nobody-may-read"


@contextmanager
def object_store(*, serial: bool = True) -> Iterator[str]:
    """Serve an empty bucket; yields the address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_by_one(environment, respond):
        with lock:
            return application(environment, respond)

    served = one_by_one if serial else application
    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        urlopen(f"{address}/moto-api/reset", data=b"")  # moto's buckets outlive its server
        client = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        client.create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def options_of(address: str) -> dict[str, str]:
    """What a config says of it."""
    return {
        "aws_endpoint_url": address, "aws_allow_http": "true", "aws_region": "us-east-1",
        "aws_access_key_id": KEY, "aws_secret_access_key": "${STORE_SECRET}",
    }  # fmt: skip
