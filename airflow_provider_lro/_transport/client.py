"""The clients of ``google.longrunning.Operations``, blocking and for asyncio; they only do the I/O."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from airflow_provider_lro._core.checks import check_headers
from airflow_provider_lro._messages.protocol import (
    DEFAULT_SERVER_WAIT,
    Listing,
    cancel_call,
    delete_call,
    get_call,
    read_answer,
    wait_call,
)
from airflow_provider_lro._transport.channel import ChannelConfig, acquire, parse_endpoint, read_pem
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.limiter import Slices, not_sent_error, of_loop
from airflow_provider_lro._transport.rpc import (
    API_CLIENT,
    DEFAULT_RPC_TIMEOUT,
    rpc_error,
)
from airflow_provider_lro.exceptions import Code, EndpointError, LroError, RpcError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterator

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._messages.protocol import Call, Page
    from airflow_provider_lro._transport.credentials import Headers
    from airflow_provider_lro._transport.rpc import CallOptions

MIN_CALL_LEFT = 0.1
"""Seconds that a call has, though nearly all of its time has passed until there was a token."""
LARGE = 16 * 1024
"""Bytes of an answer that takes a noticeable part of the time that an event loop may be held up: 1 MiB up to 20 ms."""
POLLS = ("GetOperation", "ListOperations")
"""The calls that share a channel's queue: a request to cancel must not stand behind ten thousand polls."""


_readers: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
"""Who may read a large answer, by event loop."""


class _Pager:
    """The operations of a listing, page after page, each fetched when it is reached, and given to ``wrap``."""

    def __init__(
        self, listing: Listing, fetch: Callable[[Call], Any], wrap: Callable[[OperationState], Any] | None = None
    ) -> None:
        self._listing = listing
        self._fetch = fetch
        self._wrap = wrap

    @property
    def unreachable(self) -> list[str]:
        """The places that the service could not reach (``return_partial_success``), in the pages read so far."""
        return self._listing.unreachable

    def wrapped(self, wrap: Callable[[OperationState], Any]) -> Self:
        """Return the same listing, of which each operation is given to ``wrap`` first."""
        return type(self)(self._listing, self._fetch, wrap)

    def _of(self, page: Page) -> Iterator[Any]:
        return page.states() if self._wrap is None else map(self._wrap, page.states())


class OperationsPager(_Pager):
    """A listing to loop over with ``for``."""

    def __iter__(self) -> Iterator[Any]:
        token: str | None = self._listing.restart()
        while token is not None:
            page = self._fetch(self._listing.call(token))
            token = self._listing.next_token(page)
            yield from self._of(page)


class AsyncOperationsPager(_Pager):
    """A listing to loop over with ``async for``."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        token: str | None = self._listing.restart()
        slices = Slices()
        while token is not None:
            page = await self._fetch(self._listing.call(token))
            token = self._listing.next_token(page)
            for operation in self._of(page):
                await slices.next()
                yield operation


class _Client:
    """The part that both clients share: their lease of a channel, and the arguments of a call."""

    def __init__(
        self,
        config: ChannelConfig,
        *,
        rpc_timeout: float = DEFAULT_RPC_TIMEOUT,
        loop: asyncio.AbstractEventLoop | None = None,
        max_users: int | None = None,
    ) -> None:
        self.config = config
        self.rpc_timeout = rpc_timeout
        to_error = partial(rpc_error, in_triggerer=config.in_triggerer)
        self._lease = acquire(config, to_error, loop=loop, max_users=max_users)
        self._tokens = self._lease.shared.tokens  # None in plaintext
        self._transport = self._lease.shared.transport

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
            raise EndpointError(f"insecure={insecure!r}, but it must be True or False")
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

    def _arguments(self, call: Call, tokens: Headers | None, options: CallOptions, spent: float) -> dict[str, Any]:
        """Return the arguments of a call; ``spent``: seconds of its time that it took to have a token."""
        headers: tuple[tuple[str, str | bytes], ...] = (*call.headers, API_CLIENT, *(tokens or ()))
        check_headers(options.get("metadata", ()))
        for more in (self.config.headers, options.get("metadata", ())):
            if more:
                names = {name for name, _ in more}
                headers = (*(each for each in headers if each[0] not in names), *more)
        return {
            "timeout": max(MIN_CALL_LEFT, self._timeout(call, options) - spent),
            "metadata": headers,
            "wait_for_ready": options.get("wait_for_ready"),
        }

    def _timeout(self, call: Call, options: CallOptions) -> float:
        given = options.get("rpc_timeout")
        return given if given is not None else call.timeout or self.rpc_timeout

    def _late_token_error(self, call: Call, options: CallOptions) -> RpcError:
        """Return the error of a call whose time is up before it has a token: an endpoint may never answer."""
        late = f"no token after {self._timeout(call, options):g} s, as {self.config.credentials.whose} are still being"
        advice = "check the token endpoint, or raise rpc_timeout"
        return RpcError(f"{late} refreshed: {advice} {call.at(self.config.target)}", code=Code.DEADLINE_EXCEEDED)

    def _may_repeat(self, error: LroError, tokens: Headers | None) -> bool:
        """Return True where a call was refused for its token, and another token can be had: a key may have rotated."""
        return error.code == Code.UNAUTHENTICATED and self._tokens is not None and self._tokens.forget(tokens)


class OperationsClient(_Client):
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
        transport = self._lease.release()
        if transport is not None:
            transport.close()

    def get_operation(self, name: str, **options: Unpack[CallOptions]) -> OperationState:
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
        listing = Listing(parent, filter, page_size, return_partial_success=return_partial_success)
        return OperationsPager(listing, lambda call: self.send(call, options))

    def cancel_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel an operation; success means no more than that it was asked."""
        self.send(cancel_call(name), options)

    def delete_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Tell the service that nobody is interested in the result any more; does not cancel."""
        self.send(delete_call(name), options)

    def wait_operation(
        self, name: str, timeout: float = DEFAULT_SERVER_WAIT, **options: Unpack[CallOptions]
    ) -> OperationState:
        """Let the server hold the call until the operation is done, ``timeout`` seconds at most; it may end early."""
        return self.send(wait_call(name, timeout), options)  # type: ignore[no-any-return]

    def send(self, call: Call, options: CallOptions) -> Any:
        """Make a call that was prepared; once more, with another token, where its token was refused."""
        tokens, spent = self._authorize(call, options)
        try:
            raw = self._transport.send(call, **self._arguments(call, tokens, options, spent))
        except LroError as error:
            if not self._may_repeat(error, tokens):
                raise
            tokens, spent = self._authorize(call, options)
            raw = self._transport.send(call, **self._arguments(call, tokens, options, spent))
        return read_answer(call, raw, target=self.config.target)

    def _authorize(self, call: Call, options: CallOptions) -> tuple[Headers | None, float]:
        """Return the token's headers, and the seconds that it took to have them."""
        if self._tokens is None or (tokens := self._tokens.headers()) is not None:
            return () if self._tokens is None else tokens, 0.0
        began = time.monotonic()
        try:
            return self._tokens.refresh(self._timeout(call, options)), time.monotonic() - began
        except TimeoutError:
            raise self._late_token_error(call, options) from None


