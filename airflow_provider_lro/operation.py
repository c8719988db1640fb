"""``Operation`` and ``AsyncOperation``: Go's ``longrunning.Operation``, usable without Airflow running.

Floor 1: floor ½ is imported inside functions, so that the import of a DAG file never loads grpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.checks import check_name, is_number
from airflow_provider_lro._core.wait import WaitArgs, wait
from airflow_provider_lro._runner.driver import drive, drive_async, result_of, steady_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._messages.types import MessageType
    from airflow_provider_lro._runner.driver import WaitGenerator
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
"""What of a sensor's arguments shapes a wait here, too."""


def __getattr__(name: str) -> Any:
    """Load the clients when they are asked for: they need grpc, this module does not."""
    if name in ("OperationsClient", "AsyncOperationsClient"):
        from airflow_provider_lro._transport import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Operation:
    """What the sync and the aio class share: the state that was polled last, and what to read from it."""

    def __init__(self, client: Any, proto: pb.Operation) -> None:
        self._client = client
        self._proto = proto

    @classmethod
    def from_name(cls, client: Any, name: str) -> Self:
        """Wrap an operation of which only the name is known, for example to go on waiting in another process.

        Raises:
            ValueError: the name is empty.
        """
        from google.longrunning import operations_proto_pb2 as pb

        return cls(client, pb.Operation(name=check_name(name)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {'done' if self.done else 'not done'}>"

    @property
    def name(self) -> str:
        """The name the server gave it; unique only within its service."""
        return self._proto.name

    @property
    def done(self) -> bool:
        """Whether the last poll found it completed; never asks the network."""
        return self._proto.done

    @property
    def proto(self) -> pb.Operation:
        """The last polled state."""
        return self._proto

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
            ValueError: there is no such type here.
        """
        from airflow_provider_lro._messages import encoding

        return encoding.metadata(self._proto, message_type)

    def _take(self, proto: pb.Operation) -> None:
        """Make a polled state the current one. Its name stays ours if the service left it out of its answer."""
        if not proto.name:
            proto.name = self._proto.name
        self._proto = proto

    def _result(self, response_type: Any, *, require_result: bool = False) -> Any:
        """Return the response, None while not done, or raise the operation's failure."""
        from airflow_provider_lro._messages import encoding

        found = encoding.read(self._proto)
        if isinstance(found, outcomes.Running):
            return None
        if isinstance(found, outcomes.Succeeded):
            return encoding.response(self._proto, response_type, require_result=require_result)
        raise encoding.failure(self._proto)

    def _prepare(
        self, interval: float, timeout: float | None, policy: dict[str, Any]
    ) -> tuple[WaitArgs, WaitGenerator, Callable[[], float]]:
        if timeout is not None and not is_number(timeout, least=0):
            raise ValueError(f"timeout must be None or a number of seconds of at least 0, not {timeout!r}")
        unknown = sorted(set(policy) - POLICY)
        if unknown:
            raise TypeError(f"a wait takes no {', '.join(unknown)}; it takes {', '.join(sorted(POLICY))}")
        clock = steady_clock()
        now = clock()
        policy.setdefault("rpc_timeout", self._client.rpc_timeout)
        deadline = None if timeout is None else now + timeout
        args = WaitArgs(operation_name=self.name, interval=interval, started_at=now, deadline=deadline, **policy)
        args.check()
        return args, wait(args, now=now), clock

    def _finish(self, outcome: Outcome, args: WaitArgs, response_type: Any, *, require_result: bool) -> Any:
        if outcome.operation is not None:
            self._take(outcome.operation)
        return result_of(outcome, args, response_type, require_result=require_result)


def _type_of(response_type: Any) -> MessageType | None:
    """Look a type up before anything is sent."""
    from airflow_provider_lro._messages.types import message_type

    return message_type(response_type)


class Operation(_Operation):
    """A long-running operation of any service. Source: Go's ``longrunning.Operation``.

    Args:
        client: the ``OperationsClient`` of the service that the operation came from.
        proto: the raw ``google.longrunning.Operation``; see ``from_name`` for a name alone.

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
            ValueError: it has no name, or there is no such type here.
        """
        response_type = _type_of(response_type)
        if not self.done:
            self._take(self._client.get_operation(self.name, **options))
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
        args, steps, clock = self._prepare(interval, timeout, policy)
        outcome = drive(steps, args, self._client, clock=clock, metadata=metadata)
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
            self._take(await self._client.get_operation(self.name, **options))
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
        args, steps, clock = self._prepare(interval, timeout, policy)
        outcome = await drive_async(steps, args, self._client, clock=clock, metadata=metadata)
        return self._finish(outcome, args, response_type, require_result=require_result)

    async def cancel(self, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel, once; see ``Operation.cancel``."""
        await self._client.cancel_operation(self.name, **options)

    async def delete(self, **options: Unpack[CallOptions]) -> None:
        """Tell the service that nobody is interested in the result any more; see ``Operation.delete``."""
        await self._client.delete_operation(self.name, **options)
