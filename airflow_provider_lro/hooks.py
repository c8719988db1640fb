"""``LongRunningOperationHook``: from an Airflow connection to a client of google.longrunning.Operations.

Floor 1: floor ½ is imported inside functions, so that the import of a DAG file never loads grpc.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_lro._wait import check_name
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operation import Operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._channel import ChannelConfig
    from airflow_provider_lro._client import AsyncOperationsClient, OperationsClient, OperationsPager

__all__ = ["LongRunningOperationHook"]

GOOGLE_CONNECTION = "google_cloud_platform"
CONNECTION_LIFETIME = 60.0
"""Seconds for which the waits of a triggerer share what they read of a connection."""
PROBE_NAME = "projects/airflow/locations/us-central1/operations/connection-test"
"""An operation that exists nowhere: what a service says of it tells whether it answers at all."""


class LongRunningOperationHook(BaseHook):
    """Talks to ``google.longrunning.Operations`` of any service.

    A context manager: leaving it closes its channels. Every method that calls raises ``RpcError`` or one of its kin,
    ``CredentialsError`` or ``EndpointError``.

    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    """

    conn_name_attr = "lro_conn_id"
    default_conn_name = "lro_default"
    conn_type = "lro"
    hook_name = "Long-running operations"

    def __init__(self, lro_conn_id: str = default_conn_name, *, endpoint: str | None = None) -> None:
        super().__init__()
        self.lro_conn_id = lro_conn_id
        self.endpoint = endpoint
        self._settings: Mapping[str, Any] | None = None
        self._clients: dict[ChannelConfig, OperationsClient] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels this hook has opened."""
        while self._clients:
            self._clients.popitem()[1].close()

    def get_conn(self, name: str | None = None) -> OperationsClient:
        """Return the client; it is closed with the hook.

        :param name: an operation's (or parent's) name, where the endpoint takes its ``{location}`` from it.
        """
        from airflow_provider_lro._client import OperationsClient

        if self._settings is None:
            self._settings = self._read_connection()
        config = channel_config(self._settings, endpoint=self.endpoint, name=name)
        if config not in self._clients:
            self._clients[config] = OperationsClient(config)
        return self._clients[config]

    @asynccontextmanager
    async def async_client(self, name: str | None = None) -> AsyncIterator[AsyncOperationsClient]:
        """Give a client for the running event loop; its channel is shared by all waits that agree in it.

        :param name: as in ``get_conn``.
        """
        from airflow_provider_lro._client import AsyncOperationsClient

        settings = await _shared_settings(self)
        async with AsyncOperationsClient(channel_config(settings, endpoint=self.endpoint, name=name)) as client:
            yield client

    def operation(self, operation: str | pb.Operation) -> Operation:
        """Return an operation to poll, wait for, cancel or delete; nothing is sent.

        :param operation: its name, or a raw ``google.longrunning.Operation``.
        """
        if isinstance(operation, str):
            return Operation.from_name(self.get_conn(operation), operation)
        return Operation(self.get_conn(operation.name), operation)

    def get_operation(self, name: str) -> Operation:
        """Return an operation, polled once; an operation that failed is returned too, ``done`` and not raised."""
        client = self.get_conn(check_name(name))
        return Operation(client, client.get_operation(name))

    def list_operations(
        self,
        parent: str,
        filter: str = "",
        page_size: int | None = None,
        return_partial_success: bool = False,  # noqa: FBT001, FBT002  (the contract's signature)
    ) -> OperationsPager:
        """Return the operations under a parent, to be looped over; see ``OperationsClient.list_operations``."""
        return self.get_conn(parent).list_operations(parent, filter, page_size, return_partial_success)

    def cancel_operation(self, name: str) -> None:
        """Ask to cancel an operation; success means "asked"."""
        self.get_conn(name).cancel_operation(name)

    def delete_operation(self, name: str) -> None:
        """Tell that nobody is interested in an operation's result any more; does not cancel it."""
        self.get_conn(name).delete_operation(name)

    def wait_operation(self, name: str, timeout: float = 60.0) -> pb.Operation:
        """Call the service's own ``WaitOperation``; ``operation(name).wait()`` is the wait that always works.

        :param timeout: seconds that the server is asked to hold the call; it may answer earlier.
        """
        return self.get_conn(name).wait_operation(name, timeout)

    def test_connection(self) -> tuple[bool, str]:
        """Ask for an operation that exists nowhere, and tell from the answer how far the call came."""
        try:
            return self._probe()
        except CredentialsError as error:
            return False, f"Credentials refused: {error}"
        except LroError as error:
            return False, f"Cannot connect: {error}"

    def _probe(self) -> tuple[bool, str]:
        client = self.get_conn(PROBE_NAME)
        reached = f"Reached {client.config.target}"
        answers = f"{reached}, which answers google.longrunning.Operations"
        try:
            client.get_operation(PROBE_NAME, rpc_timeout=10.0)
        except UnimplementedError as error:
            return False, f"{reached}, which does not implement google.longrunning.Operations: {error.message}"
        except RpcError as error:
            if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            said = getattr(error.code, "name", error.code)
            return True, f"{answers} (of {PROBE_NAME!r}, which exists nowhere, it said {said})"
        return True, answers

    def _read_connection(self) -> Mapping[str, Any]:
        try:
            return connection_settings(self.get_connection(self.lro_conn_id))
        except AirflowNotFoundException:
            return self._without_connection()

    async def _aread_connection(self) -> Mapping[str, Any]:
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson

        try:
            connection = await get_async_connection(self.lro_conn_id, hook=type(self))
        except AirflowNotFoundException:
            return self._without_connection()
        return connection_settings(connection, extra=await get_async_extra_dejson(connection))

    def _without_connection(self) -> Mapping[str, Any]:
        """With an endpoint on the task, the default connection need not exist; a named one must."""
        if self.endpoint and self.lro_conn_id == self.default_conn_name:
            return {"conn_id": self.lro_conn_id, "host": None, "port": None, "password": None, "extra": {}}
        advice = "add it" if self.endpoint else "add it, with the service's host, or give the task endpoint="
        raise EndpointError(f"the connection {self.lro_conn_id!r} is not stored; {advice}") from None

    # What Airflow below 3.2 shows as the connection's form; newer ones read get_provider_info.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's own fields."""
        from airflow_provider_lro._form import widgets

        return widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what the form makes of Airflow's fields."""
        from airflow_provider_lro._form import field_behaviour

        return field_behaviour()


