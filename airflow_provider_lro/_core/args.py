"""The arguments of a wait: ``WaitArgs``, with the one table that checks them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import (
    MAX_SECONDS,
    MIN_INTERVAL,
    Rule,
    between,
    check_rules,
    is_filled,
    is_flag,
    is_positive,
    is_text,
    is_whole,
    one_of,
    or_none,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from airflow_provider_lro._core.schedule import Schedule

MAX_EPOCH = 1e11
"""Epoch seconds, in the year 5138: no time beyond it makes sense."""


@dataclass(kw_only=True, eq=False, repr=False, slots=True)  # with the trigger's own, too many for a small dict
class WaitArgs:
    """The arguments of a wait that cross to its trigger: JSON scalars, stored in plain text, so never a secret.

    Times are epoch seconds, durations seconds. ``check()`` refuses wrong values; the constructor must not (a trigger
    whose constructor raises stops its whole triggerer).
    """

    operation_name: str
    lro_conn_id: str = "lro_default"
    endpoint: str | None = None
    interval: float = 60.0
    initial_delay: float = 1.0
    multiplier: float = 2.0
    jitter: float = 0.1
    rpc_timeout: float = 30.0
    not_found_grace: float = 60.0
    max_consecutive_errors: int | None = None
    connect_timeout: float | None = 600.0
    on_timeout: str = "fail"
    cancel_grace: float = 60.0
    started_at: float | None = None
    deadline: float | None = None
    impersonation_chain: str | None = None
    quota_project_id: str | None = None
    cancel_on_kill: bool = False
    consecutive_errors: int = 0
    reached: bool = True
    poll_method: str = "get"
    list_parent: str | None = None
    metadata_type: str | None = None
    type_modules: str | None = None
    headers: str | None = None

    def schedule(self) -> Schedule:
        """Return the schedule of the polls."""
        from airflow_provider_lro._core.schedule import Schedule

        return Schedule(
            interval=self.interval, initial=self.initial_delay, multiplier=self.multiplier, jitter=self.jitter
        )

    def check(self) -> None:
        """Raise ValueError for the first wrong value: what it is, and what it must be."""
        check_rules(self, RULES)


_PAUSE = f"a number of seconds from {MIN_INTERVAL:g} to {MAX_SECONDS:g}"
_MOMENT = (or_none(between(-MAX_SECONDS, MAX_EPOCH)), f"None or epoch seconds up to {MAX_EPOCH:g}")
_TEXT = (or_none(is_text), "None or a text in UTF-8")

RULES: tuple[Rule, ...] = (
    ("interval", between(MIN_INTERVAL), f"{_PAUSE} (a sensor calls it poke_interval)"),
    ("initial_delay", between(MIN_INTERVAL), _PAUSE),
    ("multiplier", between(1.0, 1000.0), "a number from 1 to 1000"),
    ("jitter", between(0.0, 1.0), "a number from 0 to 1"),
    ("rpc_timeout", is_positive, "a number of seconds above 0"),
    ("not_found_grace", between(0.0), "a number of seconds of at least 0"),
    ("max_consecutive_errors", or_none(is_whole), "None or a whole number of at least 0"),
    ("connect_timeout", or_none(is_positive), "None or a number of seconds above 0"),
    ("on_timeout", *one_of("fail", "cancel")),
    ("cancel_grace", between(0.0), "a number of seconds of at least 0"),
    ("started_at", *_MOMENT),
    ("deadline", *_MOMENT),
    ("cancel_on_kill", is_flag, "True or False"),
    ("consecutive_errors", is_whole, "a whole number of at least 0"),
    ("reached", is_flag, "True or False"),
    ("poll_method", *one_of("get", "wait", "auto", "list")),
    ("list_parent", or_none(is_filled), "None or a non-empty text in UTF-8"),
    ("metadata_type", *_TEXT),
    ("type_modules", *_TEXT),
)
"""Each argument with its check and, in words, what it must be; the connection's own are checked by the connection."""


def row_of(trigger: DataclassInstance) -> tuple[str, dict[str, Any]]:
    """Return the class path and the arguments that Airflow stores; what equals its default is left out."""
    kind = type(trigger)
    values = {field.name: getattr(trigger, field.name) for field in fields(trigger)}
    defaults = {field.name: field.default for field in fields(trigger) if field.default is not MISSING}
    kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    return f"{kind.__module__}.{kind.__qualname__}", kept
