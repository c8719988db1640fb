"""The numbers that waits count, and their way to a backend for metrics."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._runner.telemetry import endpoint_tag
from airflow_provider_lro._transport.limiter import EndpointStats
from airflow_provider_lro.exceptions import Code, CredentialsError, RpcError

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def not_sent() -> RpcError:
    """Return the error of a poll that was kept back."""
    error = RpcError("rate limited, not sent", code=Code.UNAVAILABLE)
    error.not_sent = True
    return error


def test_numbers_are_sent_once() -> None:
    """Each number with its tags, of delays how many and how long; afterwards there is nothing to send."""
    stats = EndpointStats()
    stats.waits = 3
    stats.gets, stats.long_polls, stats.lists, stats.slow_downs = 5, 2, 1, 1
    for error in (
        RpcError("", code=14),
        RpcError("", code=14),
        RpcError("", code=99),
        CredentialsError(""),
        not_sent(),
    ):
        stats.failed(error)
    stats.delayed("quota", 0.5)
    stats.delayed("quota", 0.25)
    stats.delayed("slow_down", 0.0)  # its turn came at once
    stats.ended["succeeded"] = 4
    assert list(stats.drain()) == [
        ("lro.polls", 5, {"method": "get"}),
        ("lro.polls", 2, {"method": "wait"}),
        ("lro.polls", 1, {"method": "list"}),
        ("lro.slow_downs", 1, {}),
        ("lro.waits_ended", 4, {"outcome": "succeeded"}),
        ("lro.poll_errors", 2, {"code": "UNAVAILABLE"}),
        ("lro.poll_errors", 1, {"code": "OTHER"}),
        ("lro.poll_errors", 1, {"code": "CredentialsError"}),
        ("lro.polls_delayed", 2, {"reason": "quota"}),
        ("lro.poll_delay_ms", 750, {"reason": "quota"}),
    ]
    assert list(stats.drain()) == []
    assert stats.waits == 3


@given(target=st.text())
def test_endpoints_break_no_line_of_statsd(target: str) -> None:
    """None of the signs by which StatsD and its dialects tell name, tags, value and type apart is left."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", endpoint_tag(target))


def test_endpoint_is_recognisable() -> None:
    """The host stays; the usual port is left out."""
    assert endpoint_tag("us-central1-aiplatform.googleapis.com:443") == "us-central1-aiplatform.googleapis.com"
    assert endpoint_tag("127.0.0.1:50051") == "127.0.0.1_50051"


def test_names_are_safe_for_every_backend() -> None:
    """StatsD's signs, and OpenTelemetry's 63 characters with any usual prefix; each name is there once."""
    names = re.findall(r"^\| `(lro\.[^`]*)` \| (?:counter|timer|gauge) \|", PAGE.read_text(), re.MULTILINE)
    assert {"lro.polls", "lro.wait_duration", "lro.waits"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"lro\.[a-z_]{1,30}", name) for name in names)
