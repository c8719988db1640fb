"""The names that a shell completes: what the service lists under what has been typed. Floor 3."""

from __future__ import annotations

import argparse
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_lro.cli.commands import CommandHook

__all__ = ["complete"]

PATIENCE = 3.0
"""Seconds for everything: the connection, its token, the listing."""
MOST = 500
"""Names to offer."""


def complete(prefix: str, args: argparse.Namespace) -> list[str]:
    """Return names that begin with what has been typed, as far as they come in time; none where something fails."""
    if "/operations/" not in prefix:
        return []
    # Loading Airflow takes seconds itself, which are none of the service's.
    from airflow.utils.cli import suppress_logs_and_warning

    from airflow_provider_lro.cli.commands import CommandHook

    found: list[str] = []
    # In a thread that may be left behind: a token or a database can take longer than anybody holds a key for.
    thread = threading.Thread(target=_find, args=(CommandHook, args, prefix, found), daemon=True)

    def look(_: argparse.Namespace) -> None:
        thread.start()
        thread.join(PATIENCE)

    suppress_logs_and_warning(look)(argparse.Namespace(verbose=False))
    return list(found)


def _find(hook_type: type[CommandHook], args: argparse.Namespace, prefix: str, found: list[str]) -> None:
    end = time.monotonic() + PATIENCE
    try:
        with hook_type(args) as hook:
            client = hook.get_conn(prefix)
            client.rpc_timeout = PATIENCE
            for operation in client.list_operations(prefix.rpartition("/operations/")[0]):
                if operation.name.startswith(prefix) and operation.name.isprintable():
                    found.append(operation.name)
                if len(found) >= MOST or time.monotonic() > end:
                    return
    except Exception:  # noqa: BLE001  (whatever it is, a line that is being typed is no place to say it)
        return
