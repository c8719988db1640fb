"""What a running Airflow answers about its runs: 3.x over REST, 2.11, which has no simple REST, from its SQLite file.

Standard library only. Both answer the same questions in the same words (`Answers`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

__all__ = ["AirflowError", "Answers", "Database", "Rest", "TaskState", "get_json"]

# No request leaves this machine, whatever proxies the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_DATABASE = "Database error"
"""What the API says when its SQLite was written to by another of Airflow's processes; then it has changed nothing."""
_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries of a request that has met that."""


class AirflowError(RuntimeError):
    """Airflow answered with an error, or not in time."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task instance as Airflow has it now.

    `pid` is its last worker process. `triggerer`, only on 3.x, is the login name of the triggerer that has its trigger.
    """

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    start: datetime | None
    end: datetime | None
    pid: int | None = None
    triggerer: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TaskState:
        """From a row of the database or of the API: the columns are called the same."""
        return cls(
            task_id=row["task_id"],
            map_index=row["map_index"],
            state=row["state"],
            try_number=row["try_number"],
            start=_moment(row["start_date"]),
            end=_moment(row["end_date"]),
            pid=row["pid"],
            triggerer=(row.get("triggerer_job") or {}).get("unixname"),
        )


class Answers(Protocol):
    """The questions."""

    def heartbeats(self) -> dict[str, datetime]:
        """When each component was last heard of."""

    def knows(self, dag_id: str) -> bool:
        """Whether the DAG can be run."""

    def import_errors(self) -> str:
        """The tracebacks of the DAG files that cannot be read."""

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""

    def task_states(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Its task instances, in any order."""

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str, map_index: int) -> Any:
        """What a task left in XCom; AirflowError with status 404 when there is nothing."""


