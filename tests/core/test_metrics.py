"""The numbers that waits count, and what becomes of them when they are told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.counters import METRICS, Counts, Tally, endpoint_tag
from airflow_provider_lro.exceptions import Code, CredentialsError, RpcError


def unsent() -> RpcError:
    error = RpcError("no turn", code=Code.UNAVAILABLE)
    error.unsent = True
    return error


def test_counts_are_told_once() -> None:
    """Each number with its tags, of delays how many and how long; afterwards there is nothing to tell."""
    counts = Counts()
    counts.waits = 3
    counts.gets, counts.held, counts.lists, counts.slow_downs = 5, 2, 1, 1
    for error in (RpcError("", code=14), RpcError("", code=14), RpcError("", code=99), CredentialsError(""), unsent()):
        counts.failed(error)
    counts.delayed("quota", 0.5)
    counts.delayed("quota", 0.25)
    counts.delayed("slow_down", 0.0)  # its turn came at once
    counts.ended["succeeded"] = 4
    assert list(counts.take()) == [
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
    assert list(counts.take()) == []
    assert counts.waits == 3


def test_lag_is_bounded_by_the_poll_before() -> None:
    """One poll bounds nothing; a look at a listing bounds as a poll does; an answer that was held bounds nothing."""
    tally = Tally()
    assert tally.bound(0.0) is None
    tally.asks(10.0)
    assert tally.bound(10.5) is None
    tally.asks(20.0)
    assert tally.bound(20.5) == pytest.approx(10.5)
    tally.sees(30.0)
    tally.asks(31.0)
    assert tally.bound(31.0) == pytest.approx(1.0)
    tally.was_held()
    assert tally.bound(40.0) is None
    assert tally.polls == 3


def test_poll_that_fails_bounds_nothing() -> None:
    """It has not found the operation running: the last that has is what bounds, or nothing does."""
    tally = Tally()
    tally.asks(10.0)
    tally.fails(RpcError("", code=14))
    tally.asks(20.0)
    assert tally.bound(20.0) is None
    for now in (30.0, 40.0):
        tally.asks(now)
        tally.fails(RpcError("", code=14))
    tally.asks(50.0)
    assert tally.bound(50.5) == pytest.approx(30.5)


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
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"lro\.[a-z_]{1,30}", name) for name in names)
