"""The task store: the operation that a task has started, beyond the end of a try. Airflow's ``task_state_store``."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.args import MAX_EPOCH
from airflow_provider_lro._core.checks import is_number
from airflow_provider_lro.version_compat import FOR_EVER

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

REQUEST_NAMESPACE = uuid.UUID("5b6c8a57-3f0e-4d0c-9d6e-1f3b0c1d2a77")
"""Of the request ids, and of nothing else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedOperation:
    """An operation that a try has started.

    ``max_tries`` is Airflow's at that moment: a clear raises it, a retry does not. ``killed``: a user has killed the
    task while a worker waited. ``returned``: its result was returned, which Airflow may have failed to take.
    ``endpoint``: of the client that has started it, where that is known and the task names none. ``timed_out``: it took
    too long, and was asked to cancel.
    """

    name: str
    started_at: float
    max_tries: int | None = None
    killed: bool = False
    returned: bool = False
    endpoint: str | None = None
    timed_out: bool = False


class TaskStore:
    """The operation that a task has started, and the number of those that are over.

    Airflow below 3.3 has no store: nothing is kept, and each try is a start of its own.
    """

    OPERATION = "lro_operation"
    OVER = "lro_operations_over"
    NAMELESS = "lro_returned_nameless"

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
        known = {field.name: known[field.name] for field in fields(StartedOperation) if field.name in known}
        if not known.get("name"):
            raise ValueError(f"the key {self.OPERATION!r} of this task's state store holds no operation: {stored!r}")
        if not is_number(known.get("started_at"), most=MAX_EPOCH):
            known["started_at"] = time.time()
        if not isinstance(known.get("endpoint"), str):
            known["endpoint"] = None
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
            log.exception("operation %r is started, but its name could not be stored", known.name)

    def record_kill(self) -> None:
        """Record that a user has killed the task, and that its operation was asked to cancel."""
        self._record(killed=True)

    def record_timeout(self) -> None:
        """Record that the operation took too long, and was asked to cancel."""
        self._record(timed_out=True)

    def record_return(self) -> None:
        """Record that the result is known. A retry finds it again; only a clear from now on starts anew."""
        self._record(returned=True, max_tries=self._ti.max_tries)

    def record_nameless_return(self) -> None:
        """Record that a result was returned of an operation that has no name."""
        if self._store is None:
            return
        try:
            self._store.set(self.NAMELESS, self._ti.max_tries, **FOR_EVER)
        except Exception:  # only a request id would be used once more
            log.exception("not stored: that the task has returned; if it is cleared, it uses the same request_id again")

    def renew(self) -> None:
        """Begin with another request id, if a user has cleared the task since a result without a name was returned."""
        if self._store is None or (known := self._store.get(self.NAMELESS)) is None:
            return
        if known != self._ti.max_tries:
            self.forget()  # first: to begin with the old id would start nothing
            self._store.delete(self.NAMELESS)

    def forget(self) -> None:
        """Record that the operation is over. The count rises first, lest a later start look like this one."""
        if self._store is not None:
            self._store.set(self.OVER, self._count() + 1, **FOR_EVER)
            self._store.delete(self.OPERATION)

    def request_id(self) -> str:
        """Return an id that is the same until the operation that it starts is over (without a store: for this try)."""
        ti = self._ti
        number = ti.try_number if self._store is None else self._count()
        which = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, number)
        return str(uuid.uuid5(REQUEST_NAMESPACE, "\n".join(map(str, which))))

    def _record(self, **change: Any) -> None:
        known = self.operation()
        if known is not None:
            self._write(replace(known, **change))

    def _write(self, known: StartedOperation) -> None:
        self._store.set(self.OPERATION, asdict(known), **FOR_EVER)

    def _count(self) -> int:
        return int(self._store.get(self.OVER, 0))
