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

from google.auth import exceptions as google_errors

from airflow_provider_lro._core.checks import MAX_SAID, one_line, storable
from airflow_provider_lro.exceptions import Code, CredentialsError, LroError, RpcError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from airflow_provider_lro._transport.credentials import CredentialsConfig, Headers

MAX_MARGIN = 225.0
"""Seconds before its expiry at which a token is refreshed; google-auth's own ``REFRESH_THRESHOLD``."""
SHARE_OF_LIFE = 0.25
"""… but not before the last quarter of a token's life."""
PAUSE_AFTER_FAILURE = 30.0
"""Seconds until a refresh is tried again that failed while its token was still valid."""
MAX_START = 5.0
"""Seconds after which a refresh counts as never begun, as its thread has not run."""
RETRYABLE_STATUS = frozenset({408, 429})

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
            RpcError: the token endpoint could not be reached or was overloaded; worth another try.
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
        """Return the refresh that is under way, begun now if there is none."""
        with self._lock:
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
            self._refresh = None
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
        request = _request()
        try:
            if not (first and self._credentials.valid):
                self._credentials.refresh(request)
        except google_errors.GoogleAuthError as error:
            raise _refresh_error(error, request.status, whose=self._config.whose) from None
        lifetime = math.inf
        if self._credentials.expiry is not None:
            lifetime = (self._credentials.expiry - datetime.now(tz=UTC).replace(tzinfo=None)).total_seconds()
        now = time.monotonic()
        headers = self._config.applied(self._credentials)
        self._expires_at = now + lifetime
        self._headers, self._refresh_at = headers, self._expires_at - min(MAX_MARGIN, SHARE_OF_LIFE * lifetime)
        return headers


def _request() -> Any:
    """Return google-auth's transport, which remembers the status of its last answer."""
    from google.auth.transport.requests import Request

    class Remembering(Request):
        status: int | None = None

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.status = None
            response: Any = super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.status = response.status
            return response

    return Remembering()


def _refresh_error(error: google_errors.GoogleAuthError, status: int | None, *, whose: str) -> LroError:
    """Return our error: a token endpoint that is down is not one that refuses; google-auth marks only some.

    The text is the error's first argument: those behind it are whole answers.
    """
    said = storable(str(error.args[0]) if error.args else type(error).__name__, what="a token endpoint's text")
    shown = one_line(said, MAX_SAID)
    transport = any(isinstance(each, google_errors.TransportError) for each in (error, error.__cause__))
    unreached = transport and status is None
    overloaded = status is not None and (status >= 500 or status in RETRYABLE_STATUS)  # noqa: PLR2004
    if unreached or overloaded or error.retryable:
        return RpcError(
            f"the token endpoint cannot be reached, to refresh {whose}: {shown}", code=Code.UNAVAILABLE, message=said
        )
    advice = "check that the key or the account still exists, and may be used from here"
    return CredentialsError(f"{whose} were refused by the token endpoint: {shown}; {advice}", message=said)