class Rest:
    """Airflow 3.

    Args:
        url: Of the API server.
        user: The name to log in with.
        password: Read when first needed: the API server writes it down as it starts.
        triggerers: The login names of several, if there are; Airflow's own health is that of any one.
    """

    def __init__(self, url: str, user: str, password: Callable[[], str], *, triggerers: Collection[str] = ()) -> None:
        self._url = url
        self._user = user
        self._password = password
        self._triggerers = triggerers
        self._token: str | None = None

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call; `path` is what follows `/api/v2/`."""
        if self._token is None:
            credentials = {"username": self._user, "password": self._password()}
            self._token = str(get_json("POST", f"{self._url}/auth/token", credentials)["access_token"])
        for pause in (*_PAUSES, None):
            try:
                return get_json(method, f"{self._url}/api/v2/{path}", body, token=self._token)
            except AirflowError as error:
                if pause is None or error.status != HTTPStatus.INTERNAL_SERVER_ERROR or _DATABASE not in str(error):
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def heartbeats(self) -> dict[str, datetime]:
        """See Answers."""
        try:
            health = get_json("GET", f"{self._url}/api/v2/monitor/health")
        except AirflowError:
            return {}
        beats = {"api-server": datetime.now(UTC)}
        for key in ("scheduler", "triggerer", "dag_processor"):
            if moment := _moment((health.get(key) or {}).get(f"latest_{key}_heartbeat")):
                beats[key.replace("_", "-")] = moment
        return beats | self._triggerer_heartbeats()

    def _triggerer_heartbeats(self) -> dict[str, datetime]:
        """The newest job of each; one that was killed leaves its job behind."""
        if not self._triggerers:
            return {}
        jobs = self.request("GET", "jobs?job_type=TriggererJob&order_by=latest_heartbeat&limit=1000")["jobs"]
        return {
            job["unixname"]: moment
            for job in jobs
            if job["unixname"] in self._triggerers and (moment := _moment(job["latest_heartbeat"]))
        }

    def knows(self, dag_id: str) -> bool:
        """See Answers."""
        try:
            self.request("GET", f"dags/{_quote(dag_id)}")
        except AirflowError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def import_errors(self) -> str:
        """See Answers."""
        errors = self.request("GET", "importErrors")["import_errors"]
        return "\n".join(f"{each['filename']}:\n{each['stack_trace']}" for each in errors)

    def start_run(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run; returns its id."""
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self.request("POST", f"dags/{_quote(dag_id)}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """See Answers."""
        return str(self.request("GET", _run(dag_id, run_id))["state"])

    def task_states(self, dag_id: str, run_id: str) -> list[TaskState]:
        """See Answers."""
        listing = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances?limit=1000")
        return [TaskState.of(row) for row in listing["task_instances"]]

    def mark(self, dag_id: str, run_id: str, task_id: str, map_index: int, state: str) -> None:
        """See AirflowStack."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{_quote(task_id)}/{map_index}"
        self.request("PATCH", path, {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str, map_index: int, *, keep_task_state: bool) -> None:
        """See AirflowStack."""
        which = task_id if map_index < 0 else [task_id, map_index]
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": [which]}
        if keep_task_state:  # before Airflow 3.4 it is an error to say so
            body["keep_task_state"] = True
        self.request("POST", f"dags/{_quote(dag_id)}/clearTaskInstances", body)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str, map_index: int) -> Any:
        """See Answers."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{_quote(task_id)}/xcomEntries/{_quote(key)}"
        return self.request("GET", f"{path}?map_index={map_index}&stringify=false")["value"]


class Database:
    """Airflow 2.11.

    Args:
        file: The SQLite database, only ever read.
        webserver: The address of the webserver, if there is one.
    """

    def __init__(self, file: Path, webserver: str | None) -> None:
        self._file = file
        self._webserver = webserver

    def heartbeats(self) -> dict[str, datetime]:
        """See Answers."""
        names = {"SchedulerJob": "scheduler", "TriggererJob": "triggerer"}
        rows = self._rows("SELECT job_type, MAX(latest_heartbeat) AS beat FROM job GROUP BY job_type")
        beats = {
            names[row["job_type"]]: moment
            for row in rows
            if row["job_type"] in names and (moment := _moment(row["beat"]))
        }
        if self._webserver is not None:
            with contextlib.suppress(AirflowError):
                get_json("GET", f"{self._webserver}/health")
                beats["webserver"] = datetime.now(UTC)
        return beats

    def knows(self, dag_id: str) -> bool:
        """See Answers."""
        return bool(self._rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id))

    def import_errors(self) -> str:
        """See Answers."""
        rows = self._rows("SELECT filename, stacktrace FROM import_error")
        return "\n".join(f"{row['filename']}:\n{row['stacktrace']}" for row in rows)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """See Answers."""
        rows = self._rows("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        if not rows:
            raise AirflowError(f"no run {run_id} of {dag_id}", status=HTTPStatus.NOT_FOUND)
        return str(rows[0]["state"])

    def task_states(self, dag_id: str, run_id: str) -> list[TaskState]:
        """See Answers."""
        rows = self._rows("SELECT * FROM task_instance WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        return [TaskState.of(row) for row in rows]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str, map_index: int) -> Any:
        """See Answers."""
        rows = self._rows(
            "SELECT value FROM xcom WHERE dag_id = ? AND run_id = ? AND task_id = ? AND key = ? AND map_index = ?",
            *(dag_id, run_id, task_id, key, map_index),
        )
        if not rows:
            raise AirflowError(f"no XCom {key} of {task_id}", status=HTTPStatus.NOT_FOUND)
        return json.loads(rows[0]["value"])

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        address = f"{self._file.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=20)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]


def get_json(method: str, url: str, body: Mapping[str, Any] | None = None, *, token: str | None = None) -> Any:
    """One HTTP call to this machine.

    Raises:
        AirflowError: With the HTTP status, if there was an answer.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(dict(body)).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 - http://127.0.0.1
    try:
        with _OPENER.open(request, timeout=30) as response:
            answer = response.read()
            return json.loads(answer) if answer else None
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        raise AirflowError(f"{method} {url}: {error.code} {text}", status=error.code) from error
    except (OSError, ValueError) as error:
        raise AirflowError(f"{method} {url}: {error}") from error


def _run(dag_id: str, run_id: str) -> str:
    return f"dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _moment(text: str | None) -> datetime | None:
    """As either Airflow writes it: ISO 8601, or SQLite's text, in UTC."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
