"""What is used of an Airflow connection, and the channel that it describes together with a task.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro.exceptions import EndpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_lro._channel import ChannelConfig

__all__ = ["ConnectionSettings"]

GOOGLE_CONNECTION = "google_cloud_platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What is used of a connection; the defaults are those of none. The repr shows no secret."""

    host: str | None = None
    port: int | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, connection: Any, *, extra: Mapping[str, Any] | None = None) -> Self:
        """Return the settings of an Airflow connection.

        Args:
            connection: of type ``lro``, or ``google_cloud_platform``, which has no endpoint and no token.
            extra: its extra, where that was read asynchronously.
        """
        extra = connection.extra_dejson if extra is None else extra
        if connection.conn_type == GOOGLE_CONNECTION:
            return cls(extra=extra)
        return cls(host=connection.host, port=connection.port, password=connection.password, extra=extra)

    def channel_config(self, *, endpoint: str | None = None, name: str | None = None) -> ChannelConfig:
        """Return the channel that this connection and a task describe.

        Args:
            endpoint: the task's, which goes before the connection's.
            name: an operation's, from which ``{location}`` in the endpoint is filled.

        Raises:
            EndpointError: endpoint or TLS options cannot be right; says which, and what would do.
            CredentialsError: several kinds of credentials, or credentials on a plaintext channel.
        """
        from airflow_provider_lro._channel import ChannelConfig, fill_location, parse_endpoint, read_pem
        from airflow_provider_lro._credentials import CLOUD_PLATFORM, CredentialsConfig

        extra = self.extra
        keyfile = extra.get("keyfile_dict") or None
        return ChannelConfig(
            target=parse_endpoint(
                fill_location(endpoint or self.host or "", name), port=None if endpoint else self.port
            ),
            credentials=CredentialsConfig(
                key_path=extra.get("key_path") or None,
                keyfile=keyfile if keyfile is None or isinstance(keyfile, str) else json.dumps(keyfile),
                token=self.password or None,
                anonymous=_boolean(extra, "is_anonymous"),
                scopes=tuple(str(extra.get("scope") or CLOUD_PLATFORM).replace(",", " ").split()),
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
