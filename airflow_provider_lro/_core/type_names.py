"""How a task says which types its messages are of: as text, which is all that crosses to a trigger.

Floor 0: imports ``_text``. What a text means is looked up by ``_types``.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_lro._core.text import is_text

__all__ = ["module_names", "type_name"]


def type_name(value: object, *, what: str) -> str | None:
    """Return the text for a message type: ``module:Class`` for a class.

    Args:
        value: None, a class, or a text: an import path, ``module:Class``, or the message's full name.
        what: the argument's name, for the error.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if value is None or (is_text(value) and value.strip()):
        return value if value is None else value.strip()
    raise ValueError(
        f"{what} must be a message class, or its import path ('google.cloud.dataplex_v1.types.Lake', 'module:Class') or"
        f" full name ('google.cloud.dataplex.v1.Lake'), not {value!r}"
    )


def module_names(value: object) -> tuple[str, ...]:
    """Return module paths from one, several with commas between, or a sequence.

    Raises:
        ValueError: it is none of these.
    """
    modules = value.split(",") if isinstance(value, str) else () if value is None else value
    if not isinstance(modules, Sequence) or not all(map(is_text, modules)):
        raise ValueError(
            f"type_modules must be module paths such as ['google.cloud.dataplex_v1'], or a text with commas between"
            f" them, not {value!r}"
        )
    return tuple(module.strip() for module in modules if module.strip())
