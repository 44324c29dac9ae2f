"""Figures reach an MLflow server by its REST API; a server that is away is a warning, never a failure."""

from __future__ import annotations

import base64
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from resources.config import TrackingConfig
from resources.tracking import Tracker


class Server(ThreadingHTTPServer):
    """The endpoints that a log needs, as MLflow's documentation of its REST API has them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.headers: list[str | None] = []
        self.refuse: int | None = None

    @property
    def port(self) -> int:
        return self.server_address[1]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: dict | None) -> None:
        parts = urlsplit(self.path)
        self.server.headers.append(self.headers["Authorization"])
        status, content = self.of(parts.path.removeprefix("/api/2.0/mlflow/"), parse_qs(parts.query), body)
        self.send_response(self.server.refuse or status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def of(self, endpoint: str, query: dict, body: dict | None) -> tuple[int, dict]:
        known, runs = self.server.experiments, self.server.runs
        if endpoint == "experiments/get-by-name":
            name = query["experiment_name"][0]
            if name not in known:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}
            return 200, {"experiment": {"experiment_id": known[name], "name": name}}
        if endpoint == "experiments/create":
            known[body["name"]] = str(len(known) + 7)
            return 200, {"experiment_id": known[body["name"]]}
        if endpoint == "runs/create":
            run_id = f"run{len(runs)}"
            runs[run_id] = {"created": body}
            return 200, {"run": {"info": {"run_id": run_id, "experiment_id": body["experiment_id"]}}}
        if endpoint in ("runs/log-batch", "runs/update"):
            runs[body["run_id"]][endpoint] = body
            return 200, {}
        return 404, {}

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def logged(tracker: Tracker, **metrics) -> str | None:
    return tracker.log("kitti", metrics or {"loss_gap": 0.3}, {"model": "m", "long": "x" * 900}, {"headline": "h"})


def test_a_run_holds_what_was_logged_and_is_finished(server):
    tracker = Tracker(f"http://127.0.0.1:{server.port}/", "my gaps & more")
    run_id = logged(tracker, loss_gap=0.25, confirmed=2, unknown=None, undefined=float("nan"), endless=float("inf"))
    run = server.runs[run_id]
    assert list(server.experiments) == ["my gaps & more"]
    assert run["created"]["experiment_id"] == "7" and run["created"]["run_name"] == "kitti"
    assert {"key": "headline", "value": "h"} in run["created"]["tags"]
    batch = run["runs/log-batch"]
    assert {row["key"]: row["value"] for row in batch["metrics"]} == {"loss_gap": 0.25, "confirmed": 2.0}
    assert all(row["timestamp"] > 1.6e12 and row["step"] == 0 for row in batch["metrics"])
    assert {row["key"]: len(row["value"]) for row in batch["params"]} == {"model": 1, "long": 500}
    assert run["runs/update"]["status"] == "FINISHED"
    assert run["runs/update"]["end_time"] >= run["created"]["start_time"]


def test_a_second_run_goes_into_the_same_experiment(server):
    tracker = Tracker(f"http://127.0.0.1:{server.port}")
    assert logged(tracker) != logged(tracker)
    assert server.experiments == {"domain-gap": "7"} and len(server.runs) == 2
    assert set(server.headers) == {None}


def test_credentials_of_the_address_and_of_the_environment_are_sent(server, monkeypatch):
    def sent(tracker: Tracker) -> str | None:
        server.headers.clear()
        assert logged(tracker)
        [header] = set(server.headers)
        return header

    basic = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert sent(Tracker(f"http://me:p%40ss@127.0.0.1:{server.port}")) == basic
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss")
    assert sent(Tracker(f"http://127.0.0.1:{server.port}")) == basic
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert sent(Tracker(f"http://127.0.0.1:{server.port}")) == "Bearer t"


def test_without_an_address_nothing_is_sent():
    assert logged(Tracker()) is None


def test_a_server_that_refuses_or_is_away_is_a_warning_without_secrets(server, caplog):
    uri = f"http://me:secret@127.0.0.1:{server.port}"
    server.refuse = 503
    with caplog.at_level(logging.WARNING):
        assert logged(Tracker(uri)) is None
    assert "figures of kitti not logged to MLflow at 127.0.0.1: HTTP 503" in caplog.text
    server.shutdown()
    server.server_close()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert logged(Tracker(uri)) is None
    assert "not logged to MLflow at 127.0.0.1" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("uri", ["localhost:5000", "file:///tmp/runs", "http://", "ftp://host"])
def test_other_addresses_are_refused(uri):
    with pytest.raises(ValueError, match="expected the address of an MLflow server"):
        TrackingConfig(mlflow=uri)
