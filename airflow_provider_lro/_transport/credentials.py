"""From configuration to google-auth credentials. Nothing is loaded before the first call needs it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from google.auth import environment_vars
from google.auth import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials

from airflow_provider_lro._core.checks import is_header_value
from airflow_provider_lro.exceptions import Code, CredentialsError, RpcError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.auth.credentials import Credentials

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
QUOTA_PROJECT = "x-goog-user-project"
"""The header with the project that quota and bills go to."""

_SOURCES = {
    "key_path": "a key",
    "keyfile": "keyfile_dict",
    "config_file": "credential_config_file",
    "token": "a bearer token",
    "given": "credentials that were given",
    "google": "credentials of the Google provider",
}
"""Where credentials may come from, in words."""
_UNUSABLE = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""Errors of google-auth for JSON that it does not expect."""

_EVERYWHERE = "it must be on every worker and triggerer"
REFUSING_STATUS = frozenset({400, 401, 403})
"""The answers of a token endpoint that are a no to these credentials; any other may be another tomorrow."""

Headers: TypeAlias = tuple[tuple[str, str], ...]


def is_key(text: str) -> bool:
    """Return True for a text that looks like a key, where the path of one is expected."""
    return text.lstrip().startswith("{") or "\n" in text.strip() or "PRIVATE KEY" in text


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsConfig:
    """Where the credentials of a channel come from; nothing given means application default credentials.

    Compared by value, so that waits with equal credentials share a channel. The repr shows no secret.

    ``key_path`` and ``keyfile`` are a service account's key; ``token`` is sent as it is; ``given`` are google-auth's;
    ``config_file`` is the path or the text of a credential configuration; of ``google``, by the names of its extras,
    only the Google provider makes credentials. The last of ``impersonation_chain`` is impersonated, those before it are
    its delegates. ``whose`` is what an error calls the credentials.
    """

    key_path: str | None = None
    keyfile: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    given: Any = field(default=None, repr=False)
    config_file: str | None = field(default=None, repr=False)
    google: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    anonymous: bool = False
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,)
    impersonation_chain: tuple[str, ...] = ()
    quota_project_id: str | None = None
    whose: str = field(default="the credentials", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.given, AnonymousCredentials):
            object.__setattr__(self, "given", None)
            object.__setattr__(self, "anonymous", True)
        if self.key_path and is_key(self.key_path):
            raise CredentialsError("key_path holds a key, not a path: put it in keyfile_dict")
        sources = [name for name in (*_SOURCES, "anonymous") if getattr(self, name)]
        if self.impersonation_chain and (self.anonymous or self.token):
            raise CredentialsError(
                "impersonation_chain is given with a bearer token or anonymous calls, which cannot impersonate: give"
                " other credentials, or take it out"
            )
        if len(sources) > 1:
            kinds = ", ".join(_SOURCES.get(name, "is_anonymous") for name in sources)
            raise CredentialsError(
                f"several kinds of credentials are given ({kinds}); give one, or none for application default"
                " credentials"
            )
        if self.quota_project_id is not None:
            object.__setattr__(self, "quota_project_id", self._checked_quota_project() or None)
        if self.token is not None and not is_header_value(self.token):
            raise CredentialsError(
                "the bearer token holds characters that no header can carry (a line end, perhaps); give the bare token"
            )

    def _checked_quota_project(self) -> str:
        """Return the project without what surrounds it; gRPC would take what no header can carry for an outage."""
        project: object = self.quota_project_id
        if not isinstance(project, str):
            raise CredentialsError(f"quota_project_id={project!r}, but it must be a project's id, as a text")
        if not is_header_value(project.strip()):
            raise CredentialsError("quota_project_id holds characters that no header can carry; give a project's id")
        return project.strip()

    @property
    def explicit(self) -> bool:
        """Whether credentials were asked for by name, so that leaving them out would surprise."""
        return any(getattr(self, name) for name in _SOURCES) or bool(self.impersonation_chain)

    @property
    def whom(self) -> str:
        """In words, as whom they call, as far as that is known before they are loaded."""
        if self.anonymous:
            return "as nobody"
        source = next(
            (said for name, said in _SOURCES.items() if getattr(self, name)), "application default credentials"
        )
        if self.key_path:
            source = f"the key {self.key_path!r}"
        return f"as {self.impersonation_chain[-1]}, by {source}" if self.impersonation_chain else f"with {source}"

    def static_headers(self) -> Headers:
        """Return the headers of credentials that are never refreshed: a bearer token, or none."""
        return (*((("authorization", f"Bearer {self.token}"),) if self.token else ()), *self._quota())

    def applied(self, credentials: Credentials) -> Headers:
        """Return the headers for google-auth credentials that hold a token."""
        headers: dict[str, str] = {}
        credentials.apply(headers)
        return tuple({key.lower(): value for key, value in (*headers.items(), *self._quota())}.items())

    def _quota(self) -> Headers:
        return ((QUOTA_PROJECT, self.quota_project_id),) if self.quota_project_id else ()

    def load(self) -> Credentials:
        """Return google-auth credentials. Blocks: reads files, may ask the metadata server or Secret Manager.

        Raises:
            CredentialsError: there are none, or they cannot be used; says where they were looked for.
            RpcError: Secret Manager could not be reached or was overloaded; worth another try.
        """
        credentials = self._load_source()
        if self.impersonation_chain:
            from google.auth import impersonated_credentials

            *delegates, principal = self.impersonation_chain
            credentials = impersonated_credentials.Credentials(
                source_credentials=credentials,
                target_principal=principal,
                delegates=delegates or None,
                target_scopes=list(self.scopes),
            )
        return credentials

    def for_client(self, *, insecure: bool = False) -> Credentials:
        """Return google-auth credentials for the client of another library, as ``load`` does."""
        if insecure or self.anonymous:
            return AnonymousCredentials()
        if self.token:
            from google.oauth2.credentials import Credentials as BearerToken

            return BearerToken(token=self.token, quota_project_id=self.quota_project_id)
        credentials = self.load()
        if self.quota_project_id and hasattr(credentials, "with_quota_project"):
            credentials = credentials.with_quota_project(self.quota_project_id)
        return credentials

    def _load_source(self) -> Credentials:
        if self.given is not None:
            return self.given  # type: ignore[no-any-return]
        if self.key_path or self.keyfile:
            return self._load_key()
        if self.google:
            return self._load_with_google_provider()
        if self.config_file:
            return _from_config_file(self.config_file, self.scopes)
        import google.auth

        if is_key(os.environ.get(environment_vars.CREDENTIALS, "")):  # google-auth's own text would show it
            raise CredentialsError(
                f"the variable {environment_vars.CREDENTIALS} holds a key, not a path: write it to a file, or put it in"
                " keyfile_dict of the connection's extra"
            )
        try:
            credentials: Credentials = google.auth.default(scopes=self.scopes)[0]
        except (google_errors.GoogleAuthError, *_UNUSABLE, OSError) as error:
            # Its text names what was looked for; that of the others may quote the file.
            known = isinstance(error, google_errors.DefaultCredentialsError | OSError)
            why = str(error).rstrip(". ") if known else f"what is there cannot be used ({type(error).__name__})"
            raise CredentialsError(
                f"there are no application default credentials: {why}. Give the connection a key (key_path or"
                " keyfile_dict) or a bearer token (the password), or set is_anonymous; without a connection, give"
                " credentials=. For a plaintext server, which is sent none, say insecure"
            ) from None
        return credentials

    def _load_with_google_provider(self) -> Credentials:
        wanted = dict(self.google)
        try:
            from airflow.providers.google.cloud.utils.credentials_provider import get_credentials_and_project_id
            from airflow.providers.google.cloud.utils.external_token_supplier import (
                ClientCredentialsGrantFlowTokenSupplier as Supplier,
            )
            from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError, TooManyRequests
        except ImportError:
            raise CredentialsError(
                f"{self.whose} need the Google provider ({', '.join(wanted)} in the connection's extra); install"
                " apache-airflow-providers-google, or use key_path, keyfile_dict or credential_config_file"
            ) from None
        if "key_secret_name" not in wanted:
            # Not by get_credentials_and_project_id: it asks Cloud Resource Manager for the project, at once, and keeps
            # the extra parameters to itself (22.8.0).
            return _from_config_file(wanted.get("credential_config_file"), self.scopes, _supplier(Supplier, wanted))
        from airflow_provider_lro.version_compat import AirflowException

        name = wanted["key_secret_name"]
        if is_key(name):
            raise CredentialsError("key_secret_name holds a key, not a name: put it in keyfile_dict")
        known = ("key_secret_name", "key_secret_project_id", "credential_config_file")
        given = {key: wanted[key] for key in known if key in wanted}
        try:
            credentials: Credentials = get_credentials_and_project_id(scopes=list(self.scopes), **given)[0]
        except (ServerError, TooManyRequests, RetryError) as error:
            said = f"{self.whose}: Secret Manager cannot be reached ({type(error).__name__})"
            raise RpcError(said, code=Code.UNAVAILABLE, message=said) from None
        except (AirflowException, GoogleAPICallError, google_errors.GoogleAuthError, *_UNUSABLE, OSError) as error:
            # The Google provider's own texts name fields; those of the others may quote what is in them.
            why = str(error) if isinstance(error, AirflowException) else type(error).__name__
            checks = "that it is there and holds a JSON key, and that this account may read it"
            raise CredentialsError(f"{self.whose}: the secret {name!r} gives no key ({why}); check {checks}") from None
        return credentials

    def _load_key(self) -> Credentials:
        from google.oauth2 import service_account

        what = f"the file {self.key_path!r}" if self.key_path else "keyfile_dict"
        try:
            info = json.loads(self.keyfile or Path(self.key_path or "").read_text())
            # Escaped twice on its way into the connection; the Google provider takes such a key, too.
            info["private_key"] = info["private_key"].replace("\\n", "\n")
            credentials: Credentials = service_account.Credentials.from_service_account_info(info, scopes=self.scopes)
        except OSError as error:
            raise CredentialsError(
                f"the service-account key {self.key_path!r} cannot be read: {error.strerror}; {_EVERYWHERE}"
            ) from None
        except (google_errors.GoogleAuthError, *_UNUSABLE) as error:
            # Without its text, which may quote the key.
            raise CredentialsError(
                f"{what} is not a usable service-account key ({type(error).__name__}); expected the JSON key file that"
                " the cloud console gives out, whole"
            ) from None
        return credentials


