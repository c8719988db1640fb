"""The settings in an Airflow connection, and the channel that they describe together with a task's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core.checks import is_number, is_text, read_headers, read_task_headers, secret_texts
from airflow_provider_lro._core.form import FIELDS
from airflow_provider_lro.exceptions import CredentialsError, EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro._transport.credentials import CredentialsConfig

MIN_RATE = 1e-6
"""Polls a second: one in eleven days."""
GOOGLE_CONNECTION = "google_cloud_platform"
GOOGLE_PREFIX = "extra__google_cloud_platform__"
GOOGLE_PROVIDER_EXTRAS = (
    "credential_config_file",
    "key_secret_name",
    "key_secret_project_id",
    "idp_issuer_url",
    "client_id",
    "client_secret",
    "idp_extra_parameters",
)
"""Extras for which the Google provider is needed: keys in Secret Manager, client credentials of an IdP."""

KNOWN_EXTRAS = (
    *(each.name for each in FIELDS),
    *GOOGLE_PROVIDER_EXTRAS,
    "project",
    "project_id",
    "num_retries",
)
"""Extras that mean something here, or to the Google provider."""
SECRET_EXTRAS = ("keyfile_dict", "credential_config_file", "client_key", "client_secret", "idp_extra_parameters")
SECRET_KEYS = ("private_key", "client_secret", "refresh_token", "access_token", "id_token", "token", "authorization")
"""Secrets inside those that are JSON, at any depth."""
MISTAKABLE_EXTRAS = ("key_path", "key_secret_name")
"""Extras that name the place of a key, and may have been given the key itself."""
NOWHERE = "endpoint.invalid"
"""A host that no name server will ever know: in place of an endpoint that is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The settings in a connection; the defaults are those without one. The repr shows no secret."""

    conn_id: str = ""
    host: str | None = None
    port: int | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_google: bool = False
    _configs: dict[Any, ChannelConfig] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, connection: Any) -> Self:
        """Return the settings of an Airflow connection.

        Args:
            connection: of type ``lro``, or ``google_cloud_platform``, which has no endpoint and no token.
        """
        extra = connection.extra_dejson
        if not isinstance(extra, Mapping):
            what = f"the extra of connection {connection.conn_id!r} is of type {type(extra).__name__}"
            raise EndpointError(f'{what}, but it must be a JSON object such as {{"key_path": "/keys/k.json"}}')
        extra = _unprefixed(extra)
        if connection.conn_type == GOOGLE_CONNECTION:
            return cls(conn_id=connection.conn_id, extra=extra, is_google=True)
        return cls(
            conn_id=connection.conn_id,
            host=connection.host,
            port=connection.port,
            password=connection.password,
            extra=extra,
        )

    def secrets(self) -> list[str]:
        """Return the texts that no log may show, for Airflow's masker, which knows only some of them by name."""
        from airflow_provider_lro._transport.credentials import is_key

        texts = [self.password]
        mistaken = [key for key in MISTAKABLE_EXTRAS if self.extra.get(key) and is_key(str(self.extra[key]))]
        for key in (*SECRET_EXTRAS, *mistaken):
            value = self.extra.get(key)
            content = _json(value) if isinstance(value, str) else value
            if key != "credential_config_file" or isinstance(content, Mapping):  # else a path
                texts.append(_text(value))
            texts.extend(_secrets_in(content, all_texts=key == "idp_extra_parameters"))
        with suppress(ValueError):  # said where they are read for a call
            texts.extend(secret_texts(read_headers(self.extra.get("headers")).items()))
        found = [text for text in texts if text]
        # Of a PEM a log has its lines, or all of it on one, as JSON and repr write it.
        return [*found, *(json.dumps(text)[1:-1] for text in found if "\n" in text)]

    def remarks(self) -> Iterator[str]:
        """Yield what is probably meant otherwise, though it works; each in words.

        Some of the Google provider's hooks have extras of their own, so of its connections only misspelt ones are told.
        """
        for key in self.extra:
            if key not in KNOWN_EXTRAS:
                meant = get_close_matches(key, KNOWN_EXTRAS, n=1, cutoff=0.8)
                if meant or not self.is_google:
                    yield f"unknown extra {key!r}" + (f" (did you mean {meant[0]!r}?)" if meant else "")
        for each in FIELDS:
            value = self.extra.get(each.name)
            # A URI has only texts; Airflow itself writes True as "True" then.
            if each.kind == "boolean" and isinstance(value, str) and value.lower() not in ("", "true", "false"):
                yield f"{each.name}={value!r} should be true or false"

    def channel_config(self, task: TaskSettings, *, name: str | None = None) -> ChannelConfig:
        """Return the channel for one operation, or for none in particular; see ``channel_configs``."""
        return next(self.channel_configs(task, [name]))

    def channel_configs(
        self, task: TaskSettings, names: Iterable[str | None], *, in_triggerer: bool = False
    ) -> Iterator[ChannelConfig]:
        """Yield the channel that this connection and a task describe, for each of many operations.

        The same channel is the same object. The names fill ``{location}`` in the endpoint.

        Raises:
            EndpointError: endpoint or TLS options cannot be right, or the endpoint is not one that a task may have the
                credentials sent to; says which, and what would do.
            CredentialsError: several kinds of credentials, or credentials on a plaintext channel.
        """
        from airflow_provider_lro._transport.channel import fill_location, in_universe

        task.check()
        endpoint = task.endpoint or self.host or ""
        if universe := _host_name(self.extra, "universe_domain"):
            endpoint = in_universe(endpoint, universe)
        headers = self._headers(task)
        who = (not task.endpoint, chain_of(task.impersonation_chain), task.quota_project_id, headers)
        for name in names:
            place = fill_location(endpoint, name) if "{location}" in endpoint else endpoint
            key = (place, who, in_triggerer)
            if key not in self._configs:
                self._configs[key] = self._channel_config(task, place, headers, in_triggerer=in_triggerer)
            yield self._configs[key]

    def _headers(self, task: TaskSettings) -> tuple[tuple[str, str], ...]:
        """Return the connection's headers and the task's, which go before them."""
        try:
            own = read_headers(self.extra.get("headers"), where=" in the connection's extra")
            return tuple({**own, **read_task_headers(task.headers)}.items())
        except ValueError as error:
            raise EndpointError(str(error)) from None

    def _channel_config(
        self, task: TaskSettings, endpoint: str, headers: tuple[tuple[str, str], ...], *, in_triggerer: bool
    ) -> ChannelConfig:
        from airflow_provider_lro._transport.channel import ChannelConfig, parse_endpoint

        extra = self.extra
        allowed = self._allowed()
        config = ChannelConfig(
            target=parse_endpoint(endpoint, port=None if task.endpoint else self.port),
            credentials=self._credentials(task),
            insecure=_boolean(extra, "insecure"),
            root_certificates=_pem(extra, "root_certificates"),
            client_certificate=_pem(extra, "client_certificate"),
            client_key=_pem(extra, "client_key"),
            authority=_host_name(extra, "authority"),
            headers=headers,
            max_message_mb=_number(extra, "max_message_mb", int, what="a whole number", least=0, default=64),
            max_triggerer_message_mb=_number(
                extra, "max_triggerer_message_mb", int, what="a whole number", least=0, default=1
            ),
            in_triggerer=in_triggerer,
            max_polls_per_second=_number(extra, "max_polls_per_second", float, what="a number above 0", least=MIN_RATE),
            max_triggerer_pages=_number(
                extra, "max_triggerer_pages", int, what="a whole number above 0", least=1, default=1000
            ),
        )
        if task.endpoint not in (None, "", NOWHERE) and config.sends_secrets:
            self._check_allowed(config.target, allowed)
        return config

    def _allowed(self) -> list[str]:
        """Return the endpoints that tasks may name, besides the connection's own, in patterns that are right."""
        from airflow_provider_lro._transport.channel import DEFAULT_UNIVERSE, endpoint_pattern

        value = self.extra.get("allowed_endpoints") or []
        texts = value.split(",") if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            expected = "a text with commas between hosts, or a list of hosts, such as ['*.googleapis.com']"
            raise EndpointError(f"allowed_endpoints={value!r} in the connection's extra, but it must be {expected}")
        allowed = [text.strip() for text in texts if text.strip()]
        for text in allowed:
            try:
                endpoint_pattern(text)
            except EndpointError as error:
                raise EndpointError(f"allowed_endpoints in the connection's extra: {error}") from None
        return allowed or [f"*.{_host_name(self.extra, 'universe_domain') or DEFAULT_UNIVERSE}"]

    def _check_allowed(self, target: str, allowed: Sequence[str]) -> None:
        """Raise EndpointError for a target that a task may not have the credentials sent to."""
        from airflow_provider_lro._transport.channel import DEFAULT_PORT, in_universe, is_allowed, parse_endpoint

        own = []
        with suppress(EndpointError):  # a host that cannot be one is nobody's
            universe = _host_name(self.extra, "universe_domain")
            own = [parse_endpoint(in_universe(self.host or "", universe), port=self.port)]
        if is_allowed(target, [*own, *allowed]):
            return
        place = target.removesuffix(f":{DEFAULT_PORT}")
        line = json.dumps({"allowed_endpoints": [*allowed, place]})[1:-1]
        whose = f"connection {self.conn_id!r}" if self.conn_id else "this machine"
        where = "the connection's extra" if self.conn_id else "the extra of a connection that you store"
        raise EndpointError(
            f"the credentials of {whose} are not sent to {place!r}, which is not among its endpoints"
            f" ({', '.join((*own, *allowed))}); if they may be, put into {where}: {line}"
        )

    def _credentials(self, task: TaskSettings) -> CredentialsConfig:
        from airflow_provider_lro._transport.credentials import CLOUD_PLATFORM, CredentialsConfig

        extra = self.extra
        scopes = extra.get("scope") or CLOUD_PLATFORM
        texts = scopes if isinstance(scopes, list) else [scopes]
        if not all(is_text(text) for text in texts):
            expected = "a text with commas between scopes, or a list of texts"
            raise CredentialsError(f"scope={scopes!r} in the connection's extra, but it must be {expected}")
        google: tuple[tuple[str, str], ...] = ()
        if extra.get("key_secret_name") or extra.get("idp_issuer_url"):
            google = tuple((key, text) for key in GOOGLE_PROVIDER_EXTRAS if (text := _text(extra.get(key))))
        return CredentialsConfig(
            key_path=_string(extra, "key_path"),
            keyfile=_text(extra.get("keyfile_dict")),
            config_file=None if google else _text(extra.get("credential_config_file")),
            token=self.password or None,
            anonymous=_boolean(extra, "is_anonymous"),
            google=google,
            scopes=tuple(" ".join(texts).replace(",", " ").split()),
            impersonation_chain=chain_of(task.impersonation_chain or extra.get("impersonation_chain")),
            quota_project_id=task.quota_project_id or _string(extra, "quota_project_id"),
            whose=f"the credentials of connection {self.conn_id!r}" if self.conn_id else "the credentials",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """The settings of a task that go before those of its connection."""

    endpoint: str | None = None
    impersonation_chain: str | Sequence[str] | None = None
    quota_project_id: str | None = None
    headers: Mapping[str, str] | str | None = None

    def check(self) -> None:
        """Raise EndpointError or CredentialsError for a value that is not text."""
        for name, kind in (("endpoint", EndpointError), ("quota_project_id", CredentialsError)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise kind(f"{name}={value!r}, but it must be None or a text")


def chain_of(value: object) -> tuple[str, ...]:
    """Return an impersonation chain from one account, a list with commas between, or a sequence.

    Raises:
        CredentialsError: it is none of these.
    """
    accounts = value.split(",") if isinstance(value, str) else value or ()
    if not isinstance(accounts, Sequence) or not all(isinstance(account, str) for account in accounts):
        raise CredentialsError(
            f"impersonation_chain={value!r}, but it must be a service account, several with commas between, or a list"
        )
    return tuple(account.strip() for account in accounts if account.strip())


def _unprefixed(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Old forms of the Google provider wrote its extras with a prefix; the bare name goes before it."""
    old = {key.removeprefix(GOOGLE_PREFIX): value for key, value in extra.items() if key.startswith(GOOGLE_PREFIX)}
    return {**old, **{key: value for key, value in extra.items() if not key.startswith(GOOGLE_PREFIX)}}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # said where the key is loaded
        return None


def _secrets_in(content: Any, *, all_texts: bool) -> Iterator[str]:
    """Yield the secrets in JSON: the texts below ``SECRET_KEYS``, or all texts."""
    rest = [("", content, all_texts)]
    while rest:
        key, value, is_secret = rest.pop()
        is_secret = is_secret or key.lower() in SECRET_KEYS
        if isinstance(value, Mapping):
            rest.extend((name, inner, is_secret) for name, inner in value.items())
        elif isinstance(value, list):
            rest.extend(("", inner, is_secret) for inner in value)
        elif is_secret and isinstance(value, str):
            yield value


def _text(value: object) -> str | None:
    """JSON may be stored as text or as the value itself."""
    if not value:
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _pem(extra: Mapping[str, Any], key: str) -> bytes | None:
    from airflow_provider_lro._transport.channel import read_pem

    value = _string(extra, key)
    return None if value is None else read_pem(value, what=key)


def _string(extra: Mapping[str, Any], key: str) -> str | None:
    value = extra.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise EndpointError(f"{key} in the connection's extra is of type {type(value).__name__}, but it must be a text")


def _host_name(extra: Mapping[str, Any], key: str) -> str | None:
    value = (_string(extra, key) or "").strip().strip(".")
    if re.fullmatch(r"[\w.:\[\]-]*", value, re.ASCII):
        return value or None
    raise EndpointError(f"{key}={value!r} in the connection's extra, but it must be the name of a host")


def _boolean(extra: Mapping[str, Any], key: str) -> bool:
    """Return a boolean, also from the text of a URI; any other value must not turn TLS off by accident."""
    value = extra.get(key)
    if value in (None, ""):
        return False
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "yes"):
        return True
    if isinstance(value, str) and value.lower() in ("false", "0", "no"):
        return False
    raise EndpointError(f"{key}={value!r} in the connection's extra, but it must be true or false")


def _number(
    extra: Mapping[str, Any], key: str, kind: type[float], *, what: str, least: float, default: float | None = None
) -> Any:
    value = extra.get(key)
    if value in (None, ""):
        return default
    try:
        number = math.nan if isinstance(value, bool) else kind(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not is_number(number, least=least) or (isinstance(value, float) and number != value):
        raise EndpointError(f"{key}={value!r} in the connection's extra, but it must be {what}")
    return number
