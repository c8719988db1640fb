"""The places in the package that make an error with a text, and which of them some calls come through.

A place is a call of a class of errors, found in the source; a call that comes through it is seen by its very
instruction, so that of two on one line the right one counts. `sys.monitoring` would do that with less, from Python 3.12
on.
"""

from __future__ import annotations

import ast
import builtins
import dis
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow_provider_lro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

PACKAGE = Path(airflow_provider_lro.__file__).parent
MAKERS = ("kind", "as_type")
"""Calls that make an error of a class that only runs will tell."""
ENDINGS = ("Error", "Exception", "Timeout", "NotFound", "Failed", "MalformedOperation", "UsageError")
"""How the name of a class ends that is taken for one of errors where it cannot be looked up."""


@dataclass(frozen=True, slots=True)
class Place:
    """One call that makes an error: where it is, where it ends (line and column), and its source on one line."""

    file: str
    line: int
    end: tuple[int | None, int | None]
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source}"


def places() -> Iterator[Place]:
    """Yield all places, but for the simulator's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE)
        if file.parts[0] == "simulator" or file.name == "__main__.py":
            continue
        source = path.read_text()
        tree = ast.parse(source)
        known = _names_in(file, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (node.args or node.keywords) and _makes_error(node, known):
                text = " ".join((ast.get_source_segment(source, node) or "").split())
                yield Place(str(file), node.lineno, (node.end_lineno, node.end_col_offset), text)


def _names_in(file: Path, tree: ast.Module) -> dict[str, Any]:
    """Return the names that a module's code may use, those that its functions import among them."""
    parts = ("airflow_provider_lro", *file.with_suffix("").parts)
    found = {**vars(builtins), **vars(import_module(".".join(part for part in parts if part != "__init__")))}
    inner = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Airflow's own deprecations
        for node in inner:
            try:
                module = import_module(node.module or "")
            except ImportError:
                continue
            for each in node.names:
                found.setdefault(each.asname or each.name, getattr(module, each.name, None))
    return found


def _makes_error(call: ast.Call, known: dict[str, Any]) -> bool:
    """Return True for the call of a class of errors, or of what makes one; an outcome called Failed is not one."""
    function = call.func
    name = getattr(function, "id", None) or getattr(function, "attr", "")
    if name in MAKERS:
        return name == "as_type" or bool(call.args)
    if isinstance(function, ast.Attribute):
        owner = known.get(getattr(function.value, "id", ""))
        kind = getattr(owner, name, None)
    else:
        kind = known.get(name)
    if kind is None:
        return name.endswith(ENDINGS)
    return isinstance(kind, type) and issubclass(kind, BaseException)


@contextmanager
def traced(which: list[Place]) -> Iterator[set[Place]]:
    """Give the set of those places that calls come through in this `with` block, in whatever thread."""
    by_end = {(str(PACKAGE / place.file), *place.end): place for place in which}
    files = {file for file, *_ in by_end}
    met: set[Place] = set()
    known: dict[CodeType, dict[int, Place]] = {}

    def places_in(code: CodeType) -> dict[int, Place]:
        if code.co_filename not in files:
            return {}
        found = {}
        for number, (_, end_line, _, end_column) in enumerate(code.co_positions()):
            place = by_end.get((code.co_filename, end_line, end_column))
            if place is not None and dis.opname[code.co_code[2 * number]].startswith("CALL"):
                found[2 * number] = place
        return found

    def enter(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in known:
            known[code] = places_in(code)
        if not known[code]:
            return None
        frame.f_trace_opcodes = True
        return step

    def step(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        if event == "opcode" and (place := known[frame.f_code].get(frame.f_lasti)):
            met.add(place)
        return step

    before, before_in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(enter)
    threading.settrace(enter)
    try:
        yield met
    finally:
        sys.settrace(before)
        threading.settrace(before_in_threads)  # type: ignore[arg-type]
