"""The task store: the operation that a task has started, beyond the end of a try. Airflow's ``task_state_store``."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.args import MAX_EPOCH
from airflow_provider_lro._core.checks import is_number
from airflow_provider_lro.version_compat import FOR_EVER

if TYPE_CHECKING:
    from airflow.sdk import Context

REQUEST_NAMESPACE = uuid.UUID("5b6c8a57-3f0e-4d0c-9d6e-1f3b0c1d2a77")
"""Of the request ids, and of nothing else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedOperation:
    """An operation that a try has started.

    ``max_tries`` is Airflow's at that moment: a clear raises it, a retry does not. ``killed``: a user has killed the
    task while a worker waited. ``left``: a try has failed, and the operation went on. ``returned``: its result was
    returned, which Airflow may have failed to take. ``endpoint``: of the client that has started it, where that is
    known and the task names none. ``timed_out``: it took too long, and was asked to cancel. ``context``: what ``start``
    has left in Airflow's, as JSON.
    """

    name: str
    started_at: float
    max_tries: int | None = None
    killed: bool = False
    left: bool = False
    returned: bool = False
    endpoint: str | None = None
    timed_out: bool = False
    context: dict[str, Any] = field(default_factory=dict)


class TaskStore:
    """The operation that a task has started, and the request id that it is started with.

    Airflow below 3.3 has no store: nothing is kept, and each try is a start of its own.
    """

    OPERATION = "lro_operation"
    REQUEST = "lro_request"

    def __init__(self, context: Context) -> None:
        self._ti: Any = context["ti"]
        self._store: Any = context.get("task_state_store")

    @property
    def keeps(self) -> bool:
        """Whether there is a store here."""
        return self._store is not None

    def operation(self) -> StartedOperation | None:
        """Return the operation that an earlier try has started.

        Raises:
            ValueError: something else is stored.
        """
        stored = None if self._store is None else self._store.get(self.OPERATION)
        if stored is None:
            return None
        known = dict(stored) if isinstance(stored, Mapping) else {}
        known = {each.name: known[each.name] for each in fields(StartedOperation) if each.name in known}
        if not known.get("name"):
            raise ValueError(
                f"the key {self.OPERATION!r} of this task's state store is {stored!r}, but it must be a mapping with"
                " the name of an operation: delete the key, and the task starts one"
            )
        if not is_number(known.get("started_at"), most=MAX_EPOCH):
            known["started_at"] = time.time()
        if not isinstance(known.get("endpoint"), str):
            known["endpoint"] = None
        if not isinstance(known.get("context"), dict):
            known["context"] = {}
        return StartedOperation(**known)

    def was_cleared(self, known: StartedOperation) -> bool:
        """Return True if a user has cleared the task since it started this operation."""
        return known.max_tries is not None and known.max_tries != self._ti.max_tries

    def keep(self, known: StartedOperation) -> None:
        """Store an operation that was just started."""
        if self._store is None:
            return
        try:
            self._write(replace(known, max_tries=self._ti.max_tries))
        except Exception:
            # It runs, whatever became of its name here. To fail now would have a retry start a second one.
            log.exception("the operation is started, but its name could not be stored [operation %r]", known.name)

    def record_kill(self) -> None:
        """Record that a user has killed the task, and that its operation was asked to cancel."""
        self._record(killed=True)

    def record_left(self) -> None:
        """Record that this try fails while the operation goes on: whatever comes next goes on with it."""
        try:
            self._record(left=True)
        except Exception:  # what the try fails by is not to be hidden
            log.exception("not stored: that the operation goes on; a clear would cancel it")

    def record_found(self) -> None:
        """Record that this try goes on with it; only a clear from now on kills it."""
        self._record(left=False, max_tries=self._ti.max_tries)

    def record_timeout(self) -> None:
        """Record that the operation took too long, and was asked to cancel."""
        self._record(timed_out=True)

    def record_return(self) -> None:
        """Record that the result is known. A retry finds it again; only a clear from now on starts anew."""
        self._record(returned=True, max_tries=self._ti.max_tries)

    def forget(self) -> None:
        """Record that the operation is over. The id goes first, lest a later start be taken for this one."""
        if self._store is not None:
            self._store.delete(self.REQUEST)
            self._store.delete(self.OPERATION)

    def request_id(self) -> str:
        """Return an id that is the same until the operation that it starts is over, or a user clears the task.

        It is stored before it is used: where that fails, nothing may be started. Without a store it is this try's.
        """
        ti = self._ti
        if self._store is None:
            which = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
            return str(uuid.uuid5(REQUEST_NAMESPACE, "\n".join(map(str, which))))
        known = self._store.get(self.REQUEST)
        # A clear raises max_tries, a retry does not; since Airflow 3.4 it empties the store, too.
        if not isinstance(known, Mapping) or known.get("max_tries") != ti.max_tries:
            known = {"id": str(uuid.uuid4()), "max_tries": ti.max_tries}
            self._store.set(self.REQUEST, known, **FOR_EVER)
        return str(known["id"])

    def _record(self, **change: Any) -> None:
        known = self.operation()
        if known is not None:
            self._write(replace(known, **change))

    def _write(self, known: StartedOperation) -> None:
        self._store.set(self.OPERATION, asdict(known), **FOR_EVER)
