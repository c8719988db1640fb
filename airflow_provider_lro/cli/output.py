"""The output of the commands: rows for people, documents for programs, and the progress of a wait."""

from __future__ import annotations

import io
import json
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import one_line
from airflow_provider_lro._core.wait import Cancel, outcome_of
from airflow_provider_lro._messages.encoding import response_to_json
from airflow_provider_lro._messages.metadata import describe
from airflow_provider_lro._messages.results import failure, response
from airflow_provider_lro.exceptions import LroError, OperationNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._core.wait import Command

__all__ = ["Display", "print_line", "print_result", "row"]

MAX_DETAIL_LENGTH = 200
MAX_OUTPUT_LINE = 2000
"""Characters of one line on stderr, and of one cell."""


# ── operations ──


def row(state: OperationState, *, listed: bool = False) -> dict[str, str]:
    """Return an operation as a row: its name, its state, and its progress, response or error.

    ``listed``: it is from a listing, where some services leave out the result; then its state may only be "done".
    """
    if not state.done:
        detail = describe(state) or ""
    elif state.code is not None:
        error = failure(state)
        detail = ": ".join(filter(None, (str(getattr(error.code, "name", error.code)), error.message)))
    else:
        detail = "" if state.response is None else json.dumps(response_to_json(response(state)))
    word = "done" if listed and state.done and not state.has_result else word_of_state(state)
    return {"name": state.name, "state": word, "detail": one_line(detail, MAX_DETAIL_LENGTH)}


def word_of_state(state: OperationState) -> str:
    """Return the word for an operation as it is now."""
    return outcome_of(state).word if state.done else "running"


# ── stdout and stderr ──


def print_line(text: str) -> None:
    """Print one line on stderr, without characters that could move the terminal's cursor."""
    if sys.stderr is not None:
        sys.stderr.write(f"{one_line(text, MAX_OUTPUT_LINE)}\n")
        sys.stderr.flush()


def print_result(documents: Any, rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print documents (json, yaml) or rows (table, plain) on stdout, at once.

    Unlike Airflow's own commands, JSON and YAML keep the types of values: ``true`` does not become ``"True"``.
    """
    from airflow.utils import yaml

    if output == "json":
        text = json.dumps(documents)
    elif output == "yaml":
        text = str(yaml.dump(documents))
    elif not rows:
        text = "No data found"
    else:
        cells = [{key: one_line(str(value), MAX_OUTPUT_LINE) for key, value in each.items()} for each in rows]
        text = _table(cells) if output == "table" else _plain(cells)
    if sys.stdout is None:  # closed by the caller
        return
    if isinstance(sys.stdout, io.TextIOWrapper):  # the terminal's encoding may lack characters of the text
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def _table(rows: list[dict[str, str]]) -> str:
    from airflow.cli.simple_table import AirflowConsole

    # The service's text is neither markup nor :emoji:.
    console = AirflowConsole(markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print_as_table(rows)
    return captured.get()


def _plain(rows: list[dict[str, str]]) -> str:
    from tabulate import tabulate

    # Airflow's own call would turn a name like 1e5 into 100000.
    cells = [list(each.values()) for each in rows]
    return str(tabulate(cells, tablefmt="plain", headers=list(rows[0]), disable_numparse=True))


# ── the progress of a wait ──


class Display:
    """The progress of a wait on stderr, a line for each change. It observes the wait's driver."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()
        self._polls = 0
        self._status = ""

    @property
    def summary(self) -> str:
        """The time that has passed, and the number of polls."""
        elapsed = timedelta(seconds=int(time.monotonic() - self._started))
        return f"{elapsed} elapsed, {self._polls} poll{'' if self._polls == 1 else 's'}"

    def record(self, command: Command, value: Any) -> None:
        """Show the result of a command of the wait, where it is another one than before."""
        status = self._status
        if isinstance(command, Cancel):
            status = "asked to cancel" if value is None else f"the cancel failed: {value}"
        elif isinstance(value, LroError):
            self._polls += 1
            status = "not found so far" if isinstance(value, OperationNotFound) else f"a poll failed: {value}"
        elif value is not None:
            self._polls += 1
            status = ": ".join(filter(None, (word_of_state(value), describe(value))))
        if status != self._status:
            self._status = status
            print_line(f"operation {self._name!r}: {status}")
