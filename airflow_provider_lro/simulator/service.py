"""The five methods and Start, on protos but without grpc: every refusal is a `CallError`.

Effects are arguments: the clock, the sleep. All state changes happen between two awaits, so one event loop needs no
locks.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from google.longrunning import operations_proto_pb2 as operations_pb2
from google.protobuf import empty_pb2, json_format

from airflow_provider_lro.simulator.behaviour import (
    INVALID_ARGUMENT,
    UNIMPLEMENTED,
    CallError,
    Snapshot,
    answer,
    hidden,
    present,
    refusal,
    snapshot,
)
from airflow_provider_lro.simulator.listing import is_below, list_page
from airflow_provider_lro.simulator.payloads import operation
from airflow_provider_lro.simulator.script import (
    ScriptError,
    Simulation,
    operation_name,
    parse_name,
    parse_parent,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf import struct_pb2

    from airflow_provider_lro.simulator.behaviour import Facts
    from airflow_provider_lro.simulator.state import Store

# What a WaitOperation without a timeout gets.
DEFAULT_WAIT: Final = 60.0
# A Wait answers this long before the call's own deadline, or the answer would never arrive.
_DEADLINE_MARGIN: Final = 0.05


class Service:
    """Operations and Simulations.

    Args:
        store: What is known so far.
        clock: Epoch seconds.
        sleep: Sleeps that many seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._waited_for: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    async def get(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        """Answer GetOperation, after the scripted latency and with the scripted faults."""
        simulation = self._simulation(request.name, "get")
        return operation(simulation, await self._answer_get(simulation))

    async def wait(
        self, request: operations_pb2.WaitOperationRequest, time_remaining: float | None = None
    ) -> operations_pb2.Operation:
        """Answer WaitOperation: as a Get, then wait until done or until the timeout, and give the latest state.

        Args:
            request: Its timeout, when missing, is `DEFAULT_WAIT`.
            time_remaining: Seconds to the call's deadline, None without one; cuts the timeout.
        """
        simulation = self._simulation(request.name, "wait")
        timeout = request.timeout.seconds + request.timeout.nanos / 1e9 if request.HasField("timeout") else DEFAULT_WAIT
        if time_remaining is not None:
            timeout = min(timeout, time_remaining - _DEADLINE_MARGIN)
        until = self._clock() + timeout
        seen = await self._answer_get(simulation)
        while not seen.done and (now := self._clock()) < until:
            pause = until - now if seen.ends_at is None else min(until, seen.ends_at) - now
            await self._pause(simulation.name, pause)
            facts = self._store.facts[simulation.name]
            seen = present(simulation.name, simulation.script, facts, self._clock())
        return operation(simulation, seen)

    async def list(self, request: operations_pb2.ListOperationsRequest) -> operations_pb2.ListOperationsResponse:
        """Answer ListOperations over everything started or seen so far."""
        parent = request.name
        if not parent:
            raise CallError(
                INVALID_ARGUMENT, "name is empty; accepted: simulations (lists all), or what names begin with."
            )
        try:
            script = parse_parent(parent)
        except ScriptError as error:
            raise CallError(INVALID_ARGUMENT, str(error)) from error
        if script is not None and "list" in script.unimplemented:
            raise _unimplemented(parent, "list")
        page = list_page(self._store.facts, self._clock(), request)
        response = operations_pb2.ListOperationsResponse(
            operations=[operation(simulation, seen) for simulation, seen in page.operations],
            next_page_token=page.next_token,
        )
        if getattr(request, "return_partial_success", False):  # since googleapis-common-protos 1.76
            below = [parse_name(name).script for name in self._store.facts if is_below(name, parent)]
            scripts = below if script is None else [script, *below]
            places = dict.fromkeys(place for each in scripts for place in each.unreachable)
            response.unreachable.extend(places)  # type: ignore[attr-defined]
        return response

    async def cancel(self, request: operations_pb2.CancelOperationRequest) -> empty_pb2.Empty:
        """Answer CancelOperation: recorded once, without effect on an operation that is done."""
        simulation = self._simulation(request.name, "cancel")
        seen, facts = self._find(simulation)
        if not seen.done and facts.cancelled_at is None:
            self._store.cancel(simulation.name, self._clock())
            self._wake(simulation.name)
        return empty_pb2.Empty()

    async def delete(self, request: operations_pb2.DeleteOperationRequest) -> empty_pb2.Empty:
        """Answer DeleteOperation: the operation is gone, its work goes on unseen."""
        simulation = self._simulation(request.name, "delete")
        self._find(simulation)
        self._store.delete(simulation.name)
        self._wake(simulation.name)
        return empty_pb2.Empty()

    async def start(self, request: struct_pb2.Struct) -> operations_pb2.Operation:
        """Answer Start: name an operation whose clock starts now; a known request_id gives the operation it made."""
        values: dict[str, Any] = json_format.MessageToDict(request)
        request_id = _text(values, "request_id")
        operation_id = _text(values, "id") or uuid.uuid4().hex[:12]
        # Rounded once, for the name and for the answer: an operation must not start after the moment it is looked at.
        now = round(self._clock(), 6)
        name = None if request_id is None else self._store.requests.get(request_id)
        if name is None:
            try:
                name = operation_name(operation_id, **{"start": now, **values})
            except ScriptError as error:
                raise CallError(INVALID_ARGUMENT, str(error)) from error
            self._store.start(name, now, request_id)
        simulation = parse_name(name)
        return operation(simulation, snapshot(simulation.script, self._store.facts[name], now))

    def _simulation(self, name: str, method: str) -> Simulation:
        try:
            simulation = parse_name(name)
        except ScriptError as error:
            raise CallError(INVALID_ARGUMENT, str(error)) from error
        if method in simulation.script.unimplemented:
            raise _unimplemented(name, method)
        return simulation

    async def _answer_get(self, simulation: Simulation) -> Snapshot:
        name, script = simulation.name, simulation.script
        now = self._clock()
        facts = self._store.see(name, now)
        gets = facts.gets
        # Absence comes before the faults and uses none of them up.
        if gets < script.counted_gets and not hidden(script, facts, now):
            self._store.count_get(name)
        if script.latency:
            await self._sleep(script.latency)
        return answer(name, script, replace(self._store.facts[name], gets=gets), self._clock())

    def _find(self, simulation: Simulation) -> tuple[Snapshot, Facts]:
        now = self._clock()
        facts = self._store.see(simulation.name, now)
        # Only the NOT_FOUNDs of a Get are everybody's: its other faults are not.
        if facts.gets < simulation.script.not_found and (fault := refusal(simulation.script, facts.gets)):
            raise fault
        return present(simulation.name, simulation.script, facts, now), facts

    async def _pause(self, name: str, seconds: float) -> None:
        changed = self._waited_for.setdefault(name, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def _wake(self, name: str) -> None:
        changed = self._waited_for.pop(name, None)
        if changed is not None:
            changed.set()


def _unimplemented(name: str, method: str) -> CallError:
    return CallError(UNIMPLEMENTED, f"Method {method} is not implemented for {name!r}.")


def _text(values: dict[str, Any], key: str) -> str | None:
    value = values.pop(key, None)
    if value is None or (isinstance(value, str) and value):
        return value
    raise CallError(INVALID_ARGUMENT, f"bad value {key}={value!r}; accepted: text that is not empty")
