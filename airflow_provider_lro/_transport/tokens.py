"""The authorization headers of one channel: fetched once for all its calls, and again ahead of expiry.

Tokens travel as per-call metadata, not through grpc's call-credentials plugin, which costs a thread per call. All
that blocks (files, the metadata server, a token endpoint) blocks in the refresh alone, which has a thread of its own.
It may last for minutes; no caller waits so long, and no exception of a signal handler can strike in the middle of it.
However many calls need a token, there is one refresh at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote_plus

from google.auth import exceptions as google_errors

from airflow_provider_lro._core.checks import MAX_SAID, hide, is_header_value, one_line, secret_texts, storable
from airflow_provider_lro._transport.credentials import REFUSING_STATUS
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, LroError, RpcError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.auth.credentials import Credentials

    from airflow_provider_lro._transport.credentials import CredentialsConfig, Headers

MAX_MARGIN = 225.0
"""Seconds before its expiry at which a token is refreshed; google-auth's own ``REFRESH_THRESHOLD``."""
SHARE_OF_LIFE = 0.25
"""… but not before the last quarter of a token's life."""
PAUSE_AFTER_FAILURE = 30.0
"""Seconds until a refresh is tried again that failed while its token was still valid."""
PAUSE_WITHOUT_TOKEN = 1.0
"""… and where none was valid: until then all calls share its error, or each would ask the endpoint in its turn."""
MAX_START = 5.0
"""Seconds after which a refresh counts as never begun, as its thread has not run."""
MAX_HEADER = 2**16
"""Characters of a header with a token; most servers take 8 to 16 KiB."""
MAX_ANSWER = 2**20
"""Bytes of a token endpoint's answer."""
PASSING_STATUS = (408, 429)
_PIECE = 2**16

log = logging.getLogger(__name__)


class Tokens:
    """The tokens of one channel, for its sync or its aio calls."""

    def __init__(self, config: CredentialsConfig) -> None:
        self._config = config
        self._credentials: Credentials | None = None
        self._headers: Headers | None = None
        self._refresh_at = math.inf
        self._expires_at = math.inf
        self._lock = threading.Lock()
        self._has_begun = False
        self._begins_by = 0.0  # the time by which the thread of the refresh must have begun
        self._refresh: Future[Headers] | None = None
        self._failed: Future[Headers] | None = None
        self._failed_until = 0.0
        if config.anonymous or config.token:
            self._headers = config.static_headers()

    def headers(self) -> Headers | None:
        """Return the headers of a call made now; None when they must be refreshed first."""
        now = time.monotonic()
        if now < self._refresh_at:
            return self._headers
        # The first call after its time is told to refresh; all others go on with the token that is still valid.
        return self._headers if self._refresh is not None and now < self._expires_at else None

    def forget(self, refused: Headers | None) -> bool:
        """Take a token for revoked: the service refused it. Return True if there may be another."""
        if self._credentials is not None and refused is self._headers:  # else it has been replaced since
            self._headers, self._refresh_at = None, math.inf
        return self._credentials is not None

    def refresh(self, timeout: float | None = None) -> Headers:
        """Return valid headers. Callers that come at once share one refresh, and its error.

        It blocks, ``timeout`` seconds at most, only where no token is still valid.

        Raises:
            CredentialsError: for good.
            RpcError, EndpointError: the token endpoint gave no token; worth another try.
            TimeoutError: it takes longer; the refresh itself goes on.
        """
        refresh = self._join_refresh()
        valid = self.headers()
        return refresh.result(timeout) if valid is None else valid

    async def arefresh(self) -> Headers:
        """Do as ``refresh`` does, off the event loop; the caller's own timeout ends it."""
        refresh = self._join_refresh()
        valid = self.headers()
        return await asyncio.wrap_future(refresh) if valid is None else valid

    def _join_refresh(self) -> Future[Headers]:
        """Return the refresh that is under way, or has failed just now; begun if there is none."""
        with self._lock:
            if self._failed is not None and time.monotonic() < self._failed_until:
                return self._failed
            if self._refresh is not None:
                if self._has_begun or time.monotonic() < self._begins_by:
                    return self._refresh
                # A signal handler has raised between the lines below that register a refresh and start its thread.
                why = f"the thread that refreshes {self._config.whose} has not started within {MAX_START:g} s"
                self._refresh.set_exception(RpcError(f"{why}; the next poll tries again", code=Code.UNAVAILABLE))
            refresh: Future[Headers] = Future()
            headers = self.headers()
            if headers is not None:  # refreshed between the caller's look and now
                refresh.set_result(headers)
                return refresh
            refresh.set_running_or_notify_cancel()  # a caller that is cancelled leaves the others their refresh
            self._refresh, self._has_begun, self._begins_by = refresh, False, time.monotonic() + MAX_START
            try:
                # A daemon: neither the end of an event loop nor that of the process waits for it.
                threading.Thread(target=self._run_refresh, args=(refresh,), name="lro-token", daemon=True).start()
            except RuntimeError as error:
                self._refresh = None
                raise RpcError(
                    f"the token cannot be refreshed: {error}; the next poll tries again", code=Code.UNAVAILABLE
                ) from error
        return refresh

    def _run_refresh(self, refresh: Future[Headers]) -> None:
        with self._lock:
            if self._refresh is not refresh:  # it began so late that another one was begun instead
                return
            self._has_begun = True
        failed: BaseException | None = None
        headers: Headers | None = None
        try:
            headers = self._fetch()
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is every waiting caller's)
            headers, failed = self._keep_on_failure(error), error
        with self._lock:
            self._refresh, self._failed = None, None if headers is not None else refresh
            self._failed_until = time.monotonic() + PAUSE_WITHOUT_TOKEN
        if headers is not None:
            refresh.set_result(headers)
        else:
            refresh.set_exception(failed)

    def _keep_on_failure(self, error: BaseException) -> Headers | None:
        """Return the token that is still valid, where a refresh ahead of expiry has failed; None without one."""
        now = time.monotonic()
        if self._headers is None or now >= self._expires_at:
            return None
        log.warning("%s; the present token is valid for %.0f s more", error, self._expires_at - now)
        self._refresh_at = now + min(PAUSE_AFTER_FAILURE, (self._expires_at - now) / 2)
        return self._headers

    def _fetch(self) -> Headers:
        first = self._credentials is None
        if self._credentials is None:
            try:
                self._credentials = self._config.load()
            except CredentialsError as error:
                error.not_loaded = True
                raise
        request, whose = _request(), self._config.whose
        try:
            if not (first and self._credentials.valid):
                self._credentials.refresh(request)
            headers, lifetime = self._config.applied(self._credentials), _lifetime(self._credentials)
        except Exception as error:  # noqa: BLE001  (google-auth takes most answers for what they should be)
            raise _refresh_error(error, request, whose=whose) from None
        for name, value in headers:
            if not (is_header_value(value) and len(value) <= MAX_HEADER and value.strip() != "Bearer"):
                raise _no_token(f"no call can carry what it gave for {name!r}", whose=whose)
        if lifetime <= 0:
            raise _no_token("the one that it gave has expired; check the clock of this machine", whose=whose)
        self._expires_at = time.monotonic() + lifetime
        self._headers, self._refresh_at = headers, self._expires_at - min(MAX_MARGIN, SHARE_OF_LIFE * lifetime)
        return headers


