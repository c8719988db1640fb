"""From configuration to the headers of a call: google-auth credentials and their tokens.

Tokens travel as per-call metadata, not through grpc's call-credentials plugin, which costs a thread per call. Nothing
is loaded or fetched before the first call needs it, and what blocks (files, the metadata server, a token endpoint)
blocks in ``Tokens.refresh`` alone, which ``arefresh`` moves off the event loop. Floor ½.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from google.auth import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials

from airflow_provider_lro.exceptions import Code, CredentialsError, LroError, RpcError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

__all__ = ["CredentialsConfig", "Headers", "Tokens"]

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"

_UNUSABLE = (ValueError, TypeError, AttributeError, KeyError)
"""What google-auth raises for JSON that is not what it expects."""

Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsConfig:
    """Where the credentials of a channel come from; nothing given means application default credentials.

    Compared by value, so that waits with equal credentials share a channel. The repr shows no secret.

    Args:
        key_path: path of a service-account key file (JSON).
        keyfile: the text of one.
        token: a bearer token, sent as it is and never refreshed.
        given: google-auth credentials that the caller made.
        anonymous: send no credentials at all.
        scopes: OAuth scopes for what this provider loads itself.
    """

    key_path: str | None = None
    keyfile: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    given: Any = field(default=None, repr=False)
    anonymous: bool = False
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,)

    def __post_init__(self) -> None:
        if isinstance(self.given, AnonymousCredentials):
            object.__setattr__(self, "given", None)
            object.__setattr__(self, "anonymous", True)
        sources = [name for name in ("key_path", "keyfile", "token", "given", "anonymous") if getattr(self, name)]
        if len(sources) > 1:
            raise CredentialsError(
                f"several kinds of credentials are given ({', '.join(sources)}); give one, or none for application"
                " default credentials"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise CredentialsError(
                "the bearer token holds characters that no header can carry (a line end, perhaps); give the bare token"
            )

    @property
    def explicit(self) -> bool:
        """Whether credentials were asked for by name, so that leaving them out would surprise."""
        return bool(self.key_path or self.keyfile or self.token or self.given)

    def load(self) -> Credentials:
        """Return google-auth credentials. Blocks: reads files, may ask the metadata server.

        Raises:
            CredentialsError: there are none, or they cannot be used; says where they were looked for.
        """
        if self.given is not None:
            return self.given  # type: ignore[no-any-return]
        if self.key_path or self.keyfile:
            return self._load_key()
        import google.auth

        try:
            credentials: Credentials = google.auth.default(scopes=self.scopes)[0]
        except (google_errors.GoogleAuthError, *_UNUSABLE, OSError) as error:
            # Its text names what was looked for; that of the others may quote the file.
            known = isinstance(error, google_errors.DefaultCredentialsError | OSError)
            why = str(error) if known else f"what is there cannot be used ({type(error).__name__})"
            raise CredentialsError(
                f"there are no application default credentials: {why}. Give the connection a key (key_path or"
                " keyfile_dict) or a bearer token (the password), or set is_anonymous"
            ) from None
        return credentials

    def _load_key(self) -> Credentials:
        from google.oauth2 import service_account

        what = f"the file {self.key_path!r}" if self.key_path else "keyfile_dict"
        try:
            text = self.keyfile or Path(self.key_path or "").read_text()
            credentials: Credentials = service_account.Credentials.from_service_account_info(
                json.loads(text), scopes=self.scopes
            )
        except OSError as error:
            raise CredentialsError(f"the service-account key {self.key_path!r} cannot be read: {error}") from None
        except (google_errors.GoogleAuthError, *_UNUSABLE) as error:
            # Without its text, which may quote the key.
            raise CredentialsError(
                f"{what} is no usable service-account key ({type(error).__name__}); expected the JSON key file that"
                " the cloud console gives out, whole"
            ) from None
        return credentials


class Tokens:
    """The authorization headers of one channel: fetched once for all its calls, and again before they expire."""

    def __init__(self, config: CredentialsConfig) -> None:
        self._config = config
        self._credentials: Credentials | None = None
        self._headers: Headers | None = None
        self._lock = threading.Lock()
        self._turn = asyncio.Lock()
        if config.anonymous:
            self._headers = ()
        elif config.token:
            self._headers = (("authorization", f"Bearer {config.token}"),)

    def headers(self) -> Headers | None:
        """Return the headers of a call made now; None when they must be refreshed first."""
        if self._credentials is not None and not self._credentials.valid:
            return None
        return self._headers

    def refresh(self) -> Headers:
        """Return valid headers. Blocks; callers that come at once share one refresh.

        Raises:
            CredentialsError: for good.
            RpcError: the token endpoint could not be reached or was overloaded; worth another try.
        """
        with self._lock:
            headers = self.headers()
            if headers is None:
                if self._credentials is None:
                    self._credentials = self._config.load()
                headers = self._headers = self._fetch(self._credentials)
            return headers

    async def arefresh(self) -> Headers:
        """Do as ``refresh`` does, off the event loop; waiters take up no thread."""
        async with self._turn:
            headers = self.headers()
            return await asyncio.to_thread(self.refresh) if headers is None else headers

    @staticmethod
    def _fetch(credentials: Credentials) -> Headers:
        from google.auth.transport.requests import Request

        try:
            if not credentials.valid:
                credentials.refresh(Request())
        except google_errors.GoogleAuthError as error:
            raise _refresh_error(error) from error
        headers: dict[str, str] = {}
        credentials.apply(headers)
        return tuple((key.lower(), value) for key, value in headers.items())


def _refresh_error(error: google_errors.GoogleAuthError) -> LroError:
    """Tell a token endpoint that is down from one that said no. Blame stays with what it said, never with a token."""
    if isinstance(error, google_errors.TransportError) or error.retryable:
        return RpcError(f"the token endpoint cannot be reached: {error}", code=Code.UNAVAILABLE, message=str(error))
    return CredentialsError(f"the credentials were refused by the token endpoint: {error}", message=str(error))
