"""``LongRunningOperationHook``: from an Airflow connection to a client of google.longrunning.Operations."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core.checks import MAX_SAID, check_name, one_line
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.hooks._connection import NOWHERE, ConnectionSettings, TaskSettings
from airflow_provider_lro.links import check_template, fill_template
from airflow_provider_lro.operation import Operation
from airflow_provider_lro.version_compat import AirflowNotFoundException, BaseHook, mask_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from google.auth.credentials import Credentials
    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro._transport.client import AsyncOperationsClient, OperationsClient, OperationsPager

__all__ = ["LongRunningOperationHook"]

CONNECTION_LIFETIME = 60.0
"""Seconds for which the waits of a triggerer share a connection that was read."""
FAILURE_LIFETIME = 5.0
"""Seconds for which they share that it could not be read."""
PROBE_NAME = "projects/airflow/locations/us-central1/operations/connection-test"
"""An operation that exists nowhere: the service's answer shows whether it answers at all."""
NONE_STORED = ConnectionSettings()
"""In place of a connection that need not be stored; one, as it keeps the channels that its waits share."""


class LongRunningOperationHook(BaseHook):
    """Talks to ``google.longrunning.Operations`` of any service.

    A context manager: leaving it closes its channels. Every method that calls raises ``RpcError`` or one of its kin,
    ``CredentialsError`` or ``EndpointError``.

    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call: a mapping, or its JSON; none is a secret.
    """

    conn_name_attr = "lro_conn_id"
    default_conn_name = "lro_default"
    conn_type = "lro"
    hook_name = "Long-running operations"
    _no_host = "give the task endpoint="
    """The advice without a connection."""

    def __init__(
        self,
        lro_conn_id: str = default_conn_name,
        *,
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | str | None = None,
    ) -> None:
        super().__init__()
        self.lro_conn_id = lro_conn_id
        self.endpoint = endpoint
        self._task = TaskSettings(
            endpoint=endpoint,
            impersonation_chain=impersonation_chain,
            quota_project_id=quota_project_id,
            headers=headers,
        )
        self._settings: ConnectionSettings | None = None
        self._clients: dict[ChannelConfig, OperationsClient] = {}

    @classmethod
    def of(cls, owner: Any, *, endpoint: str | None = None) -> Self:
        """Return the hook of an operator or a trigger, whose attributes are called as the arguments are.

        :param endpoint: where the owner itself names none.
        """
        return cls(
            owner.lro_conn_id,
            endpoint=owner.endpoint or endpoint,
            impersonation_chain=owner.impersonation_chain,
            quota_project_id=owner.quota_project_id,
            headers=getattr(owner, "headers", None),  # a watcher has none of its own
        )

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
        if self._settings is None:
            self._settings = self._read_connection()
        return self._client(self._settings.channel_config(self._task, name=name))

    def _client(self, config: ChannelConfig) -> OperationsClient:
        from airflow_provider_lro._transport.client import OperationsClient

        if config not in self._clients:
            self._clients[config] = OperationsClient(config)
        return self._clients[config]

    def check(self, *, endpoint_follows: bool = False) -> bool:
        """Check connection and credentials, as far as that is possible before a call; raise the first problem.

        Returns True if it is known where to call.

        :param endpoint_follows: the endpoint may become known later, so a missing one is not an error.
        """
        config, known = self._probe_config(endpoint_follows=endpoint_follows)
        self._client(config)
        if not (config.insecure or config.credentials.anonymous or config.credentials.token):
            config.credentials.load()
        return known

    def get_credentials(self) -> Credentials:
        """Return google-auth credentials that call as whom the hook's own calls do, for another library's client.

        The impersonation chain and the project for quota are in them; a bearer token cannot be refreshed. A plaintext
        connection, and ``is_anonymous``, have anonymous ones.

        :raises CredentialsError: there are none, or they cannot be used.
        """
        config, _ = self._probe_config(endpoint_follows=True)
        return config.credentials.for_client(insecure=config.insecure)

    def _probe_config(self, *, endpoint_follows: bool) -> tuple[ChannelConfig, bool]:
        """Return the channel of no operation in particular, and whether it is known where to call."""
        if self._settings is None:
            self._settings = self._read_connection(endpoint_follows=endpoint_follows)
        known = bool(self.endpoint or self._settings.host)
        task = replace(self._task, endpoint=NOWHERE) if endpoint_follows and not known else self._task
        return self._settings.channel_config(task, name=PROBE_NAME), known

    @asynccontextmanager
    async def async_client(self, name: str | None = None) -> AsyncIterator[AsyncOperationsClient]:
        """Give a client for the running event loop; its channel is shared by all waits that agree in it.

        :param name: as in ``get_conn``.
        """
        from airflow_provider_lro._transport.client import AsyncOperationsClient

        settings = self._settings = await self._asettings()
        async with AsyncOperationsClient(settings.channel_config(self._task, name=name)) as client:
            yield client

    async def async_channels(self, names: Iterable[str], *, is_stored: bool = True) -> list[ChannelConfig]:
        """Return the channel of each of many operations, in the triggerer.

        :param is_stored: a worker has read the connection, so that it must be stored where one is named.
        """
        settings = await self._asettings(is_stored=is_stored)
        return list(settings.channel_configs(self._task, names, in_triggerer=True))

    def channels(self, names: Iterable[str]) -> list[ChannelConfig]:
        """Return the channel of each of many operations, on a worker."""
        if self._settings is None:
            self._settings = self._read_connection()
        return list(self._settings.channel_configs(self._task, names))

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
        """Return the operations under a parent, each an ``Operation``, to be looped over.

        See ``OperationsClient.list_operations``.
        """
        client = self.get_conn(parent)
        pager = client.list_operations(parent, filter, page_size, return_partial_success)
        return pager.wrapped(lambda state: Operation(client, state))

    def cancel_operation(self, name: str) -> None:
        """Ask to cancel an operation; success means "asked"."""
        self.get_conn(name).cancel_operation(name)

    def delete_operation(self, name: str) -> None:
        """Tell the service that nobody is interested in an operation's result any more; does not cancel it."""
        self.get_conn(name).delete_operation(name)

    def wait_operation(self, name: str, timeout: float = 60.0) -> Operation:
        """Call the service's own ``WaitOperation`` once; ``operation(name).wait()`` works with every service.

        :param timeout: seconds that the server is asked to hold the call; it may answer earlier.
        """
        client = self.get_conn(name)
        return Operation(client, client.wait_operation(name, timeout))

    def link(self, name: str) -> str | None:
        """Return the link to an operation, by the template of the connection; None where there is none.

        A wrong template is only a warning: no wait fails because of a link. Call ``get_conn`` or ``channels`` first.
        """
        try:
            template = None if self._settings is None else self._settings.extra.get("link_template")
            return fill_template(template, name) if template else None
        except ValueError as error:
            self.log.warning("no link to the operation is made: %s", error)
            return None

    def test_connection(self) -> tuple[bool, str]:
        """Ask for an operation that exists nowhere, and conclude from the answer how far the call came.

        The text also names extras that are unknown, or not as they should be.
        """
        try:
            worked, said = self._probe()
        except CredentialsError as error:
            worked, said = False, f"The credentials do not work: {error}"
        except LroError as error:
            worked, said = False, f"Cannot connect: {error}"
        return worked, "; ".join((said, *(() if self._settings is None else self._settings.remarks())))

    def _probe(self) -> tuple[bool, str]:
        client = self.get_conn(PROBE_NAME)
        reached = f"Reached {client.config.target}"
        answers = f"{reached}, which answers google.longrunning.Operations"
        if self._settings is not None and (template := self._settings.extra.get("link_template")):
            try:
                check_template(template)
            except ValueError as error:
                return False, str(error)
        try:
            client.get_operation(PROBE_NAME, rpc_timeout=10.0)
        except UnimplementedError as error:
            text = one_line(error.message)
            return False, f"{reached}, which does not implement google.longrunning.Operations: {text}"
        except RpcError as error:
            if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            said = getattr(error.code, "name", error.code)
            return True, f"{answers} (of {PROBE_NAME!r}, which exists nowhere, it said {said})"
        return True, answers

    @property
    def stored_conn_id(self) -> str:
        """The id of the connection that was read, "" if none is stored and none is needed."""
        return self.lro_conn_id if self._settings is None or self._settings.conn_id else ""

    def _find_connection(self) -> ConnectionSettings | None:
        if not self.lro_conn_id:
            return None
        try:
            connection = self.get_connection(self.lro_conn_id)
        except AirflowNotFoundException:
            return None
        except Exception as error:
            why = one_line(f"{type(error).__name__}: {error}", MAX_SAID)
            raise EndpointError(f"the connection {self.lro_conn_id!r} cannot be read: {why}") from error
        settings = ConnectionSettings.of(connection)
        for secret in settings.secrets():
            mask_secret(secret)
        return settings

    def _read_connection(self, *, endpoint_follows: bool = False) -> ConnectionSettings:
        return self._or_none_needed(self._find_connection(), endpoint_follows=endpoint_follows)

    async def _asettings(self, *, is_stored: bool = False) -> ConnectionSettings:
        found = await _shared_settings(self) if self.lro_conn_id else None
        return self._or_none_needed(found, is_named=is_stored and bool(self.lro_conn_id))

    async def _aread_connection(self) -> ConnectionSettings | None:
        from asgiref.sync import sync_to_async

        # In a thread: the asynchronous way of Airflow below 3.3.2 can deadlock, and does not find connections of the
        # database in `dags test`. Not asyncio.to_thread: the way to the supervisor leads through asgiref's.
        return await sync_to_async(self._find_connection)()

    def _or_none_needed(
        self, settings: ConnectionSettings | None, *, endpoint_follows: bool = False, is_named: bool = False
    ) -> ConnectionSettings:
        """With an endpoint on the task, the default connection need not be stored; a named one must."""
        if settings is not None:
            return settings
        reaches = bool(self.endpoint) or endpoint_follows
        is_named = is_named or self.lro_conn_id not in ("", self.default_conn_name)
        if reaches and not is_named:
            return NONE_STORED
        advice = "add it, or correct the id" if reaches else "add it, with the service's host"
        advice += "" if reaches else ", or correct the id" if is_named else f", or {self._no_host}"
        raise EndpointError(f"the connection {self.lro_conn_id!r} is not stored; {advice}") from None

    # The connection's form in Airflow below 3.2; newer ones read get_provider_info.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's own fields."""
        from airflow_provider_lro._core.form import widgets

        return widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the form shows Airflow's own fields."""
        from airflow_provider_lro._core.form import field_behaviour

        return field_behaviour()


_settings: dict[tuple[asyncio.AbstractEventLoop, str], tuple[float, asyncio.Task[ConnectionSettings | None]]] = {}


async def _shared_settings(hook: LongRunningOperationHook) -> ConnectionSettings | None:
    """Read a connection once for all waits that ask at the same time, or within a minute.

    The first read in a triggerer takes seconds; thousands of them would take it down.
    """
    loop = asyncio.get_running_loop()
    key = (loop, hook.lro_conn_id)
    read_at, task = _settings.get(key, (0.0, None))
    age = time.monotonic() - read_at
    if task is None or (task.done() and age > (FAILURE_LIFETIME if _failed(task) else CONNECTION_LIFETIME)):
        from airflow_provider_lro._transport.limiter import forget_closed

        forget_closed(_settings)
        task = loop.create_task(hook._aread_connection())  # noqa: SLF001  (its own module)
        _settings[key] = (time.monotonic(), task)
    # Shielded: a wait that is cancelled must not take the connection from all others.
    return await asyncio.shield(task)


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None or task.result() is None
