"""Endpoints, TLS, and the channels with the transport over them: the only place that opens and shares them.

One channel serves all waits of a process that agree in event loop, endpoint, credentials and TLS; it is counted, and
closed when its last user has given it back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from airflow_provider_lro import __version__
from airflow_provider_lro._core.checks import (
    hide_in_bytes,
    is_grpc_target,
    is_secret_header,
    is_text,
    is_whole,
    secret_texts,
    without_user,
)
from airflow_provider_lro._messages.protocol import MAX_TRAILER, METHODS
from airflow_provider_lro._transport.credentials import QUOTA_PROJECT, CredentialsConfig
from airflow_provider_lro._transport.tokens import Tokens
from airflow_provider_lro.exceptions import CredentialsError, EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from airflow_provider_lro._messages.protocol import Call
    from airflow_provider_lro.exceptions import LroError

MAX_CALLS_IN_FLIGHT = 64
"""On one channel. Most servers take 100 (HTTP/2's usual limit of streams), but count a call as open a little longer
than its client does, and refuse what is beyond it: of 5,000 polls at once 59 with 100 here, 2 to 8 with 80."""
MAX_PAGE_MB = 4
"""MiB of a page of a listing in a triggerer."""
NOT_CONNECTED = (grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
DEFAULT_UNIVERSE = "googleapis.com"
DEFAULT_PORT = 443
_LOCATION = re.compile(r"(?:^|/)(?:locations|regions)/([^/]+)")
_EXPECTED = "expected host or host:port, for example 'us-central1-aiplatform.googleapis.com' or '127.0.0.1:50051'"


def parse_endpoint(value: str | None, *, port: int | None = None) -> str:
    """Return the gRPC target for ``host``, ``host:port`` or ``[IPv6]:port``; a gRPC target (``dns:…``) as it is.

    ``port``: where the value has none; without it 443.

    Raises:
        EndpointError: says why the value is wrong, and what would do.
    """
    if value is not None and not is_text(value):
        raise EndpointError(f"the endpoint {value!r} is not text that can be sent; {_EXPECTED}")
    text = (value or "").strip()
    if not text:
        raise EndpointError(f"no endpoint: name one, on the task or in its connection's host; {_EXPECTED}")
    if is_grpc_target(text):
        return text
    shown = without_user(text)
    if "://" in text:
        raise EndpointError(f"the endpoint {shown!r} is a URL; leave out the scheme and the path: {_EXPECTED}")
    if re.search(r"[\s/@?#]", text):
        raise EndpointError(f"the endpoint {shown!r} holds characters that no host has; {_EXPECTED}")
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text)
    address = bracketed[1] if bracketed else text if text.count(":") > 1 else None
    if address is not None:
        try:
            host = f"[{ipaddress.IPv6Address(address)}]"
        except ValueError:
            raise EndpointError(
                f"the endpoint {shown!r} has more colons than host:port, and is not an IPv6 address; {_EXPECTED}, and"
                " '[::1]:50051' for IPv6"
            ) from None
        given = bracketed[2] if bracketed else None
    else:
        host, colon, after = text.partition(":")
        given = after if colon else None
    if not re.fullmatch(r"\[.*\]|[^\[\]]+", host):
        raise EndpointError(f"the endpoint {shown!r} has no host; {_EXPECTED}")
    number = given if given is not None else str(port or DEFAULT_PORT)
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):  # noqa: PLR2004
        raise EndpointError(f"the endpoint {shown!r} has the port {number!r}, not one from 1 to 65535; {_EXPECTED}")
    return f"{host}:{int(number)}"


def endpoint_pattern(allowed: str) -> re.Pattern[str]:
    """Return the pattern of the targets that an allowed endpoint stands for; it is written as an endpoint is.

    ``*`` stands for one or more labels of a host, ``{location}`` for a place, and ``:*`` for any port. A gRPC target
    stands for itself alone.

    Raises:
        EndpointError: it cannot be one; says why.
    """
    target = parse_endpoint(allowed.removesuffix(":*"))
    if is_grpc_target(target):
        return re.compile(re.escape(allowed))
    host, _, port = target.lower().rpartition(":")
    if any("*" in label and label != "*" for label in host.split(".")):
        raise EndpointError(
            f"{allowed!r} has a * beside other letters; expected it alone between dots: '*.googleapis.com'"
        )
    host = re.escape(host.removesuffix("."))
    for sign, pattern in _WILD.items():
        host = host.replace(re.escape(sign), pattern)
    return re.compile(f"{host}\\.?:{'[0-9]+' if allowed.endswith(':*') else port}")


def is_allowed(target: str, allowed: Iterable[str]) -> bool:
    """Return True if one of the allowed endpoints stands for a target."""
    if is_grpc_target(target):
        return target in allowed
    text = target.lower() if target.isascii() else target  # some other letters have one of ASCII for their small one
    return any(endpoint_pattern(each).fullmatch(text) for each in allowed)


_LABEL = "[a-z0-9_-]+"
_WILD = {"*": rf"{_LABEL}(\.{_LABEL})*", "{location}": "[a-z0-9]([a-z0-9-]*[a-z0-9])?"}


def fill_location(endpoint: str, name: str | None) -> str:
    """Fill ``{location}`` in an endpoint from ``locations/…`` or ``regions/…`` in an operation's name.

    Raises:
        EndpointError: the endpoint asks for a location and the name has none.
    """
    found = _LOCATION.search(name or "")
    # The name may come from anywhere: what is filled in must not be able to turn the call, and its token, elsewhere.
    if not found or not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found[1]):
        raise EndpointError(
            f"the endpoint {without_user(endpoint)!r} takes its location from the operation's name, and {name!r} has no"
            " 'locations/…' or 'regions/…' that names one; name an endpoint with the location written out"
        )
    return endpoint.replace("{location}", found[1])


def in_universe(endpoint: str, universe_domain: str | None) -> str:
    """Return the endpoint in a universe other than googleapis.com."""
    host, colon, port = endpoint.partition(":")
    if universe_domain and host.endswith(f".{DEFAULT_UNIVERSE}"):
        host = f"{host.removesuffix(DEFAULT_UNIVERSE)}{universe_domain}"
    return f"{host}{colon}{port}"


def read_pem(value: str | bytes | os.PathLike[str] | None, *, what: str) -> bytes | None:
    """Return PEM bytes from PEM text or the path of a file, which may begin with ``~``.

    Raises:
        EndpointError: the file cannot be read, or holds no PEM.
    """
    if not value:
        return None
    data = value if isinstance(value, bytes) else os.fspath(value).encode(errors="surrogatepass")
    if b"-----BEGIN" not in data:
        try:
            data = Path(data.decode()).expanduser().read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # the last is of a home that nobody has
            # A value that does not look like a path is not shown: it may be half of a key.
            shown = f" {value!r}" if re.match(rb"(/|~|\.\.?/)[^\n]{1,250}$", data) else " what is given"
            why = error.strerror if isinstance(error, OSError) else "it is not a path"
            raise EndpointError(f"{what}:{shown} is neither PEM text nor a file that can be read: {why}") from None
    if b"-----BEGIN" not in data:
        raise EndpointError(f"{what}: the file holds no PEM, which has a line '-----BEGIN …': give another file")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """The settings that make one channel differ from another; compared by value. The repr shows no secret.

    ``target`` is from ``parse_endpoint``, the certificates are PEM; the others are as ``OperationsClient.connect`` has
    them. ``headers`` go with every call. ``in_triggerer``: answers are at most ``max_triggerer_message_mb``, as all
    waits of a triggerer share its memory and its loop. ``max_polls_per_second`` and ``max_triggerer_pages`` are for
    event loops.

    Raises:
        CredentialsError: credentials on a plaintext channel.
        EndpointError: TLS options that contradict each other.
    """

    target: str
    credentials: CredentialsConfig = field(default_factory=CredentialsConfig)
    insecure: bool = False
    root_certificates: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    authority: str | None = None
    max_message_mb: int = 64
    max_triggerer_message_mb: int = 1
    in_triggerer: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    max_polls_per_second: float | None = None
    max_triggerer_pages: int = 1000

    def __post_init__(self) -> None:
        if self.insecure and (self.credentials.explicit or any(is_secret_header(name) for name, _ in self.headers)):
            raise CredentialsError(
                f"credentials are given for {self.target!r}, which is plaintext (insecure); a token is never sent"
                " unencrypted: take out insecure, or the credentials"
            )
        tls = [name for name in ("root_certificates", "client_certificate", "client_key") if getattr(self, name)]
        if self.insecure and tls:
            raise EndpointError(f"{', '.join(tls)} and insecure (plaintext) contradict each other; take one out")
        if bool(self.client_certificate) != bool(self.client_key):
            raise EndpointError(f"{tls[-1]} is given, but client_certificate and client_key go together: give both")
        for name in ("max_message_mb", "max_triggerer_message_mb"):
            if not is_whole(value := getattr(self, name), least=1, most=2047):
                raise EndpointError(f"{name}={value!r}, but it must be a whole number from 1 to 2047")

    @property
    def sends_secrets(self) -> bool:
        """Whether calls carry a token, or another secret of the connection."""
        has_secret_header = any(is_secret_header(name) for name, _ in self.headers)
        return not self.insecure and (has_secret_header or not self.credentials.anonymous)

    @property
    def whom(self) -> str:
        """In words, as whom the service is called."""
        return "in plaintext, as nobody" if self.insecure else self.credentials.whom

    def for_listings(self) -> ChannelConfig:
        """Return the channel of listings, whose pages may be larger than the answers to polls in a triggerer."""
        most = max(MAX_PAGE_MB, self.max_triggerer_message_mb)
        return replace(self, max_triggerer_message_mb=most) if self.in_triggerer else self

    @property
    def quota_key(self) -> tuple[str, Hashable]:
        """The endpoint, and all by which it tells quotas apart; the connection's own limit is one, too."""
        headers = tuple(each for each in self.headers if each[0] == QUOTA_PROJECT or is_secret_header(each[0]))
        return self.target, (self.credentials, self.client_certificate, headers, self.max_polls_per_second)

    def open(self, module: Any, *, number: int = 0) -> Any:
        """Open a channel with ``grpc`` or ``grpc.aio``; a number above 0 gives it a connection of its own."""
        most = self.max_triggerer_message_mb if self.in_triggerer else self.max_message_mb
        options: list[tuple[str, Any]] = [
            ("grpc.primary_user_agent", f"airflow-provider-lro/{__version__}"),
            ("grpc.max_receive_message_length", most * 1024 * 1024),
            # With retries, grpcio 1.83 to 1.85 takes gigabytes within seconds where a server answers each connection
            # with GOAWAY.
            ("grpc.enable_retries", 0),
            ("grpc.max_metadata_size", MAX_TRAILER),
            ("grpc.absolute_max_metadata_size", MAX_TRAILER),
            # gRPC's own pause between connection attempts grows to two minutes: longer than the interval of the wait
            # that is to notice that the server is back.
            ("grpc.max_reconnect_backoff_ms", 10_000),
            # Without pings a connection that died without a word (a NAT's table, a hung balancer) is kept for ever.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.ping_timeout_ms", 10_000),
        ]
        if number:  # gRPC itself shares connections between channels whose options are equal
            options.append(("lro.channel_number", number))
        if self.authority:
            options.append(("grpc.default_authority", self.authority))
            options.append(("grpc.ssl_target_name_override", self.authority))
        if self.insecure:
            return module.insecure_channel(self.target, options=options)
        tls = grpc.ssl_channel_credentials(self.root_certificates, self.client_key, self.client_certificate)
        return module.secure_channel(self.target, tls, options=options)


ToError: TypeAlias = "Callable[[grpc.RpcError, Call, str, Any], LroError]"
"""Makes an error of ours of one of grpc's for a call at a target, with these headers."""


class Transport:
    """One gRPC channel, for calls that block."""

    def __init__(self, channel: Any, target: str, to_error: ToError) -> None:
        self.target = target
        self._channel = channel
        self._to_error = to_error
        # Answers are bytes: grpc's aio side would make None of an answer that does not parse.
        self._stubs = {method: channel.unary_unary(method) for method in METHODS}

    def send(self, call: Call, *, timeout: float, metadata: Any, wait_for_ready: bool | None) -> bytes:
        """Send a call and return the bytes of its answer, in which what the metadata has of secrets is hidden.

        Raises:
            RpcError: and its kin, ``CredentialsError``, ``EndpointError``: the call failed.
        """
        try:
            raw: bytes = self._stubs[call.method](
                call.request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            raise self._to_error(error, call, self.target, metadata) from None
        return hide_in_bytes(raw, secret_texts(metadata))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncTransport(Transport):
    """``Transport`` for asyncio: the same methods, awaited."""

    async def send(self, call: Call, *, timeout: float, metadata: Any, wait_for_ready: bool | None) -> bytes:  # type: ignore[override]
        """Send a call and return the bytes of its answer, as ``Transport.send`` does."""
        try:
            raw: bytes = await self._stubs[call.method](
                call.request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            failed = self._to_error(error, call, self.target, metadata)
            failed.connected = self._channel.get_state() not in NOT_CONNECTED
            raise failed from None
        return hide_in_bytes(raw, secret_texts(metadata))

    async def close(self) -> None:  # type: ignore[override]
        """Close the channel."""
        await self._channel.close()


class _Shared:
    """A channel with its tokens and its queue, and the number of its users."""

    __slots__ = ("gate", "key", "tokens", "transport", "users")

    def __init__(self, key: _Key, config: ChannelConfig, transport: Any) -> None:
        self.key = key
        self.gate = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)  # for the calls of an event loop
        self.transport = transport
        self.tokens = None if config.insecure else Tokens(config.credentials)
        self.users = 0


_lock = threading.Lock()
_Key: TypeAlias = tuple[asyncio.AbstractEventLoop | None, ChannelConfig, int]
_shared: dict[_Key, _Shared] = {}


class Lease:
    """One user's lease of a channel."""

    __slots__ = ("_is_released", "shared")

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared
        self._is_released = False

    def release(self) -> Any:
        """Give the channel back, once. Return its transport when it has no other user: the caller is to close it."""
        with _lock:
            if self._is_released:
                return None
            self._is_released = True
            self.shared.users -= 1
            if self.shared.users:
                return None
            del _shared[self.shared.key]
            return self.shared.transport


def acquire(
    config: ChannelConfig,
    to_error: ToError,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    max_users: int | None = None,
) -> Lease:
    """Lease the channel for ``config``; the first user opens it.

    ``loop``: the running one, for an aio channel; None for a sync one. ``max_users`` of one channel, where each has a
    call on its way all the time: others get another channel.
    """
    number = 0 if max_users is None else 1
    with _lock:
        while max_users is not None and (full := _shared.get((loop, config, number))) and full.users >= max_users:
            number += 1
        key = (loop, config, number)
        shared = _shared.get(key)
        if shared is None:
            channel = config.open(grpc if loop is None else grpc.aio, number=number)
            transport = (Transport if loop is None else AsyncTransport)(channel, config.target, to_error)
            shared = _shared[key] = _Shared(key, config, transport)
        shared.users += 1
        return Lease(shared)


def open_channels() -> int:
    """Return the number of channels that are open now."""
    with _lock:
        return len(_shared)
