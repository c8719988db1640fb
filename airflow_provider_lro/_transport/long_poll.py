"""Long polls: ``WaitOperation``, which the server holds until the operation is done. Floor ½."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.limiter import pace_of
from airflow_provider_lro._transport.rpc import WAIT_MARGIN, wait_call
from airflow_provider_lro.exceptions import LroError, UnimplementedError

if TYPE_CHECKING:
    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._transport.rpc import CallOptions

__all__ = ["Holder"]

log = logging.getLogger(__name__)

HELD = 80
"""Long polls on one channel; they come and go so rarely that more of them fit than of polls."""
_without_wait: set[str] = set()
"""Endpoints that have answered UNIMPLEMENTED."""


class Holder:
    """Makes the long polls of one wait, on channels of their own: there they starve nobody else's polls."""

    def __init__(self, client: AsyncOperationsClient, name: str) -> None:
        self._target = client.config.target
        self._counts = pace_of(self._target).counts
        self._name = name
        self._failed = False
        self._client: AsyncOperationsClient | None = None
        if self._target not in _without_wait:
            self._client = AsyncOperationsClient(client.config, most=HELD)

    async def send(self, seconds: float, options: CallOptions) -> pb.Operation | None:
        """Ask the server to hold the answer; None where that brings none, so that an ordinary poll must tell.

        Only that decides: some services have another permission for this method, and some proxies cut what lasts long.
        That there is no such method is remembered for all waits of the process.
        """
        if self._client is None or self._target in _without_wait:
            return None
        if self._failed:  # once; then it may try again
            self._failed = False
            return None
        held: CallOptions = {**options, "rpc_timeout": seconds + WAIT_MARGIN}
        self._counts.held += 1
        try:
            return await self._client.send(wait_call(self._name, seconds), held)  # type: ignore[no-any-return]
        except UnimplementedError:
            _without_wait.add(self._target)
            log.info("%s has no WaitOperation: it is polled by GetOperation from here on", self._target)
        except LroError as error:
            self._failed = True
            log.debug("operation %r: a long poll brought nothing: %s", self._name, error)
        return None

    async def close(self) -> None:
        """Give the channel back."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
