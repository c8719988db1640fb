"""What arguments are checked with, wherever they come from. Floor 0: imports floor 0."""

from __future__ import annotations

import math

from airflow_provider_lro._core.schedule import MAXIMUM_INTERVAL
from airflow_provider_lro._core.text import is_text

__all__ = ["check_name", "is_number", "is_whole"]


def is_number(value: object, *, least: float = -MAXIMUM_INTERVAL, most: float = MAXIMUM_INTERVAL) -> bool:
    """Tell whether a value is a number in a range; NaN, True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def is_whole(value: object, *, least: int = 0, most: float = math.inf) -> bool:
    """Tell whether a value is a whole number in a range; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_name(
    name: object, *, what: str = "the operation's name", example: str = "projects/p/locations/l/operations/o"
) -> str:
    """Return a resource's name; raises ValueError for what can be none."""
    if not is_text(name) or not name.strip():
        raise ValueError(f"{what} must be a non-empty text, in UTF-8, such as {example!r}, not {name!r}")
    return name
