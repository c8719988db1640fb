"""A real Airflow in a home of its own, for the demo and the tests; on SQLite unless told. Standard library only.

On 3.x: scheduler, DAG processor, triggerers and API server; on 2.11: scheduler, triggerer and, when asked, webserver.

    with AirflowStack(home, dags_folder) as airflow:
        run_id = airflow.trigger("my_dag")
        assert airflow.wait_for_run("my_dag", run_id) == "success"
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from scripts.answers import AirflowError, Answers, Database, Rest, TaskState
from scripts.children import Children, free_ports
from scripts.environment import airflow_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["AirflowError", "AirflowStack", "TaskState"]

FINAL_STATES: Final = frozenset({"success", "failed"})

_HOST = "127.0.0.1"
_USER = "admin"
_NEVER = datetime.min.replace(tzinfo=UTC)


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
        database: SQLAlchemy URL; SQLite in `home` unless given. Only on 3.x.
        triggerers: How many; several, only on 3.x, are the components `triggerer-1`, `triggerer-2`, ….
        parallelism: How many tasks run at once.
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
        database: str | None = None,
        triggerers: int = 1,
        parallelism: int = 4,
        timeout: float = 120.0,
        children: Children | None = None,
    ) -> None:
        self._exit = contextlib.ExitStack()
        self._owns_children = children is None
        self.children = children or Children()
        self.home = home.resolve()
        self.log_dir = log_dir or self.home / "components"
        self.version = importlib.metadata.version("apache-airflow")
        self.is_3 = not self.version.startswith("2.")
        if not self.is_3 and (database is not None or triggerers > 1):
            raise ValueError("on Airflow 2.11 there is SQLite and one triggerer: what it knows is read from that file")
        free_api_port, *log_ports = free_ports(3)
        self.api_port = api_port or free_api_port
        self.url = f"http://{_HOST}:{self.api_port}"
        self.user = _USER
        self.timeout = timeout
        self._password = secrets.token_urlsafe(12)
        self._started: dict[str, datetime] = {}
        skip = [] if serve_logs else ["--skip-serve-logs"]
        self.triggerers = tuple(f"triggerer-{number + 1}" for number in range(triggerers)) if triggerers > 1 else ()
        self._commands: dict[str, Sequence[str]] = {"scheduler": ["scheduler", *skip]}
        for name in self.triggerers or ("triggerer",):
            self._commands[name] = ["triggerer", *skip]
            skip = ["--skip-serve-logs"]  # there is one port for it
        if self.is_3:
            self._commands["dag-processor"] = ["dag-processor"]
            self._commands["api-server"] = ["api-server", "--host", _HOST, "--port", str(self.api_port)]
        elif with_ui:
            self._commands["webserver"] = ["webserver", "--hostname", _HOST, "--port", str(self.api_port)]
        self._rest = Rest(self.url, self.user, lambda: self.password, triggerers=self.triggerers)
        file = self.home / "airflow.db"
        self.database = database or f"sqlite:///{file}"
        self._answers: Answers = self._rest if self.is_3 else Database(file, self.url if with_ui else None)
        self.env = airflow_environment(
            self.home,
            dags_folder.resolve(),
            url=self.url,
            user=self.user,
            is_3=self.is_3,
            log_ports=(log_ports[0], log_ports[1]),
            parallelism=parallelism,
            database=database,
        )
        self.env |= env or {}

    @property
    def components(self) -> tuple[str, ...]:
        """The names that `pid`, `kill`, `stop`, `start` and `restart` take."""
        return tuple(self._commands)

    @property
    def password(self) -> str:
        """Of `user`, for the UI and the API."""
        if self.is_3:  # the API server makes one up as it starts
            generated = self.home / "simple_auth_manager_passwords.json.generated"
            return str(json.loads(generated.read_text())[self.user])
        return self._password

    def __enter__(self) -> Self:
        if self._owns_children:
            self._exit.enter_context(self.children)
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._cli("db", "migrate")
            if "webserver" in self._commands:
                login = ("--username", self.user, "--password", self._password)
                self._cli(
                    *("users", "create", *login, "--role", "Admin"),
                    *("--firstname", "A", "--lastname", "A", "--email", "admin@example.com"),
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
            self._spawn(name, self._commands[name], self.log_dir / f"{name}.log")
        self._until(lambda: not self._unheard(components), f"{', '.join(components)} to be healthy")

    def stop(self, *components: str) -> None:
        """Shut components down as an operator would."""
        self.children.stop(*components)

    def kill(self, component: str) -> None:
        """SIGKILL a component and all of its processes, as a machine that loses its power would."""
        self.children.kill(component)

    def restart(self, component: str) -> None:
        """Shut a component down, start it again, and wait until it is healthy."""
        self.stop(component)
        self.start(component)

    # Runs

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, timeout: float = 60.0) -> str:
        """Start a run, as soon as the DAG file has been read; returns the run's id.

        Raises:
            AirflowError: When the file is not read within `timeout` seconds; with the errors in the DAG files.
        """
        try:
            self._until(lambda: self._answers.knows(dag_id), f"the DAG {dag_id} to be read", timeout)
        except AirflowError as error:
            raise AirflowError(f"{error}\n{self._answers.import_errors()}") from error
        if self.is_3:
            return self._rest.start_run(dag_id, conf or {})
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        self._cli("dags", "trigger", dag_id, "--run-id", run_id, "--conf", json.dumps(dict(conf or {})))
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """`queued`, `running`, `success` or `failed`."""
        self.children.check()
        return self._answers.run_state(dag_id, run_id)

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 120.0) -> str:
        """Wait until a run has ended; returns `success` or `failed`."""

        def ended() -> bool:
            return self.run_state(dag_id, run_id) in FINAL_STATES

        self._until(ended, f"the run {run_id} of {dag_id} to end", timeout)
        return self.run_state(dag_id, run_id)

    def task_states(self, dag_id: str, run_id: str) -> list[TaskState]:
        """The task instances of a run, in the order in which they started."""
        self.children.check()

        def order(each: TaskState) -> tuple[bool, datetime, str, int]:
            return each.start is None, each.start or _NEVER, each.task_id, each.map_index

        return sorted(self._answers.task_states(dag_id, run_id), key=order)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task left in XCom.

        Raises:
            AirflowError: With status 404 when there is nothing.
        """
        return self._answers.xcom(dag_id, run_id, task_id, key, map_index)

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """What a task and its triggers logged so far: lines of text on 2.11, of JSON on 3.x."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        # attempt=1.log is the worker's, attempt=1.log.trigger.7.log the triggerer's.
        files = sorted(folder.glob(f"attempt={try_number}.log*"))
        return "".join(file.read_text(errors="replace") for file in files)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Give a task instance of Airflow 3 the state `success`, `failed` or `skipped`, as a user does in the UI."""
        self._rest.mark(dag_id, run_id, task_id, map_index, state)

    def clear(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, keep_task_state: bool = False
    ) -> None:
        """Let a task of Airflow 3 run once more, as a user does in the UI; of a mapped one all, without an index.

        Since 3.4 that empties the state store of the task, unless `keep_task_state` is given; 3.3 always keeps it.
        """
        self._rest.clear(dag_id, run_id, task_id, map_index, keep_task_state=keep_task_state)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the REST API of Airflow 3; `path` is what follows `/api/v2/`.

        Raises:
            AirflowError: With the HTTP status.
        """
        return self._rest.request(method, path, body)

    # Below

    def _spawn(self, name: str, arguments: Sequence[str], log: Path) -> None:
        argv = [sys.executable, "-m", "airflow", *arguments]
        # Airflow writes down who runs a triggerer, and answers with it: so they are told apart.
        own = {"LOGNAME": name} if name in self.triggerers else {}
        self.children.start(name, argv, env=self.env | own, cwd=self.home, log=log)

    def _cli(self, *arguments: str) -> None:
        """Run `airflow …` to its end."""
        name = " ".join(arguments[:2])
        log = self.log_dir / f"{'-'.join(arguments[:2])}.log"
        self._spawn(name, arguments, log)
        if code := self.children.wait(name, self.timeout):
            raise AirflowError(f"airflow {name} ended with exit code {code}:\n{log.read_text(errors='replace')}")

    def _until(self, condition: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        seconds = self.timeout if timeout is None else timeout
        until = time.monotonic() + seconds
        while not condition():
            self.children.check()
            if time.monotonic() > until:
                raise AirflowError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.25)

    def _unheard(self, components: Sequence[str]) -> set[str]:
        """The components that have not been heard of since they were started."""
        beats = self._answers.heartbeats()
        return {name for name in components if beats.get(name, _NEVER) < self._started[name]}