def _from_config_file(text: str | None, scopes: Sequence[str], supplier: Any = None) -> Credentials:
    """Return the credentials of a configuration, its path or its text, whose subject a supplier may give."""
    if not text:
        purpose = "which says where its tokens are exchanged"
        raise CredentialsError(f"idp_issuer_url is given without credential_config_file, {purpose}: give both")
    try:
        info = json.loads(text if text.lstrip().startswith("{") else Path(text).expanduser().read_text())
        if supplier is not None:
            info["subject_token_supplier"] = supplier
        return _from_configuration(info, list(scopes))
    except OSError as error:
        raise CredentialsError(f"credential_config_file cannot be read: {error.strerror}; {_EVERYWHERE}") from None
    except (google_errors.GoogleAuthError, *_UNUSABLE, RuntimeError) as error:
        raise CredentialsError(
            f"credential_config_file is not a usable credential configuration ({type(error).__name__}); expected the"
            " path or the JSON text of one, such as `gcloud iam workload-identity-pools create-cred-config` writes"
        ) from None


def _supplier(base: Any, wanted: Mapping[str, str]) -> Any:
    """Return the supplier of a client's identity, derived from the Google provider's class."""
    import requests

    class Supplier(base):  # type: ignore[misc]
        def get_subject_key(self) -> str:
            """Name the token by all that it is asked for with; the base leaves out what the parameters say."""
            return json.dumps([self.oidc_issuer_url, self.client_id, self.client_secret, self.extra_params_kwargs])

        def get_subject_token(self, context: Any, request: Any) -> str:
            """Mark errors that pass as such, those of an answer that is none among them; the base raises all alike."""
            try:
                return str(super().get_subject_token(context, request))
            except google_errors.RefreshError as error:
                cause = error.__context__
                answer = cause.response if isinstance(cause, requests.HTTPError) else None
                is_refused = answer is not None and answer.status_code in REFUSING_STATUS
                raise google_errors.RefreshError(*error.args, retryable=not is_refused) from None

    try:
        return Supplier(
            oidc_issuer_url=wanted["idp_issuer_url"],
            client_id=wanted["client_id"],
            client_secret=wanted["client_secret"],
            **json.loads(wanted.get("idp_extra_parameters") or "{}"),
        )
    except KeyError as error:
        raise CredentialsError(f"idp_issuer_url is given without {error.args[0]}: give both") from None
    except (ValueError, TypeError):
        raise CredentialsError("idp_extra_parameters=…, but it must be a JSON object of further parameters") from None