_settings: dict[tuple[asyncio.AbstractEventLoop, str], tuple[float, asyncio.Task[Mapping[str, Any]]]] = {}


async def _shared_settings(hook: LongRunningOperationHook) -> Mapping[str, Any]:
    """Read a connection once for all waits that ask at the same time, or within a minute.

    The first read in a triggerer takes seconds; thousands of them would take it down.
    """
    loop = asyncio.get_running_loop()
    key = (loop, hook.lro_conn_id)
    read_at, task = _settings.get(key, (0.0, None))
    if task is None or (task.done() and (_failed(task) or time.monotonic() - read_at > CONNECTION_LIFETIME)):
        for stale in [other for other in _settings if other[0].is_closed()]:
            del _settings[stale]
        task = loop.create_task(hook._aread_connection())  # noqa: SLF001  (its own module)
        _settings[key] = (time.monotonic(), task)
    # Shielded: a wait that is cancelled must not take the connection from all others.
    return await asyncio.shield(task)


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def connection_settings(connection: Any, *, extra: dict[str, Any] | None = None) -> Mapping[str, Any]:
    """Return what is used of an Airflow connection.

    :param connection: of type ``lro`` or ``google_cloud_platform``.
    :param extra: its extra, where that was read asynchronously.
    """
    google = connection.conn_type == GOOGLE_CONNECTION
    return {
        "conn_id": connection.conn_id,
        "host": None if google else connection.host,
        "port": None if google else connection.port,
        "password": None if google else connection.password,
        "extra": connection.extra_dejson if extra is None else extra,
    }


def channel_config(settings: Mapping[str, Any], *, endpoint: str | None, name: str | None = None) -> ChannelConfig:
    """Return the channel that a connection and a task describe.

    :param settings: from ``connection_settings``.
    :param endpoint: the task's, which goes before the connection's.
    :param name: the operation's, for ``{location}``.
    :raises EndpointError: endpoint or TLS options cannot be right; says which, and what would do.
    :raises CredentialsError: several kinds of credentials, or credentials on a plaintext channel.
    """
    from airflow_provider_lro._channel import ChannelConfig, fill_location, parse_endpoint, read_pem
    from airflow_provider_lro._credentials import CLOUD_PLATFORM, CredentialsConfig

    extra = dict(settings["extra"])
    keyfile = extra.get("keyfile_dict") or None
    target = parse_endpoint(
        fill_location(endpoint or settings["host"] or "", name), port=None if endpoint else settings["port"]
    )
    return ChannelConfig(
        target=target,
        credentials=CredentialsConfig(
            key_path=extra.get("key_path") or None,
            keyfile=keyfile if keyfile is None or isinstance(keyfile, str) else json.dumps(keyfile),
            token=settings["password"] or None,
            anonymous=_boolean(extra, "is_anonymous"),
            scopes=tuple(scope for scope in str(extra.get("scope") or CLOUD_PLATFORM).replace(",", " ").split()),
        ),
        insecure=_boolean(extra, "insecure"),
        root_certificates=read_pem(extra.get("root_certificates"), what="root_certificates"),
        client_certificate=read_pem(extra.get("client_certificate"), what="client_certificate"),
        client_key=read_pem(extra.get("client_key"), what="client_key"),
        authority=extra.get("authority") or None,
        max_message_mb=_whole_number(extra, "max_message_mb", default=64),
    )


def _boolean(extra: Mapping[str, Any], key: str) -> bool:
    """A URI gives text where JSON gives a boolean; what is neither must not turn TLS off by accident."""
    value = extra.get(key)
    if value in (None, ""):
        return False
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "yes"):
        return True
    if isinstance(value, str) and value.lower() in ("false", "0", "no"):
        return False
    raise EndpointError(f"{key} in the connection's extra must be true or false, not {value!r}")


def _whole_number(extra: Mapping[str, Any], key: str, *, default: int) -> int:
    value = extra.get(key)
    if value in (None, ""):
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise EndpointError(f"{key} in the connection's extra must be a whole number, not {value!r}") from None
