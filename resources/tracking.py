"""Figures of a report logged to an MLflow server, besides what the store keeps.

Belongs here: MLflow's REST API over plain HTTP, so that no package of its is needed, and never a failed run because of
it. Does not: which figures a report has.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

_log = logging.getLogger(__name__)

API = "/api/2.0/mlflow/"
TIMEOUT = 10.0
LONGEST_PARAM = 500
"""Characters of a parameter that every backend of MLflow takes."""
MOST_PARAMS = 100
NOT_FOUND = 404


@dataclass(frozen=True)
class Tracker:
    """Logs runs to the server at `uri` under an experiment; does nothing without a `uri`.

    Credentials are those of the address, or MLflow's own MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
    MLFLOW_TRACKING_TOKEN.
    """

    uri: str | None = None
    experiment: str = "domain-gap"

    def log(
        self, name: str, metrics: Mapping[str, float | int | None], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> str | None:
        """Log one run; its id, or None where nothing was logged. What can't be reached is a warning with the host.

        Metrics that are not finite are left out.
        """
        if self.uri is None:
            return None
        try:
            return self._logged(name, metrics, params, tags)
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:  # HTTPError is an OSError
            said = f"HTTP {error.code}" if isinstance(error, HTTPError) else type(error).__name__
            _log.warning("figures of %s not logged to MLflow at %s: %s", name, urlsplit(self.uri).hostname, said)
            return None

    def _logged(self, name: str, metrics: Mapping[str, Any], params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        now = _milliseconds()
        finite = {key: float(value) for key, value in metrics.items() if value is not None and math.isfinite(value)}
        run = self._call("runs/create", {
            "experiment_id": self._experiment(), "run_name": name, "start_time": now,
            "tags": _pairs({"mlflow.runName": name, **tags}),
        })["run"]["info"]  # fmt: skip
        run_id = str(run.get("run_id") or run["run_uuid"])
        self._call("runs/log-batch", {
            "run_id": run_id,
            "metrics": [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in finite.items()],
            "params": _pairs({key: params[key][:LONGEST_PARAM] for key in list(params)[:MOST_PARAMS]}),
        })  # fmt: skip
        self._call("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": _milliseconds()})
        return run_id

    def _experiment(self) -> str:
        """The experiment's id; it is made where there is none."""
        query = urlencode({"experiment_name": self.experiment})
        try:
            found = self._call(f"experiments/get-by-name?{query}", None)
        except HTTPError as error:
            if error.code != NOT_FOUND:
                raise
            return str(self._call("experiments/create", {"name": self.experiment})["experiment_id"])
        return str(found["experiment"]["experiment_id"])

    def _call(self, path: str, body: Mapping[str, Any] | None) -> Any:
        parts = urlsplit(self.uri or "")
        host = parts.netloc.rpartition("@")[2]
        address = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + API, "", "")) + path
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = Request(address, data, {"Content-Type": "application/json"})  # noqa: S310 -- the config takes http(s)
        authorization = _authorization(parts.username, parts.password)
        if authorization is not None:
            request.add_unredirected_header("Authorization", authorization)  # another host must not be told
        with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return json.loads(answer.read() or b"{}")


def _authorization(user: str | None, password: str | None) -> str | None:
    if user is None and (token := os.environ.get("MLFLOW_TRACKING_TOKEN")):
        return f"Bearer {token}"
    name = unquote(user) if user is not None else os.environ.get("MLFLOW_TRACKING_USERNAME")
    secret = unquote(password or "") if user is not None else os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode() if name is not None else None


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _milliseconds() -> int:
    return int(time.time() * 1000)
