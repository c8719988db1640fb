"""Airflow's real ``TriggerRunner``, in-process, with its logging as its supervisor sets it up.

Stubbed is the supervisor alone: triggers are handed to the runner as encrypted rows, and what it asks for is answered
in-process. Of the Google provider's triggers only the endpoint and the credentials of their clients are replaced.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

ALONE = "airflow alone"
"""Triggers that only sleep: what the runner itself costs."""
BARE_TRIGGER = "bare loop as a trigger"
"""The bare loop inside the runner, whose memory the garbage collector walks and whose chores the process does."""
OURS = "airflow_provider_lro.triggers.LongRunningOperationTrigger"
GOOGLE = "airflow.providers.google.cloud.triggers."
RPC_TIMEOUT = 30.0
OPERATION = "projects/bench/locations/us-central1/operations/wait-{number:06}"
polls_bare: list[Callable[[str], Coroutine[Any, Any, None]]] = []
"""The loop that runs as triggers of this process, if one does."""


def prepare_airflow(directory: str, roots: str) -> None:
    """Give Airflow a home of its own and Google's libraries nothing to look for; before either is imported."""
    os.environ.update(
        {
            "AIRFLOW_HOME": directory,
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "GOOGLE_API_USE_CLIENT_CERTIFICATE": "false",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": roots,
            "NO_GCE_CHECK": "true",
        }
    )


