"""The names that a shell completes: what the service lists under what has been typed. Floor 3."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["complete"]

PATIENCE = 3.0
"""Seconds for everything: the connection, its token, the listing."""
MOST = 500
"""Names to offer."""


def complete(prefix: str, args: argparse.Namespace) -> list[str]:
    """Return names that begin with what has been typed, as far as they come in time; none where something fails."""
    parent, found_it, _ = prefix.rpartition("/operations/")
    if not found_it:
        return []
    found: list[str] = []
    # In a thread that may be left behind: a token or a database can take longer than anybody holds a key for.
    thread = threading.Thread(target=_find, args=(parent, prefix, args, found), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(found)


def _find(parent: str, prefix: str, args: argparse.Namespace, found: list[str]) -> None:
    end = time.monotonic() + PATIENCE
    try:
        from airflow_provider_lro._cli_commands import CommandHook

        with CommandHook(args) as hook:
            client = hook.get_conn(prefix)
            client.rpc_timeout = PATIENCE
            for operation in client.list_operations(parent):
                if operation.name.startswith(prefix):
                    found.append(operation.name)
                if len(found) >= MOST or time.monotonic() > end:
                    return
    except Exception:  # noqa: BLE001  (whatever it is, a line that is being typed is no place to say it)
        return