class AsyncOperationsClient(_Client):
    """``OperationsClient`` for asyncio: the same methods, awaited. Made inside a running event loop.

    Args:
        config: the channel.
        rpc_timeout: seconds a call may take.
        max_concurrent_cancels: requests to cancel that this client has on their way at a time; None: no limit.
        max_users: clients of one channel, for calls that last long; None: any number.
    """

    def __init__(
        self,
        config: ChannelConfig,
        *,
        rpc_timeout: float = DEFAULT_RPC_TIMEOUT,
        max_concurrent_cancels: int | None = None,
        max_users: int | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(config, rpc_timeout=rpc_timeout, loop=loop, max_users=max_users)
        self._cancels = None if max_concurrent_cancels is None else asyncio.Semaphore(max_concurrent_cancels)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the channel back."""
        transport = self._lease.release()
        if transport is not None:
            await transport.close()

    async def get_operation(self, name: str, **options: Unpack[CallOptions]) -> OperationState:
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
        listing = Listing(parent, filter, page_size, return_partial_success=return_partial_success)
        return AsyncOperationsPager(listing, lambda call: self.send(call, options))

    async def cancel_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Ask to cancel an operation; success means no more than that it was asked."""
        await self.send(cancel_call(name), options)

    async def delete_operation(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Tell the service that nobody is interested in the result any more; does not cancel."""
        await self.send(delete_call(name), options)

    async def wait_operation(
        self,
        name: str,
        timeout: float = DEFAULT_SERVER_WAIT,
        **options: Unpack[CallOptions],
    ) -> OperationState:
        """Let the server hold the call until the operation is done, ``timeout`` seconds at most; it may end early."""
        return await self.send(wait_call(name, timeout), options)  # type: ignore[no-any-return]

    async def send(self, call: Call, options: CallOptions) -> Any:
        """Make a call that was prepared; once more, with another token, where its token was refused."""
        tokens, spent = await self._authorize(call, options)
        try:
            return await self._send_in_turn(call, options, self._arguments(call, tokens, options, spent))
        except LroError as error:
            if not self._may_repeat(error, tokens):
                raise
        tokens, spent = await self._authorize(call, options)
        return await self._send_in_turn(call, options, self._arguments(call, tokens, options, spent))

    async def _send_in_turn(self, call: Call, options: CallOptions, arguments: dict[str, Any]) -> Any:
        queue: asyncio.Semaphore | None = None
        if call.rpc in POLLS:
            queue, timeout = self._lease.shared.gate, options.get("queue")
        elif call.rpc == "CancelOperation":
            queue, timeout = self._cancels, self._timeout(call, options)
        if queue is None:
            return await self._send(call, arguments)
        if queue.locked():
            await self._acquire(queue, call, timeout)
        else:
            await queue.acquire()
        try:
            return await self._send(call, arguments)
        finally:
            queue.release()

    async def _authorize(self, call: Call, options: CallOptions) -> tuple[Headers | None, float]:
        """Return the token's headers, and the seconds that it took to have them: those of one call at most."""
        if self._tokens is None or (tokens := self._tokens.headers()) is not None:
            return () if self._tokens is None else tokens, 0.0
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout(call, options)):
                return await self._tokens.arefresh(), time.monotonic() - began
        except TimeoutError:
            raise self._late_token_error(call, options) from None

    async def _send(self, call: Call, arguments: dict[str, Any]) -> Any:
        raw = await self._transport.send(call, **arguments)
        if raw is None or len(raw) <= LARGE:
            return read_answer(call, raw, target=self.config.target)
        async with of_loop(_readers, asyncio.Lock):
            await asyncio.sleep(0)  # one in a step of the event loop, where the answers to all polls may come together
            return read_answer(call, raw, target=self.config.target)

    async def _acquire(self, queue: asyncio.Semaphore, call: Call, seconds: float | None) -> None:
        """Wait for a turn where it costs nothing: not in gRPC, whose deadline would run meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await queue.acquire()
        except TimeoutError:
            raise not_sent_error(call, self.config.target) from None
