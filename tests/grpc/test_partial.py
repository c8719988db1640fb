"""Failed parts of a success: found by the names that services use, and said in a line."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_lro._core.state import JsonPayload, OperationState
from airflow_provider_lro._messages.partial import in_a_line, partial_failures

NOT_FOUND = {"code": 5, "message": "no such row", "details": []}
OK = {"code": 0, "message": "", "details": []}


def failures(metadata: Any = None, response: Any = None) -> list[Any]:
    return partial_failures(
        OperationState(
            name="o",
            done=True,
            metadata=None if metadata is None else JsonPayload(json=metadata),
            response=None if response is None else JsonPayload(json=response),
        )
    )


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, []),
        ({"partial_failures": [NOT_FOUND]}, [NOT_FOUND]),
        ({"partialFailures": [NOT_FOUND]}, [NOT_FOUND]),
        ({"partial_failures": []}, []),
        ({"generic_metadata": {"partial_failures": [NOT_FOUND]}}, [NOT_FOUND]),
        ({"partial_failures": [OK, NOT_FOUND, NOT_FOUND]}, [NOT_FOUND]),
        ({"failed_versions": ["a", "b"]}, ["a", "b"]),
        ({"failed_requests": {"3": NOT_FOUND}}, [{"key": "3", **NOT_FOUND}]),
        ({"failed_count": 3, "failure_count": 2}, []),
        ({"error": NOT_FOUND}, []),
        ({"original_request": {"invalid_rows": ["x"]}, "request": {"errors": ["x"]}}, []),
        (
            {"individual_process_statuses": [{"input": "a", "status": OK}, {"input": "b", "status": NOT_FOUND}]},
            [{"input": "b", "status": NOT_FOUND}],
        ),
        ({"results": {"a": {"error": OK}, "b": {"error": NOT_FOUND}}}, [{"key": "b", "error": NOT_FOUND}]),
        ({"tasks": [{"status": "FAILED"}], "state": {"code": "x"}}, []),
        ({"a": {"b": {"c": {"d": {"errors": ["too deep"]}}}}}, []),
    ],
)
def test_failed_parts_in_metadata(metadata: Any, found: list[Any]) -> None:
    """Lists and maps of failures, and of statuses those that are not OK; each once."""
    assert failures(metadata) == found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ({"@type": "t/google.X.ImportResponse", "error_samples": [NOT_FOUND]}, [NOT_FOUND]),
        ({"error_samples": [NOT_FOUND]}, [NOT_FOUND]),
        ({"@type": "t/google.X.Stream", "errors": [NOT_FOUND]}, []),
        ({"@type": "t/google.X.ImportResponse", "stream": {"errors": [NOT_FOUND]}}, []),
        ([1], []),
    ],
)
def test_failed_parts_in_a_response(response: Any, found: list[Any]) -> None:
    """A resource's own errors are of another time."""
    assert failures(response=response) == found


def test_what_both_say_is_said_once() -> None:
    """Some services repeat it."""
    assert failures({"errors": ["a"]}, {"errors": ["a", "b"]}) == ["a", "b"]


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("gs://b/o", "gs://b/o"),
        (NOT_FOUND, "NOT_FOUND: no such row"),
        ({"key": "3", **NOT_FOUND}, 'NOT_FOUND: no such row {"key": "3"}'),
        ({"input": "b", "status": NOT_FOUND}, 'NOT_FOUND: no such row {"input": "b"}'),
        ({"service_id": "x", "error_message": "off"}, '{"service_id": "x", "error_message": "off"}'),
        ({"code": 77, "message": "a\nb"}, "77: a b"),
    ],
)
def test_a_part_in_a_line(entry: Any, line: str) -> None:
    """Its code and message first."""
    assert in_a_line(entry) == line
