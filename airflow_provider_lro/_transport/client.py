"""The five RPCs of ``google.longrunning.Operations``: a sync and an aio shell, which only do the I/O.

What they would decide twice stands once, in ``_rpc.py``. Floor ½.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from airflow_provider_lro._transport.channel import ChannelConfig, acquire, parse_endpoint, read_pem
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.rpc import (
    DEFAULT_RPC_TIMEOUT,
    DEFAULT_SERVER_WAIT,
    Listing,
    cancel_call,
    delete_call,
    get_call,
    headers,
    make_stubs,
    no_turn,
    parse,
    rpc_error,
    wait_call,
)
from airflow_provider_lro.exceptions import Code, EndpointError, RpcError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._transport.credentials import Headers
    from airflow_provider_lro._transport.rpc import Call, CallOptions
    from airflow_provider_lro.exceptions import LroError

__all__ = ["AsyncOperationsClient", "AsyncOperationsPager", "OperationsClient", "OperationsPager"]


SHORTEST_CALL = 0.1
"""Seconds that a call has, though nearly all of its time has passed until there was a token."""
QUEUED = ("GetOperation", "ListOperations")
"""What polls: all others are rare, and a request to cancel must not stand behind ten thousand polls."""


class _Pager:
    """All operations of a listing, page after page, each fetched when it is reached."""

    def __init__(self, listing: Listing, fetch: Callable[[Call], Any]) -> None:
        self._listing = listing
        self._fetch = fetch

    @property
    def unreachable(self) -> list[str]:
        """What the service could not reach (``return_partial_success``), according to the pages read so far."""
        return self._listing.unreachable


class OperationsPager(_Pager):
    """A listing to loop over with ``for``."""

    def __iter__(self) -> Iterator[pb.Operation]:
        token: str | None = self._listing.restart()
        while token is not None:
            page = self._fetch(self._listing.call(token))
            token = self._listing.next_token(page)
            yield from page.operations


class AsyncOperationsPager(_Pager):
    """A listing to loop over with ``async for``."""

    async def __aiter__(self) -> AsyncIterator[pb.Operation]:
        token: str | None = self._listing.restart()
        while token is not None:
            page = await self._fetch(self._listing.call(token))
            token = self._listing.next_token(page)
            for operation in page.operations:
                yield operation


class _Shell:
    """What the sync and the aio client share: a share in a channel, and the parts of a call."""

    def __init__(
        self,
        config: ChannelConfig,
        *,
        rpc_timeout: float = DEFAULT_RPC_TIMEOUT,
        loop: asyncio.AbstractEventLoop | None = None,
        most: int | None = None,
    ) -> None:
        self.config = config
        self.rpc_timeout = rpc_timeout
        self._lease = acquire(config, make_stubs, loop=loop, most=most)
        self._tokens = self._lease.shared.tokens
        self._stubs = self._lease.shared.stubs

    @classmethod
    def connect(
        cls,
        endpoint: str,
        *,
        credentials: Any = None,
        insecure: bool = False,
        root_certificates: str | bytes | os.PathLike[str] | None = None,
        client_certificate: str | bytes | os.PathLike[str] | None = None,
        client_key: str | bytes | os.PathLike[str] | None = None,
        authority: str | None = None,
        max_message_mb: int = 64,
        rpc_timeout: float = DEFAULT_RPC_TIMEOUT,
    ) -> Self:
        """Connect to a service, without Airflow.

        Args:
            endpoint: ``host`` or ``host:port`` (443 without), or a gRPC target.
            credentials: google-auth credentials; None means application default credentials.
            insecure: plaintext, without credentials.
            root_certificates: PEM text, or a path: the authorities to trust instead of the system's.
            client_certificate: PEM text, or a path: the chain of this side, for mutual TLS.
            client_key: PEM text, or a path: its key.
            authority: the name to expect in the server's certificate.
            max_message_mb: largest response, in MiB.
            rpc_timeout: seconds a call may take.

        Raises:
            EndpointError: the endpoint or a TLS option cannot be right.
            CredentialsError: credentials for a plaintext channel.
        """
        if not isinstance(insecure, bool):  # the text "false" is true, and would turn TLS off
            raise EndpointError(f"insecure must be True or False, not {insecure!r}")
        config = ChannelConfig(
            target=parse_endpoint(endpoint),
            credentials=CredentialsConfig(given=credentials),
            insecure=insecure,
            root_certificates=read_pem(root_certificates, what="root_certificates"),
            client_certificate=read_pem(client_certificate, what="client_certificate"),
            client_key=read_pem(client_key, what="client_key"),
            authority=authority,
            max_message_mb=max_message_mb,
        )
        return cls(config, rpc_timeout=rpc_timeout)

    def trimmed(self, operation: pb.Operation) -> pb.Operation:
        """Return as much of an operation as a wait with this client keeps: here, all of it."""
        return operation

    def _call_arguments(self, call: Call, tokens: Headers, options: CallOptions, spent: float) -> dict[str, Any]:
        """Return how to make a call; ``spent``: seconds of its time that it took to have a token."""
        return {
            "timeout": max(SHORTEST_CALL, self._timeout(call, options) - spent),
            "metadata": headers(call, tokens, options),
            "wait_for_ready": options.get("wait_for_ready"),
        }

    def _timeout(self, call: Call, options: CallOptions) -> float:
        given = options.get("rpc_timeout")
        return given if given is not None else call.timeout or self.rpc_timeout

    def _token_is_late(self, call: Call) -> RpcError:
        """Return the error of a call whose time is up before it has a token: an endpoint may never answer."""
        text = f"{call.method} of {call.name!r} at {self.config.target}: the token endpoint takes too long"
        return RpcError(text, code=Code.DEADLINE_EXCEEDED)

    def _failed(self, error: grpc.RpcError, call: Call) -> LroError:
        failed = rpc_error(error, call, target=self.config.target)
        if failed.code == Code.UNAUTHENTICATED:
            self._tokens.forget()
        return failed


class OperationsClient(_Shell):
    """``google.longrunning.Operations``, blocking. A context manager; safe to share between threads.

    Every method takes ``rpc_timeout`` (seconds; None: the client's) and ``metadata`` (more headers), and raises
    ``RpcError`` or one of its kin, ``CredentialsError`` or ``EndpointError``; ``ValueError`` for an empty name, before
    anything is sent. Source: ``google/longrunning/operations.proto``.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the channel back."""
        channel = self._lease.release()
        if channel is not None:
            channel.close()

    def get_operation(self, name: str, **options: Unpack[CallOptions]) -> pb.Operation:
        """Return the latest state of an operation."""
        return self.send(get_call(name), options)  # type: ignore[no-any-return]

    def list_operations(
        self,
        parent: str,
        filter: str = "",
        page_size: int | None = None,
        return_partial_success: bool = False,  # noqa: FBT001, FBT002
        **options: Unpack[CallOptions],
    ) -> OperationsPager:
        """List the operations under a parent; the first page is fetched when the first operation is asked for."""
        listing = Listing(parent, filter, page_size, return_partial_success)
        return OperationsPager(listing, lambda call: self.send(call, options))

    def cancel_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel an operation; that it was asked is all that success means."""
        self.send(cancel_call(name), options)

    def delete_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Tell that nobody is interested in the result any more; does not cancel."""
        self.send(delete_call(name), options)

    def wait_operation(
        self, name: str, timeout: float = DEFAULT_SERVER_WAIT, **options: Unpack[CallOptions]
    ) -> pb.Operation:
        """Let the server hold the call until the operation is done, ``timeout`` seconds at most; it may end early."""
        return self.send(wait_call(name, timeout), options)  # type: ignore[no-any-return]

    def send(self, call: Call, options: CallOptions) -> Any:
        """Make a call that was prepared."""
        tokens, spent = self._tokens.headers(), 0.0
        if tokens is None:
            began = time.monotonic()
            try:
                tokens = self._tokens.refresh(self._timeout(call, options))
            except TimeoutError:
                raise self._token_is_late(call) from None
            spent = time.monotonic() - began
        try:
            raw = self._stubs[call.method](call.request, **self._call_arguments(call, tokens, options, spent))
        except grpc.RpcError as error:
            raise self._failed(error, call) from None
        return parse(raw, call, target=self.config.target)


class AsyncOperationsClient(_Shell):
    """``OperationsClient`` for asyncio: the same methods, awaited. Made inside a running event loop."""

    def __init__(
        self, config: ChannelConfig, *, rpc_timeout: float = DEFAULT_RPC_TIMEOUT, most: int | None = None
    ) -> None:
        super().__init__(config, rpc_timeout=rpc_timeout, loop=asyncio.get_running_loop(), most=most)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the channel back."""
        channel = self._lease.release()
        if channel is not None:
            await channel.close()

    async def get_operation(self, name: str, **options: Unpack[CallOptions]) -> pb.Operation:
        """Return the latest state of an operation."""
        return await self.send(get_call(name), options)  # type: ignore[no-any-return]

    def list_operations(
        self,
        parent: str,
        filter: str = "",
        page_size: int | None = None,
        return_partial_success: bool = False,  # noqa: FBT001, FBT002
        **options: Unpack[CallOptions],
    ) -> AsyncOperationsPager:
        """List the operations under a parent, for ``async for``."""
        listing = Listing(parent, filter, page_size, return_partial_success)
        return AsyncOperationsPager(listing, lambda call: self.send(call, options))

    async def cancel_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel an operation; that it was asked is all that success means."""
        await self.send(cancel_call(name), options)

    async def delete_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Tell that nobody is interested in the result any more; does not cancel."""
        await self.send(delete_call(name), options)

    async def wait_operation(
        self,
        name: str,
        timeout: float = DEFAULT_SERVER_WAIT,
        **options: Unpack[CallOptions],
    ) -> pb.Operation:
        """Let the server hold the call until the operation is done, ``timeout`` seconds at most; it may end early."""
        return await self.send(wait_call(name, timeout), options)  # type: ignore[no-any-return]

    async def send(self, call: Call, options: CallOptions) -> Any:
        """Make a call that was prepared."""
        tokens, spent = self._tokens.headers(), 0.0
        if tokens is None:
            began = time.monotonic()
            tokens = await self._refreshed(call, options)
            spent = time.monotonic() - began
        arguments = self._call_arguments(call, tokens, options, spent)
        if call.method not in QUEUED:
            return await self._send_now(call, arguments)
        gate = self._lease.shared.gate
        if gate.locked():
            await self._queue(call, gate, options.get("queue"))
        else:
            await gate.acquire()
        try:
            return await self._send_now(call, arguments)
        finally:
            gate.release()

    async def _refreshed(self, call: Call, options: CallOptions) -> Headers:
        """Refresh the token in the time of one call."""
        try:
            async with asyncio.timeout(self._timeout(call, options)):
                return await self._tokens.arefresh()
        except TimeoutError:
            raise self._token_is_late(call) from None

    async def _send_now(self, call: Call, arguments: dict[str, Any]) -> Any:
        try:
            raw = await self._stubs[call.method](call.request, **arguments)
        except grpc.RpcError as error:
            raise self._failed(error, call) from None
        return parse(raw, call, target=self.config.target)

    async def _queue(self, call: Call, gate: asyncio.Semaphore, seconds: float | None) -> None:
        """Wait for one's turn where it costs nothing: not in gRPC, whose deadline would run meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await gate.acquire()
        except TimeoutError:
            raise no_turn(call, self.config.target) from None
