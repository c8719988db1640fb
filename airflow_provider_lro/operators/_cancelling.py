"""How an operation is asked to cancel, blocking: what operators and commands make of one that is done already.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_lro._core.outcome import Running
from airflow_provider_lro.exceptions import Code, RpcError

if TYPE_CHECKING:
    from airflow_provider_lro._core.outcome import Cancelled, Failed, Succeeded
    from airflow_provider_lro._transport.client import OperationsClient

__all__ = ["ask_to_cancel"]


def ask_to_cancel(
    client: OperationsClient, name: str, *, rpc_timeout: float | None = None
) -> Running | Succeeded | Failed | Cancelled:
    """Ask to cancel an operation, unless it is done.

    Returns:
        Running if it was asked; else what it came to before.

    Raises:
        LroError: a call failed; it may have been asked.
    """
    from airflow_provider_lro._messages.encoding import read

    found = read(client.get_operation(name, rpc_timeout=rpc_timeout))
    if not isinstance(found, Running):
        return found
    try:
        client.cancel_operation(name, rpc_timeout=rpc_timeout)
    except RpcError as error:
        if error.code != Code.FAILED_PRECONDITION:
            raise
        # Some services refuse to cancel what is done: has it finished since we looked?
        since = read(client.get_operation(name, rpc_timeout=rpc_timeout))
        if isinstance(since, Running):
            raise
        return since
    return found
