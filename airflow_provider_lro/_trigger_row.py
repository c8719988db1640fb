"""What Airflow stores of a trigger. Floor 1."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["row_of"]


def row_of(trigger: DataclassInstance) -> tuple[str, dict[str, Any]]:
    """Return the class path and the arguments; what equals its default is left out, so that older code reads it."""
    kind = type(trigger)
    values = {field.name: getattr(trigger, field.name) for field in fields(trigger)}
    defaults = {field.name: field.default for field in fields(trigger) if field.default is not MISSING}
    kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    return f"{kind.__module__}.{kind.__qualname__}", kept
