"""``Operation`` and ``AsyncOperation``: Go's ``longrunning.Operation``, usable without Airflow running.

The parts that need grpc and protobuf are imported inside functions: a DAG file imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.checks import check_name, is_number
from airflow_provider_lro._runner.driver import Drive, LogObserver, drive, steady_clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._messages.types import MessageType
    from airflow_provider_lro._transport.client import AsyncOperationsClient, OperationsClient
    from airflow_provider_lro._transport.rpc import CallOptions

__all__ = ["DEFAULT_WAIT_INTERVAL", "AsyncOperation", "AsyncOperationsClient", "Operation", "OperationsClient"]

DEFAULT_WAIT_INTERVAL = 60.0
"""Seconds between the polls of ``Operation.wait``. Go's ``DefaultWaitInterval``."""
POLICY = frozenset(
    {
        "initial_delay",
        "multiplier",
        "jitter",
        "rpc_timeout",
        "not_found_grace",
        "max_consecutive_errors",
        "on_timeout",
        "cancel_grace",
    }
)
"""The arguments of a sensor that shape a wait here, too."""


def __getattr__(name: str) -> Any:
    """Load the clients when they are asked for: they need grpc, this module does not."""
    if name in ("OperationsClient", "AsyncOperationsClient"):
        from airflow_provider_lro._transport import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Operation:
    """The part that the sync and the aio class share: the state that was polled last, and how to read it."""

    def __init__(self, client: Any, proto: pb.Operation | OperationState) -> None:
        from airflow_provider_lro._core.state import OperationState

        self._client = client
        if isinstance(proto, OperationState):
            self._state = proto
        else:
            from airflow_provider_lro._messages.protocol import state_from_message

            self._state = state_from_message(proto)

    @classmethod
    def from_name(cls, client: Any, name: str) -> Self:
        """Wrap an operation of which only the name is known, for example to go on waiting in another process.

        Raises:
            ValueError: the name is empty.
        """
        from airflow_provider_lro._core.state import OperationState

        return cls(client, OperationState(name=check_name(name)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {'done' if self.done else 'not done'}>"

    @property
    def name(self) -> str:
        """The name the server gave it; unique only within its service."""
        return self._state.name

    @property
    def done(self) -> bool:
        """Whether the last poll found it completed; never asks the network."""
        return self._state.done

    @property
    def proto(self) -> pb.Operation:
        """The last polled state, as a raw ``google.longrunning.Operation`` of its own."""
        from airflow_provider_lro._messages.protocol import state_to_message

        return state_to_message(self._state)

    @property
    def state(self) -> OperationState:
        """The last polled state."""
        return self._state

    def metadata(self, message_type: Any = None) -> Any:
        """Return the metadata of the last poll.

        Args:
            message_type: the message class that is expected, as ``Operation.poll`` takes it; None for the one that the
                payload names.

        Returns:
            The unpacked metadata; the raw ``Any`` if its type is not known to this process.

        Raises:
            NoMetadataError: the operation has none.
            PayloadTypeError: it is of another type than ``message_type``.
            ValueError: the type is not known here.
        """
        from airflow_provider_lro._messages.results import metadata

        return metadata(self._state, message_type)

    def _result(self, response_type: Any, *, require_result: bool = False) -> Any:
        """Return the response, None while not done, or raise the operation's failure."""
        from airflow_provider_lro._messages.results import failure, response

        if not self.done:
            return None
        if self._state.code is None:
            return response(self._state, response_type, require_result=require_result)
        raise failure(self._state)

    def _prepare(self, interval: float, timeout: float | None, policy: dict[str, Any]) -> WaitArgs:
        if timeout is not None and not is_number(timeout, least=0):
            raise ValueError(f"timeout={timeout!r}, but it must be None or a number of seconds of at least 0")
        unknown = sorted(set(policy) - POLICY)
        if unknown:
            raise TypeError(f"a wait does not take {', '.join(unknown)}; it takes {', '.join(sorted(POLICY))}")
        now = steady_clock()()
        policy.setdefault("rpc_timeout", self._client.rpc_timeout)
        deadline = None if timeout is None else now + timeout
        args = WaitArgs(operation_name=self.name, interval=interval, started_at=now, deadline=deadline, **policy)
        check_name(self.name)
        args.check()
        return args

    def _finish(self, outcome: Outcome, args: WaitArgs, response_type: Any, *, require_result: bool) -> Any:
        from airflow_provider_lro._messages.results import result_of

        if outcome.operation is not None:
            self._state = outcome.operation
        return result_of(outcome, args, response_type, require_result=require_result)


def _type_of(response_type: Any) -> MessageType | None:
    """Look a type up before anything is sent."""
    from airflow_provider_lro._messages.types import message_type

    return message_type(response_type)


class Operation(_Operation):
    """A long-running operation of any service. Source: Go's ``longrunning.Operation``.

    Args:
        client: the ``OperationsClient`` of the service that the operation came from.
        proto: the raw ``google.longrunning.Operation``, or a state as a client returns it; see ``from_name`` for a name
            alone.

    Every method that calls takes ``rpc_timeout`` (seconds for this call; None: the client's, 30) and ``metadata``
    (more headers).
    """

    _client: OperationsClient

    def poll(self, response_type: Any = None, *, require_result: bool = False, **options: Unpack[CallOptions]) -> Any:
        """Fetch the latest state, unless the operation is known to be done.

        Args:
            response_type: the message class of the response, protobuf or proto-plus, or its import path or full name;
                None for the type that the payload names.
            require_result: take a done operation with neither response nor error for a fault.

        Returns:
            None while it is not done; then the response: unpacked (a proto-plus class makes it one of its own), the raw
            ``Any`` if its type is not known to this process, an empty message if the service gives none.

        Raises:
            OperationFailed: it completed with an error (``OperationCancelled`` if that is CANCELLED).
            RpcError: the call failed (also ``CredentialsError``, ``EndpointError``); the operation is unmodified.
            PayloadTypeError: the response is of another type than ``response_type``.
            MalformedOperation: it has no result, and one is required.
            ValueError: it has no name, or the type is not known here.
        """
        response_type = _type_of(response_type)
        if not self.done:
            self._state = self._client.get_operation(self.name, **options)
        return self._result(response_type, require_result=require_result)

    def wait(self, response_type: Any = None, **options: Any) -> Any:
        """Wait with the default interval of 60 seconds; see ``wait_with_interval``."""
        return self.wait_with_interval(DEFAULT_WAIT_INTERVAL, response_type, **options)

    def wait_with_interval(
        self,
        interval: float,
        response_type: Any = None,
        *,
        timeout: float | None = None,
        require_result: bool = False,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        **policy: Any,
    ) -> Any:
        """Poll until the operation is done: at once, then by exponential backoff, then every ``interval``.

        Args:
            interval: seconds between polls, at least 0.1.
            response_type: as in ``poll``.
            timeout: seconds until ``OperationTimeout``; None waits for as long as it takes.
            require_result: take a done operation with neither response nor error for a fault.
            metadata: more headers for each call.
            policy: ``initial_delay``, ``multiplier``, ``jitter``, ``rpc_timeout``, ``not_found_grace``,
                ``max_consecutive_errors``, ``on_timeout``, ``cancel_grace``, as the sensor takes them.

        Returns:
            The response, as ``poll`` does.

        Raises:
            OperationTimeout: it was not done in time, and may still succeed.
            OperationNotFound: the service does not know it, beyond ``not_found_grace``.
            RpcError: a call failed in a way that time does not heal, or failed for too long.
            ValueError: an argument makes no sense.

        And as ``poll`` does.
        """
        response_type = _type_of(response_type)
        done = self._result(response_type, require_result=require_result)
        if done is not None:
            return done
        from airflow_provider_lro._core.wait import wait
        from airflow_provider_lro._transport.poller import Poller

        args, clock = self._prepare(interval, timeout, policy), steady_clock()
        steps, poller = wait(args, now=args.started_at or 0.0), Poller(args, self._client, metadata=metadata)
        outcome = drive(steps, poller, clock=clock, observer=LogObserver(self.name))
        return self._finish(outcome, args, response_type, require_result=require_result)

    def cancel(self, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel, once. Success means "asked": a later poll tells what came of it.

        Raises:
            UnimplementedError: the service cannot cancel.
            RpcError: the call failed.
        """
        self._client.cancel_operation(self.name, **options)

    def delete(self, **options: Unpack[CallOptions]) -> None:
        """Tell the service that nobody is interested in the result any more. Does not cancel.

        Raises:
            UnimplementedError: the service cannot delete.
            RpcError: the call failed.
        """
        self._client.delete_operation(self.name, **options)


class AsyncOperation(_Operation):
    """``Operation`` for asyncio, with an ``AsyncOperationsClient``: the same methods, awaited."""

    _client: AsyncOperationsClient

    async def poll(
        self, response_type: Any = None, *, require_result: bool = False, **options: Unpack[CallOptions]
    ) -> Any:
        """Fetch the latest state, unless the operation is known to be done; see ``Operation.poll``."""
        response_type = _type_of(response_type)
        if not self.done:
            self._state = await self._client.get_operation(self.name, **options)
        return self._result(response_type, require_result=require_result)

    async def wait(self, response_type: Any = None, **options: Any) -> Any:
        """Wait with the default interval of 60 seconds; see ``Operation.wait_with_interval``."""
        return await self.wait_with_interval(DEFAULT_WAIT_INTERVAL, response_type, **options)

    async def wait_with_interval(
        self,
        interval: float,
        response_type: Any = None,
        *,
        timeout: float | None = None,
        require_result: bool = False,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        **policy: Any,
    ) -> Any:
        """Poll until the operation is done; see ``Operation.wait_with_interval``."""
        response_type = _type_of(response_type)
        done = self._result(response_type, require_result=require_result)
        if done is not None:
            return done
        from airflow_provider_lro._core.wait import wait
        from airflow_provider_lro._transport.poller import AsyncPoller

        args, clock = self._prepare(interval, timeout, policy), steady_clock()
        poller = AsyncPoller(args, self._client, metadata=metadata)
        try:
            steps = wait(args, now=args.started_at or 0.0)
            outcome = await Drive(steps, poller, clock=clock, observer=LogObserver(self.name)).run()
        finally:
            await poller.close()
        assert outcome is not None  # noqa: S101  (it was driven to its end)
        return self._finish(outcome, args, response_type, require_result=require_result)

    async def cancel(self, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel, once; see ``Operation.cancel``."""
        await self._client.cancel_operation(self.name, **options)

    async def delete(self, **options: Unpack[CallOptions]) -> None:
        """Tell the service that nobody is interested in the result any more; see ``Operation.delete``."""
        await self._client.delete_operation(self.name, **options)
