"""The channels of long polls: many waits, and no more connections than they need."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._transport import poller
from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro.triggers import LongRunningOperationTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.grpc.conftest import FakeServer

    Serve = Callable[..., FakeServer]

WAITS = 400
POLLS = 3
"""Of each wait, until its operation is done."""


class Service:
    """Answers polls, and counts the channels that are open meanwhile."""

    def __init__(self) -> None:
        self.polls: Counter[str] = Counter()
        self.channels: Counter[int] = Counter()
        self._lock = threading.Lock()

    def get(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        with self._lock:
            self.polls[request.name] += 1
            self.channels[open_channels()] += 1
            return pb.Operation(name=request.name, done=self.polls[request.name] >= POLLS)

    def refuse(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        raise AssertionError


@pytest.fixture(autouse=True)
def _connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_POLLER", json.dumps({"conn_type": "lro", "extra": {"insecure": True}}))


async def wait_for(endpoint: str, name: str, poll_method: str) -> str:
    """Wait for an operation in a triggerer."""
    trigger = LongRunningOperationTrigger(
        operation_name=name,
        lro_conn_id="poller",
        endpoint=endpoint,
        poll_method=poll_method,
        interval=0.2,
        initial_delay=0.2,
    )
    (event,) = [event async for event in trigger.run()]
    outcomes: str = event.payload["outcomes"]
    return outcomes


@pytest.mark.parametrize("poll_method", ["auto", "wait"])
async def test_waits_at_a_service_without_long_polls_share_one_channel(
    serve: Serve, poll_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the method is there is asked on the channel that is open; where it is not, no other is opened."""
    service = Service()
    monkeypatch.setattr(poller, "PROBE_TIME", 60.0)  # a machine under load may be slow to refuse
    fake = serve(GetOperation=service.get, WaitOperation=service.refuse)
    before = open_channels()
    names = [f"operations/{number}" for number in range(WAITS)]
    outcomes = await asyncio.gather(*(wait_for(fake.endpoint, name, poll_method) for name in names))
    assert outcomes == ["S"] * WAITS
    assert set(service.channels) == {before + 1}
    assert set(service.polls.values()) == {POLLS}
    probes = [sent for sent in fake.calls if sent.method == "WaitOperation"]
    assert len(probes) == 1
    assert open_channels() == before


async def test_long_polls_fill_channels_of_their_own(serve: Serve) -> None:
    """As many as one takes share it; the polls of others have theirs, and all are given back."""
    service = Service()
    fake = serve(GetOperation=service.get, WaitOperation=service.get)
    before = open_channels()
    names = [f"operations/{number}" for number in range(WAITS)]
    outcomes = await asyncio.gather(*(wait_for(fake.endpoint, name, "wait") for name in names))
    assert outcomes == ["S"] * WAITS
    assert before + 1 < max(service.channels) <= before + 1 + math.ceil(WAITS / poller.MAX_LONG_POLLS)
    assert open_channels() == before
