"""What a command prints: operations as rows for people, as documents for programs. Floor 3."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.text import one_line
from airflow_provider_lro._messages.encoding import failure, operation_to_json, read, response, response_to_json
from airflow_provider_lro._messages.progress import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.longrunning import operations_proto_pb2 as pb

__all__ = ["STATES", "document", "named", "row", "say", "show"]

STATES: dict[type[Any], str] = {
    outcomes.Running: "running",
    outcomes.Succeeded: "succeeded",
    outcomes.Failed: "failed",
    outcomes.Cancelled: "cancelled",
}
LONGEST_DETAIL = 200
LONGEST_LINE = 2000
"""Characters of one line on stderr."""


def say(text: str) -> None:
    """Print one line on stderr; what a service sent cannot move the terminal's cursor in it."""
    if sys.stderr is not None:
        sys.stderr.write(f"{one_line(text, LONGEST_LINE)}\n")
        sys.stderr.flush()


def named(operation: pb.Operation, name: str) -> pb.Operation:
    """Return an operation under the name it was asked for by, if the service left it out of its answer."""
    if not operation.name:
        operation.name = name
    return operation


def document(operation: pb.Operation) -> dict[str, Any]:
    """Return an operation as JSON, as ``GetOperationOperator`` gives it."""
    return operation_to_json(operation)


def row(operation: pb.Operation, *, listed: bool = False) -> dict[str, str]:
    """Return an operation as a row: its name, its state, and the most telling detail.

    ``listed``: some services list less of an operation than they give of it singly, so that one may only be "done".
    """
    found = read(operation)
    if listed and operation.done and operation.WhichOneof("result") is None:
        return {"name": operation.name, "state": "done", "detail": ""}
    if isinstance(found, outcomes.Running):
        detail = describe(operation) or ""
    elif isinstance(found, outcomes.Succeeded):
        detail = json.dumps(response_to_json(response(operation))) if operation.HasField("response") else ""
    else:
        error = failure(operation)
        detail = ": ".join(filter(None, (str(getattr(error.code, "name", error.code)), error.message)))
    return {"name": operation.name, "state": STATES[type(found)], "detail": one_line(detail, LONGEST_DETAIL)}


def show(documents: Any, rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print documents (json, yaml) or rows (table, plain) on stdout, in one piece, as Airflow's own commands do.

    Unlike these, values keep their types in JSON and YAML: ``true`` stays what it is and does not become ``"True"``.
    """
    from airflow.utils import yaml

    if output == "json":
        text = _coloured(json.dumps(documents), "json")
    elif output == "yaml":
        text = _coloured(str(yaml.dump(documents)), "yaml")
    elif not rows:
        text = "No data found\n"
    else:
        cells = [{key: one_line(str(value), LONGEST_LINE) for key, value in each.items()} for each in rows]
        text = _table(cells) if output == "table" else _plain(cells)
    if sys.stdout is None:  # closed by the caller: nobody reads it
        return
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a service says may not be in the terminal's alphabet
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def _coloured(text: str, language: str) -> str:
    """Colour a text as Airflow does, in a terminal; elsewhere not a character of it is touched."""
    if not sys.stdout.isatty():
        return text
    from airflow.cli.simple_table import AirflowConsole
    from rich.syntax import Syntax

    console = AirflowConsole()
    with console.capture() as captured:
        console.print(Syntax(text, language, theme="ansi_dark"), soft_wrap=True)
    return captured.get()


def _table(rows: list[dict[str, str]]) -> str:
    from airflow.cli.simple_table import AirflowConsole

    # What a service says is text: neither markup nor :emoji:.
    console = AirflowConsole(markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print_as_table(rows)
    return captured.get()


def _plain(rows: list[dict[str, str]]) -> str:
    from tabulate import tabulate

    # Airflow's own would make 100000 of a name like 1e5.
    return str(
        tabulate([list(each.values()) for each in rows], tablefmt="plain", headers=list(rows[0]), disable_numparse=True)
    )
