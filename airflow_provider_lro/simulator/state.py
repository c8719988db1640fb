"""The store of the server: facts per operation and request ids, kept in an append-only file of JSON lines.

Everything is an event, and one function applies events, live and at start, so a restarted server cannot disagree with
itself. No clock and no grpc: callers pass the time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_lro.simulator.behaviour import Facts

if TYPE_CHECKING:
    from pathlib import Path


class StateError(Exception):
    """A state file that this program did not write; names the line."""


class Store:
    """The facts, in memory and, when there is a path, in a file.

    Args:
        path: The file, created when missing; None keeps the state in memory only.

    Raises:
        StateError: The file holds something else than this program's events.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.facts: dict[str, Facts] = {}
        self.requests: dict[str, str] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            # Unbuffered: each event is one write(2), which outlives a SIGKILL of this process.
            self._file = path.open("a+b", buffering=0)
            try:
                self._replay(self._file, path)
            except BaseException:
                self.close()
                raise

    def see(self, name: str, now: float) -> Facts:
        """Give the facts of an operation, recording the first sight of it."""
        facts = self.facts.get(name)
        if facts is None:
            self._record({"event": "seen", "name": name, "time": now})
            facts = self.facts[name]
        return facts

    def start(self, name: str, now: float, request_id: str | None) -> None:
        """Record an operation that the start RPC made."""
        # One event and not two: killed in between, a retry with the same request id would start the work twice.
        self._record({"event": "start", "name": name, "time": now, "request_id": request_id})

    def count_get(self, name: str) -> None:
        """Count one Get of an operation whose answer depends on how many came before."""
        self._record({"event": "get", "name": name})

    def cancel(self, name: str, now: float) -> None:
        """Record a cancel."""
        self._record({"event": "cancel", "name": name, "time": now})

    def delete(self, name: str) -> None:
        """Record a deletion."""
        self._record({"event": "delete", "name": name})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _record(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(event).encode() + b"\n")
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        name = event["name"]
        match event["event"]:
            case "seen":
                self.facts[name] = Facts(first_seen=event["time"])
            case "start":
                self.facts.setdefault(name, Facts(first_seen=event["time"]))
                if event["request_id"] is not None:
                    self.requests[event["request_id"]] = name
            case "get":
                self.facts[name] = replace(self.facts[name], gets=self.facts[name].gets + 1)
            case "cancel":
                self.facts[name] = replace(self.facts[name], cancelled_at=event["time"])
            case "delete":
                self.facts[name] = replace(self.facts[name], deleted=True)
            case kind:
                raise KeyError(kind)

    def _replay(self, file: IO[bytes], path: Path) -> None:
        file.seek(0)
        whole, newline, tail = file.read().rpartition(b"\n")
        if tail:
            # A last line without its end was cut off by a kill: nobody was answered on the strength of it.
            file.truncate(len(whole) + len(newline))
        for number, line in enumerate(whole.split(b"\n") if newline else (), start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise StateError(f"{path}:{number} is not a line of a simulator's state: {line[:80]!r}") from error