def _lifetime(credentials: Credentials) -> float:
    """Return the seconds for which a token holds; infinite where nobody has said."""
    if credentials.expiry is None:
        return math.inf
    seconds: float = (credentials.expiry - datetime.now(tz=UTC).replace(tzinfo=None)).total_seconds()
    return seconds


def _request() -> Any:
    """Return google-auth's transport, which remembers the status of its last answer, and the secrets that it has sent.

    It reads no more than ``MAX_ANSWER`` of an answer, and sends no secret where a redirect says.
    """
    import requests
    from google.auth.transport.requests import Request

    class Session(requests.Session):
        secrets: tuple[str, ...] = ()

        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            self.secrets += tuple(_secrets_in(request))
            follows = kwargs.get("allow_redirects", False) and request.method == "GET"
            response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": follows})
            content = b""
            for piece in response.iter_content(_PIECE):
                content += piece
                if len(content) > MAX_ANSWER:
                    response.close()
                    raise requests.exceptions.ContentDecodingError(f"its answer is larger than {MAX_ANSWER} bytes")
            response._content = content  # noqa: SLF001  (where requests itself keeps it)
            return response

    class Remembering(Request):
        status: int | None = None

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.status = None
            response: Any = super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.status = response.status
            return response

    return Remembering(Session())


def _secrets_in(request: Any) -> Iterator[str]:
    """Yield the secrets in a request to a token endpoint, which may quote them."""
    body = request.body.decode(errors="replace") if isinstance(request.body, bytes) else str(request.body or "")
    yield from secret_texts((name.lower(), value) for name, value in request.headers.items())
    for name, value in parse_qsl(body):
        if not name.endswith("_type"):
            yield from secret_texts(((name, value), (name, quote_plus(value))))


def _refresh_error(error: Exception, request: Any, *, whose: str) -> LroError:
    """Return our error: a token endpoint that is down, or answers nonsense, is not one that refuses.

    google-auth marks only some as worth another try. Of its errors the text is the first argument, as those behind it
    are whole answers; the text of an error about a value may quote a token.
    """
    is_known, status = isinstance(error, google_errors.GoogleAuthError), request.status
    is_of_value = status is not None and isinstance(error, ValueError | TypeError)
    given = str(error.args[0]) if is_known and not is_of_value and error.args else f"({type(error).__name__})"
    said = storable(hide(given, request.session.secrets), what="a token endpoint's text")
    shown = one_line(said, MAX_SAID)
    transport = any(isinstance(each, google_errors.TransportError) for each in (error, error.__cause__))
    refused = status in REFUSING_STATUS or (status is None and is_known and not transport)
    if refused and not getattr(error, "retryable", False):
        advice = "check that the key or the account still exists, and may be used from here"
        return CredentialsError(f"{whose} were refused by the token endpoint: {shown}; {advice}", message=said)
    if status is None and not transport:
        return _no_token(shown, whose=whose)
    if status is not None and status < 300:  # noqa: PLR2004
        return _no_token(f"it answered {status} {shown}", whose=whose)
    if status is None or status >= 500 or status in PASSING_STATUS or refused:  # noqa: PLR2004
        why = f"the token endpoint cannot be reached, to refresh {whose}: {shown}"
        return RpcError(why, code=Code.UNAVAILABLE, message=said)
    why = f"the token endpoint answered {status}, as if it were none, to refresh {whose}: {shown}"
    return EndpointError(f"{why}; check its address", code=Code.UNAVAILABLE, message=said)


def _no_token(why: str, *, whose: str) -> RpcError:
    """Return the error of an answer that holds no token that can be used: as good as none, so it is asked for again."""
    return RpcError(f"the token endpoint gave no usable token, to refresh {whose}: {why}", code=Code.UNAVAILABLE)