def _from_configuration(info: Mapping[str, Any], scopes: list[str]) -> Credentials:
    """Return the credentials that a configuration describes, by its ``type``.

    google-auth's own function for this takes any type unseen, and is deprecated for it.
    """
    from google.auth import aws, external_account_authorized_user, identity_pool, impersonated_credentials, pluggable
    from google.oauth2 import credentials as user
    from google.oauth2 import service_account

    kind = info["type"]
    if kind == "external_account":
        source = info.get("credential_source") or {}
        if str(source.get("environment_id", "")).startswith("aws"):
            kind = "aws"
        elif "executable" in source:
            kind = "pluggable"
    makers: dict[str, Any] = {
        "aws": aws.Credentials.from_info,
        "pluggable": pluggable.Credentials.from_info,
        "external_account": identity_pool.Credentials.from_info,
        # It takes the scopes of the configuration alone.
        "external_account_authorized_user": lambda info, scopes: external_account_authorized_user.Credentials.from_info(
            {**info, "scopes": scopes}
        ),
        "authorized_user": user.Credentials.from_authorized_user_info,
        "service_account": service_account.Credentials.from_service_account_info,
        "impersonated_service_account": impersonated_credentials.Credentials.from_impersonated_service_account_info,
    }
    credentials: Credentials = makers[kind](info, scopes=scopes)
    return credentials
