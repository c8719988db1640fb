"""What became of many operations: how many of each kind, and their names as far as an XCom should carry them.

Floor 0: the standard library alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Report"]

LISTED = 200
"""Operations of one kind that an XCom names; the numbers are of all."""
LONGEST_MESSAGE = 500
"""Characters of an error in it."""


class Report:
    """Counts and names, by kind; a kind that is only counted has no list.

    Args:
        counted: kinds of which the number is all that matters.
        named: kinds of which the names are kept.
    """

    def __init__(self, *, counted: Iterable[str] = (), named: Iterable[str] = ()) -> None:
        self._named: dict[str, list[Any]] = {kind: [] for kind in named}
        self.counts = dict.fromkeys((*counted, *self._named), 0)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """Return the report that ``as_json`` gave."""
        report = cls()
        report.counts.update(value["counts"])
        report._named.update({kind: list(value[kind]) for kind in report.counts if kind in value})
        return report

    def add(self, kind: str, name: str = "", error: Any = None) -> None:
        """Note one operation, and where it met an error its ``code`` and its ``message``."""
        self.counts[kind] += 1
        if kind in self._named:
            met = {} if error is None else {"code": error.code, "message": error.message[:LONGEST_MESSAGE]}
            self._named[kind].append({"name": name, **met} if met else name)

    def move(self, name: str, kind: str, to: str, error: Any = None) -> None:
        """Note that one of a kind, by name or one of those that ``as_json`` left out, turned out to be of another."""
        if name in self._named[kind]:
            self._named[kind].remove(name)
        self.counts[kind] -= 1
        self.add(to, name, error)

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind without errors."""
        return list(self._named[kind])

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Return name, code and message of each of a kind that met errors."""
        return list(self._named[kind])

    def as_json(self, *, whole: str = "") -> dict[str, Any]:
        """Return it for an XCom, with at most ``LISTED`` names a kind; all of them of the kind ``whole``."""
        lists = {kind: names if kind == whole else names[:LISTED] for kind, names in self._named.items()}
        return {"counts": dict(self.counts), **lists}

    def __str__(self) -> str:
        return ", ".join(f"{number} {kind}" for kind, number in self.counts.items() if number)
