"""Airflow's plugin: lets an asset event of ours and the note of what it has named be stored in one transaction.

It listens in the triggerer's supervisor alone, the process that stores the events of watchers. Every process of Airflow
imports this module, so it imports next to nothing. Beside the floors: imports ``_watermark``.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_lro.assets._seen import digest_of, last_key, pack

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["LongRunningOperationPlugin"]

log = logging.getLogger(__name__)


def note_last_event(session: Session, event: Any) -> None:
    """Store what an asset event names, in the transaction that stores the event.

    Args:
        session: of the thread that stores the event.
        event: ``airflow.listeners.types.AssetEvent``.
    """
    payload = event.extra.get("payload") if event.extra.get("from_trigger") is True else None
    if not isinstance(payload, dict) or not isinstance(payload.get("watch"), str) or "operations" not in payload:
        return
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.state import AssetScope, get_state_backend
    from sqlalchemy import select

    # Elsewhere the event may be in another session than the thread's; then nobody would commit what we write.
    if not any(isinstance(each, AssetEvent) and each.extra == event.extra for each in session):
        log.warning("an asset event of a watcher is stored in a session that is not its thread's; it leaves no trace")
        return
    asked = select(AssetModel.id).where(AssetModel.name == event.asset.name, AssetModel.uri == event.asset.uri)
    named = pack({digest_of(operation["name"]) for operation in payload["operations"]})
    with session.begin_nested():  # whatever fails here must not take the event with it
        scope = AssetScope(asset_id=session.scalars(asked).one())
        get_state_backend().set(scope, last_key(payload["watch"]), json.dumps(named), session=session)


def _listeners() -> list[object]:
    # Elsewhere a listener would be idle, and in the DAG processor forbid end_from_trigger=True to every DAG.
    if sys.argv[1:2] != ["triggerer"]:
        return []
    try:
        import airflow.state  # noqa: F401  (since Airflow 3.3)
        from airflow.listeners import hookimpl
    except ImportError:
        return []

    class Listener:
        @hookimpl
        def on_asset_event_emitted(self, asset_event: Any) -> None:
            from airflow import settings

            if settings.Session is not None:
                note_last_event(settings.Session(), asset_event)

    return [Listener()]


class LongRunningOperationPlugin(AirflowPlugin):
    """Registered under the entry point ``airflow.plugins``."""

    name = "airflow_provider_lro"
    listeners = _listeners()
