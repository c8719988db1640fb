"""A real Airflow on SQLite in a home of its own, for the demo and the tests. Standard library only.

On 3.x it runs scheduler, DAG processor, triggerer and API server, and is spoken to over REST. On 2.11 it runs
scheduler and triggerer (and the webserver, when asked); what 3.x answers over REST is read from SQLite there.

    with AirflowStack(home, dags_folder) as airflow:
        run_id = airflow.trigger("my_dag")
        assert airflow.wait_for_run("my_dag", run_id) == "success"
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import secrets
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

from scripts.children import Children, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["AirflowError", "AirflowStack", "TaskState"]

FINAL_STATES: Final = frozenset({"success", "failed"})

_HOST = "127.0.0.1"
_USER = "admin"
# No request leaves this machine, whatever proxies the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AirflowError(RuntimeError):
    """Airflow answered with an error, or not in time."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task instance as Airflow has it now."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    start: datetime | None
    end: datetime | None


class AirflowStack:
    """Starts Airflow's components and speaks with them.

    Args:
        home: `AIRFLOW_HOME`: database, configuration, logs.
        dags_folder: Where the DAG files are.
        env: Added to the environment of every component.
        log_dir: Where the components' own output goes; `home/components` unless given.
        api_port: Of the API server (3.x) or webserver (2.11); a free one unless given.
        with_ui: On 2.11, start the webserver too. On 3.x the API server is always there and has the UI.
        serve_logs: Let scheduler and triggerer serve the logs of tasks that still run to the UI.
        timeout: Seconds that Airflow may take to start.
        children: Who owns the processes and ends them; the stack itself, unless given.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        log_dir: Path | None = None,
        api_port: int | None = None,
        with_ui: bool = False,
        serve_logs: bool = False,
        timeout: float = 120.0,
        children: Children | None = None,
    ) -> None:
        self._exit = contextlib.ExitStack()
        self._owns_children = children is None
        self.children = children or Children()
        self.home = home.resolve()
        self.version = importlib.metadata.version("apache-airflow")
        self.is_3 = not self.version.startswith("2.")
        self.log_dir = log_dir or self.home / "components"
        free_api_port, worker_port, trigger_port = free_ports(3)
        self.api_port = api_port or free_api_port
        self.url = f"http://{_HOST}:{self.api_port}"
        self.user = _USER
        self.timeout = timeout
        self._password = secrets.token_urlsafe(12)
        self._token: str | None = None
        self._started: dict[str, datetime] = {}
        skip = [] if serve_logs else ["--skip-serve-logs"]
        self._commands: dict[str, Sequence[str]] = {
            "scheduler": ["scheduler", *skip],
            "triggerer": ["triggerer", *skip],
        }
        if self.is_3:
            self._commands["dag-processor"] = ["dag-processor"]
            self._commands["api-server"] = ["api-server", "--host", _HOST, "--port", str(self.api_port)]
        elif with_ui:
            self._commands["webserver"] = ["webserver", "--hostname", _HOST, "--port", str(self.api_port)]
        self.env = self._environment(dags_folder.resolve(), worker_port, trigger_port, env or {})

    @property
    def components(self) -> tuple[str, ...]:
        """The names that `pid`, `kill`, `stop` and `start` take."""
        return tuple(self._commands)

    @property
    def password(self) -> str:
        """Of `user`, for the UI and the API."""
        generated = self.home / "simple_auth_manager_passwords.json.generated"
        if self.is_3:
            return str(json.loads(generated.read_text())[self.user])
        return self._password

    def __enter__(self) -> Self:
        if self._owns_children:
            self._exit.enter_context(self.children)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._cli("db", "migrate")
            if "webserver" in self._commands:
                identity = ("--firstname", "A", "--lastname", "A", "--email", "admin@example.com")
                self._cli(
                    *("users", "create", "--role", "Admin", *identity),
                    *("--username", self.user, "--password", self._password),
                )
            self.start(*self.components)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every component."""
        with self._exit:
            self.children.stop(*(name for name in self.components if self.children.owns(name)))

    # Components

    def pid(self, component: str) -> int:
        """The process id of a component."""
        return self.children.pid(component)

    def start(self, *components: str) -> None:
        """Start components and wait until they are healthy."""
        for name in components:
            self._started[name] = datetime.now(UTC)
            self.children.start(
                name,
                [sys.executable, "-m", "airflow", *self._commands[name]],
                env=self.env,
                cwd=self.home,
                log=self.log_dir / f"{name}.log",
            )
        self._until(lambda: not self._unhealthy(components), f"{', '.join(components)} to be healthy")

    def stop(self, *components: str) -> None:
        """Shut components down as an operator would."""
        self.children.stop(*components)

    def kill(self, component: str) -> None:
        """SIGKILL a component and all of its processes."""
        self.children.kill(component)

    def restart(self, component: str) -> None:
        """Shut a component down, start it again, and wait until it is healthy."""
        self.stop(component)
        self.start(component)

    # Runs

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run, as soon as the DAG file has been read; returns the run's id."""
        self._until(lambda: self._is_known(dag_id), f"the DAG {dag_id} to be read")
        if self.is_3:
            body = {"logical_date": None, "conf": dict(conf or {})}
            return str(self.request("POST", f"dags/{_quote(dag_id)}/dagRuns", body)["dag_run_id"])
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        self._cli("dags", "trigger", dag_id, "--run-id", run_id, "--conf", json.dumps(dict(conf or {})))
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """`queued`, `running`, `success` or `failed`."""
        if self.is_3:
            return str(self.request("GET", _run_path(dag_id, run_id))["state"])
        rows = self._rows("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        return str(rows[0]["state"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 120.0) -> str:
        """Wait until a run has ended; returns `success` or `failed`."""
        self._until(
            lambda: self.run_state(dag_id, run_id) in FINAL_STATES, f"the run {run_id} of {dag_id} to end", timeout
        )
        return self.run_state(dag_id, run_id)

    def task_states(self, dag_id: str, run_id: str) -> list[TaskState]:
        """The task instances of a run, in the order in which they started."""
        if self.is_3:
            path = f"{_run_path(dag_id, run_id)}/taskInstances?limit=1000"
            rows: Sequence[Mapping[str, Any]] = self.request("GET", path)["task_instances"]
        else:
            rows = self._rows("SELECT * FROM task_instance WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        states = [
            TaskState(
                task_id=row["task_id"],
                map_index=row["map_index"],
                state=row["state"],
                try_number=row["try_number"],
                start=_datetime(row["start_date"]),
                end=_datetime(row["end_date"]),
            )
            for row in rows
        ]
        return sorted(states, key=lambda each: (each.start is None, each.start, each.task_id, each.map_index))

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task left in XCom.

        Raises:
            AirflowError: With status 404 when there is nothing.
        """
        if self.is_3:
            path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quote(task_id)}/xcomEntries/{_quote(key)}"
            return self.request("GET", f"{path}?map_index={map_index}&stringify=false")["value"]
        rows = self._rows(
            "SELECT value FROM xcom WHERE dag_id = ? AND run_id = ? AND task_id = ? AND key = ? AND map_index = ?",
            *(dag_id, run_id, task_id, key, map_index),
        )
        if not rows:
            raise AirflowError(f"no XCom {key} of {task_id}", status=404)
        return json.loads(rows[0]["value"])

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """What a task and its trigger logged so far: lines of text on 2.11, of JSON on 3.x."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        # attempt=1.log is the worker's, attempt=1.log.trigger.7.log the triggerer's.
        return "".join(path.read_text(errors="replace") for path in sorted(folder.glob(f"attempt={try_number}.log*")))

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the REST API of Airflow 3; `path` is what follows `/api/v2/`.

        Raises:
            AirflowError: With the HTTP status.
        """
        if self._token is None:
            credentials = {"username": self.user, "password": self.password}
            self._token = str(_http("POST", f"{self.url}/auth/token", credentials)["access_token"])
        return _http(method, f"{self.url}/api/v2/{path}", body, token=self._token)

    # Below

    def _environment(
        self, dags_folder: Path, worker_port: int, trigger_port: int, extra: Mapping[str, str]
    ) -> dict[str, str]:
        """The caller's environment without any Airflow of theirs, and with ours."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
        local = ",".join(filter(None, [env.get("NO_PROXY") or env.get("no_proxy"), _HOST, "localhost"]))
        env |= {
            "AIRFLOW_HOME": str(self.home),
            "NO_PROXY": local,
            "no_proxy": local,
            "PYTHONUNBUFFERED": "1",
        }
        options: dict[str, dict[str, object]] = {
            "core": {
                "dags_folder": dags_folder,
                "dags_are_paused_at_creation": False,
                "load_examples": False,
                "parallelism": 4,
                # 2.11 refuses any other executor on SQLite.
                "executor": "LocalExecutor" if self.is_3 else "SequentialExecutor",
                "execution_api_server_url": f"{self.url}/execution/",
                "simple_auth_manager_users": f"{self.user}:admin",
            },
            "api": {"base_url": self.url, "workers": 1, "secret_key": secrets.token_hex(16)},
            "api_auth": {"jwt_secret": secrets.token_hex(32)},
            "webserver": {"base_url": self.url, "workers": 1, "secret_key": secrets.token_hex(16)},
            "scheduler": {
                "scheduler_heartbeat_sec": 1,
                "job_heartbeat_sec": 2,
                "dag_dir_list_interval": 5,
                "enable_health_check": False,
            },
            "triggerer": {"job_heartbeat_sec": 2},
            "dag_processor": {"refresh_interval": 5, "bundle_refresh_check_interval": 2},
            "logging": {"worker_log_server_port": worker_port, "trigger_log_server_port": trigger_port},
            "usage_data_collection": {"enabled": False},
        }
        for section, values in options.items():
            env |= {f"AIRFLOW__{section}__{name}".upper(): str(value) for name, value in values.items()}
        return env | dict(extra)

    def _cli(self, *arguments: str) -> None:
        """Run `airflow …` to its end."""
        name = " ".join(arguments[:2])
        log = self.log_dir / f"{arguments[0]}-{arguments[1]}.log"
        argv = [sys.executable, "-m", "airflow", *arguments]
        self.children.start(name, argv, env=self.env, cwd=self.home, log=log)
        if code := self.children.wait(name, self.timeout):
            raise AirflowError(f"airflow {name} ended with exit code {code}:\n{log.read_text(errors='replace')}")

    def _until(self, condition: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        until = time.monotonic() + (timeout or self.timeout)
        while not condition():
            self.children.check()
            if time.monotonic() > until:
                raise AirflowError(f"waited {timeout or self.timeout:.0f} s for {what}")
            time.sleep(0.25)

    def _unhealthy(self, components: Sequence[str]) -> set[str]:
        """The components that have not yet been heard of since they were started."""
        heartbeats = self._heartbeats()
        never = datetime.min.replace(tzinfo=UTC)
        return {name for name in components if heartbeats.get(name, never) < self._started[name]}

    def _heartbeats(self) -> dict[str, datetime]:
        if self.is_3:
            try:
                health = _http("GET", f"{self.url}/api/v2/monitor/health")
            except AirflowError:
                return {}
            beats = {
                name: _datetime((health.get(key) or {}).get(f"latest_{key}_heartbeat"))
                for name, key in (
                    ("scheduler", "scheduler"),
                    ("triggerer", "triggerer"),
                    ("dag-processor", "dag_processor"),
                )
            }
            beats["api-server"] = datetime.now(UTC)
        else:
            beats = {
                {"SchedulerJob": "scheduler", "TriggererJob": "triggerer"}[row["job_type"]]: _datetime(row["beat"])
                for row in self._rows(
                    "SELECT job_type, MAX(latest_heartbeat) AS beat FROM job"
                    " WHERE job_type IN ('SchedulerJob', 'TriggererJob') GROUP BY job_type"
                )
            }
            with contextlib.suppress(AirflowError):
                _http("GET", f"{self.url}/health")
                beats["webserver"] = datetime.now(UTC)
        return {name: beat for name, beat in beats.items() if beat is not None}

    def _is_known(self, dag_id: str) -> bool:
        """Whether the DAG file has been read; an error in it is raised rather than waited for."""
        if self.is_3:
            try:
                self.request("GET", f"dags/{_quote(dag_id)}")
            except AirflowError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                return True
            errors = self.request("GET", "importErrors")["import_errors"]
        else:
            if self._rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id):
                return True
            errors = self._rows("SELECT filename, stacktrace AS stack_trace FROM import_error")
        if errors:
            raise AirflowError("\n".join(f"{each['filename']}:\n{each['stack_trace']}" for each in errors))
        return False

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """What the metadata database of Airflow 2.11 says; 3.x is asked over REST."""
        with contextlib.closing(
            sqlite3.connect(f"{(self.home / 'airflow.db').as_uri()}?mode=ro", uri=True, timeout=20)
        ) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]


def _http(method: str, url: str, body: Mapping[str, Any] | None = None, *, token: str | None = None) -> Any:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        url, data=None if body is None else json.dumps(dict(body)).encode(), headers=headers, method=method
    )
    try:
        with _OPENER.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        raise AirflowError(f"{method} {url}: {error.code} {text}", status=error.code) from error
    except (OSError, ValueError) as error:
        raise AirflowError(f"{method} {url}: {error}") from error


def _run_path(dag_id: str, run_id: str) -> str:
    return f"dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _datetime(text: str | None) -> datetime | None:
    """A moment as either Airflow writes it: ISO 8601, or SQLite's text, in UTC."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