class _Supervisor:
    """Answers in-process what the runner and the hooks ask their supervisor for."""

    def __init__(self, connection: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> None:
        self._connection = connection
        self._by_id = by_id
        self._reader_task = asyncio.create_task(asyncio.sleep(1e9))  # the runner stops when it has ended

    def send(self, message: Any) -> Any:
        from airflow.jobs.triggerer_job_runner import messages
        from airflow.sdk.execution_time.comms import ConnectionResult, GetConnection

        if isinstance(message, messages.TriggerStateChanges):
            persisted = [entry.persist_seq for entry in message.events or () if entry.persist_seq is not None]
            return messages.TriggerStateSync(to_create=[], to_cancel=set(), events_persisted=persisted or None)
        if isinstance(message, GetConnection):
            empty = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
            own = self._by_id.get(message.conn_id, self._connection)
            return ConnectionResult(conn_id=message.conn_id, **{**empty, **own})
        return None

    async def asend(self, message: Any) -> Any:
        return self.send(message)


@asynccontextmanager
async def running(spec: dict[str, Any]) -> AsyncIterator[Triggers]:
    """Give the runner; leaving stops it."""
    prepare_airflow(spec["directory"], spec["roots"])
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.sdk.execution_time import supervisor, task_runner

    # The real supervisor reads a socket, which costs a line of log more than a file does.
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    supervisor._configure_logs_over_json_channel(log)  # noqa: SLF001
    comms: Any = _Supervisor(_connection(spec), spec.get("connections", {}))
    creating = asyncio.Lock()
    ready = asyncio.Event()
    fired: list[Any] = []
    failed: list[Any] = []

    class Runner(TriggerRunner):
        """Airflow's own, with its supervisor inside, and with a lock: it is handed triggers at any moment."""

        async def init_comms(self) -> None:
            self.comms_decoder = task_runner.SUPERVISOR_COMMS = comms
            ready.set()

        async def create_triggers(self) -> None:
            async with creating:
                await super().create_triggers()  # type: ignore[no-untyped-call]

        def process_trigger_events(self, finished_ids: list[int]) -> Any:
            fired.extend(self.events)
            failed.extend(self.failed_triggers)
            return super().process_trigger_events(finished_ids)

    runner: Any = Runner()  # type: ignore[no-untyped-call]
    main = asyncio.create_task(runner.arun())
    await ready.wait()
    yield Triggers(spec, runner, fired, failed)
    assert not main.done(), main
    runner.stop = True
    for details in runner.triggers.values():
        details["task"].cancel()
    await asyncio.gather(main, *(each["task"] for each in runner.triggers.values()), return_exceptions=True)


def _connection(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the connection of a system's triggers, and do to the process what the system needs."""
    if "connection" in spec:
        return dict(spec["connection"])
    if spec["system"] in RIVALS:
        _point_google(f"localhost:{spec['port']}", f"bench-{spec['system']}")
        return {"conn_type": "google_cloud_platform", "extra": json.dumps({"project": "bench"})}
    if spec["system"] == "ours without tick":
        _switch_tick_off()
    return {
        "conn_type": "lro",
        "host": "localhost",
        "port": spec["port"],
        "password": f"bench-{spec['system']}",
        "extra": json.dumps({"root_certificates": spec["roots"]}),
    }


class Triggers:
    """Waits that are triggers, made from rows as the database holds them."""

    def __init__(self, spec: dict[str, Any], runner: Any, fired: list[Any], failed: list[Any]) -> None:
        self.fired = fired
        """The events that have come to the supervisor so far, each with its ``trigger_id``."""
        self.failed = failed
        """The triggers that have ended without an event so far: their ids, and what they have raised."""
        self._spec = spec
        self._runner = runner
        self._prepared: list[Any] = []

    async def start(self, number: int) -> None:
        """Begin one more wait."""
        await self.begin(number, row(self._spec, number))

    async def begin(self, number: int, row: tuple[str, dict[str, Any]]) -> None:
        """Begin the trigger of a row; its id is the number + 1."""
        self._runner.to_create.append(self._workload(number, row))
        await self._runner.create_triggers()

    def prepare(self, numbers: range) -> None:
        """Make all ready to begin many waits at once."""
        self._prepared = [self._workload(number, row(self._spec, number)) for number in numbers]

    async def herd(self) -> None:
        """Begin all that was prepared, at once."""
        self._runner.to_create.extend(self._prepared)
        self._prepared = []
        await self._runner.create_triggers()

    def _workload(self, number: int, row: tuple[str, dict[str, Any]]) -> Any:
        from airflow.executors.workloads.task import TaskInstanceDTO
        from airflow.executors.workloads.trigger import RunTrigger
        from airflow.models.trigger import Trigger

        classpath, kwargs = row
        ti = TaskInstanceDTO(
            id=uuid.uuid4(),
            dag_version_id=uuid.uuid4(),
            task_id="wait",
            dag_id="bench",
            run_id="manual__2026-01-01T00:00:00+00:00",
            try_number=1,
            map_index=number,
            pool_slots=1,
            priority_weight=1,
        )
        encrypted = Trigger.encrypt_kwargs(kwargs)
        return RunTrigger(id=number + 1, classpath=classpath, encrypted_kwargs=encrypted, ti=ti)


def row(spec: dict[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    """Return the class and the arguments of a trigger."""
    if "row" in spec:
        classpath, kwargs = spec["row"]
        return classpath, kwargs
    system, interval = spec["system"], spec["interval"]
    name = OPERATION.format(number=number)
    if system == ALONE:
        return f"{__name__}.Idle", {}
    if system == BARE_TRIGGER:
        return f"{__name__}.BareTrigger", {"name": name}
    if system == "CloudRunJobFinishedTrigger":
        kwargs = {"operation_name": name, "job_name": "job", "project_id": "bench", "polling_period_seconds": interval}
    elif system == "DataprocOperationTrigger":
        region = {"region": "us-central1", "project_id": "bench"}
        kwargs = {"name": name, **region, "polling_interval_seconds": interval}
    elif system == "CloudComposerExecutionTrigger":
        region = {"region": "us-central1", "project_id": "bench"}
        kwargs = {"operation_name": name, **region, "pooling_period_seconds": interval}
    else:
        # Deferred a good while ago, so that the backoff is over.
        started_at = time.time() - (0.0 if spec.get("fresh") else 86_400.0)
        kwargs = {"operation_name": name, "interval": interval, "jitter": spec["jitter"], "started_at": started_at}
        kwargs["rpc_timeout"] = spec.get("rpc_timeout", RPC_TIMEOUT)
        return OURS, kwargs
    return GOOGLE + RIVALS[system], kwargs


RIVALS = {
    "CloudRunJobFinishedTrigger": "cloud_run.CloudRunJobFinishedTrigger",
    "DataprocOperationTrigger": "dataproc.DataprocOperationTrigger",
    "CloudComposerExecutionTrigger": "cloud_composer.CloudComposerExecutionTrigger",
}


def _switch_tick_off() -> None:
    from airflow_provider_lro._transport import limiter

    limiter.TICK = 0.0


def _point_google(endpoint: str, token: str) -> None:
    """Point the Google provider's clients at our server, with a token that holds."""
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    from google.api_core.client_options import ClientOptions
    from google.oauth2.credentials import Credentials

    credentials = Credentials(token=token)
    options = ClientOptions(api_endpoint=endpoint)
    GoogleBaseHook.get_client_options = lambda _self, api_endpoint_override=None: options  # noqa: ARG005
    GoogleBaseHook.get_credentials = lambda _self: credentials


def __getattr__(name: str) -> Any:
    """Make the triggers of this module where the runner looks for them; Airflow must not be imported before."""
    if name not in {"Idle", "BareTrigger"}:
        raise AttributeError(name)
    from airflow.triggers.base import BaseTrigger

    class Idle(BaseTrigger):
        def serialize(self) -> tuple[str, dict[str, Any]]:
            return f"{__name__}.Idle", {}

        async def run(self) -> Any:
            await asyncio.Event().wait()
            yield

    class BareTrigger(Idle):
        def __init__(self, name: str) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.name = name

        async def run(self) -> Any:
            await polls_bare[0](self.name)
            yield

    globals().update(Idle=Idle, BareTrigger=BareTrigger)
    return globals()[name]
