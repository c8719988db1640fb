"""The event of a trigger: every outcome survives the trip, in 64 KiB of JSON, and never loses its result unnoticed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro import exceptions
from airflow_provider_lro._core.outcome import Broken, Cancelled, Failed, NotFound, Succeeded, TimedOut
from airflow_provider_lro._messages.events import LARGEST_EVENT, event_from_outcome, must_read_again, outcome_from_event
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    OperationNotFound,
    OperationsFailed,
    RpcError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from airflow_provider_lro._core.outcome import Outcome

NAME = "projects/p/locations/l/operations/o"


def sent(outcome: Outcome, name: str = NAME) -> dict[str, Any]:
    """Send an event through the database: it is JSON, and not too large."""
    event = event_from_outcome(outcome, name=name)
    text = json.dumps(event, allow_nan=False)
    assert len(text.encode()) <= LARGEST_EVENT
    arrived: dict[str, Any] = json.loads(text)
    assert arrived == event
    assert (arrived["name"], arrived["outcome"]) == (name, type(outcome).__name__)
    return arrived


def said(error: LroError | None) -> Any:
    """Give all that an error says."""
    return error and (type(error), str(error), vars(error))


def same(one: Outcome, two: Outcome) -> bool:
    """Compare outcomes; errors by what they say."""
    return type(one) is type(two) and all(
        said(ours) == said(theirs) if isinstance(ours, LroError) else ours == theirs
        for ours, theirs in ((getattr(one, key), getattr(two, key)) for key in type(one).__slots__)
    )


texts = st.text(max_size=40)
anys = st.builds(any_pb2.Any, type_url=texts, value=st.binary(max_size=60))
json_details = st.lists(st.dictionaries(texts, texts | st.integers() | st.none(), max_size=3), max_size=3)
statuses = st.builds(
    status_pb2.Status, code=st.integers(-(2**31), 2**31 - 1), message=texts, details=st.lists(anys, max_size=3)
)


@st.composite
def operations(draw: st.DrawFn, result: str) -> pb.Operation:
    """Make an operation with any metadata, and that result."""
    operation = pb.Operation(name=draw(texts), done=result != "running")
    if draw(st.booleans()):
        operation.metadata.CopyFrom(draw(anys))
    if result == "response" and draw(st.booleans()):
        operation.response.CopyFrom(draw(anys))
    if result == "error":
        operation.error.CopyFrom(draw(statuses))
    return operation


@st.composite
def errors(draw: st.DrawFn, *kinds: type[LroError]) -> LroError:
    """Make an error of one of these classes, with any fields."""
    kind = draw(st.sampled_from(kinds))
    error = kind(
        draw(texts),
        code=draw(st.none() | st.sampled_from([*Code, 77])),
        message=draw(st.none() | texts),
        details=draw(json_details),
    )
    if isinstance(error, RpcError):
        error.retry_after = draw(st.none() | st.floats(0, 300))
        error.permanent = draw(st.booleans())
        if error.retry_after is None:
            del error.retry_after
    return error


calls_fail = errors(RpcError, UnimplementedError, CredentialsError, EndpointError, OperationNotFound, LroError)
outcomes = st.one_of(
    st.builds(Succeeded, operation=operations("response")),
    st.builds(Failed, operation=operations("error")),
    st.builds(Cancelled, operation=operations("error")),
    st.builds(
        TimedOut,
        operation=st.none() | operations("running"),
        error=st.none() | calls_fail,
        cancel=st.sampled_from(["none", "took effect", "asked", "refused"]),
        cancel_error=st.none() | calls_fail,
    ),
    st.builds(NotFound, error=errors(OperationNotFound), operation=st.none() | operations("running")),
    st.builds(Broken, error=calls_fail, operation=st.none() | operations("running")),
)


@given(outcomes, texts)
def test_every_outcome_survives_the_trip(outcome: Outcome, name: str) -> None:
    """Payloads bit by bit, whatever their types; errors with class, text and fields."""
    event = sent(outcome, name)
    assert not must_read_again(event)
    assert same(outcome_from_event(event), outcome)


def test_codes_come_back_as_what_they_were() -> None:
    """A Code is one again, a number that is none stays an int."""
    for code, kind in ((14, Code), (77, int)):
        outcome = outcome_from_event(sent(Broken(error=RpcError("x", code=code))))
        assert isinstance(outcome, Broken)
        assert type(outcome.error.code) is kind


def test_every_error_of_ours_can_travel() -> None:
    """An event names the class, and the worker has it."""
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if kind not in (Code, OperationsFailed):  # that one is raised on the worker alone
            arrived = outcome_from_event(sent(Broken(error=kind("text", operation={"name": "o"}))))
            assert isinstance(arrived, Broken)
            assert (type(arrived.error), arrived.error.operation) == (kind, {"name": "o"})


def test_an_event_is_for_people_too() -> None:
    """Short, by name, with what is unset left out and payloads opaque."""
    response = any_pb2.Any(type_url="type.googleapis.com/x.Y", value=b"\x01")
    assert event_from_outcome(Succeeded(operation=pb.Operation(name="o", done=True, response=response)), name="o") == {
        "name": "o",
        "outcome": "Succeeded",
        "operation": {"name": "o", "done": True, "response": {"@type": "type.googleapis.com/x.Y", "value": "AQ=="}},
    }
    assert event_from_outcome(TimedOut(), name="o") == {"name": "o", "outcome": "TimedOut"}


# ── too large ──

LETTERS = ("a", "\u00e4", "\U0001f600")
"""One, six and twelve bytes each in JSON."""
BIG = 100_000


def payload(size: int) -> any_pb2.Any:
    """Make a payload of some size."""
    return any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=b"x" * size)


def test_a_large_response_stays_out_and_is_read_again() -> None:
    """The event says so, and is still the success of that operation."""
    outcome = Succeeded(operation=pb.Operation(name=NAME, done=True, response=payload(BIG)))
    event = sent(outcome)
    assert must_read_again(event)
    left = outcome_from_event(event)
    assert isinstance(left, Succeeded)
    assert left.operation == pb.Operation(name=NAME, done=True)


def test_large_metadata_alone_go_and_the_result_stays() -> None:
    """Progress of what is over is the least that is needed; only a failure's is read again, which shows it."""
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (Succeeded, {"response": payload(1000)}),
        (Failed, {"error": status_pb2.Status(code=5, message="m", details=[payload(1000)])}),
    ]
    for kind, result in kinds:
        event = sent(kind(operation=pb.Operation(name=NAME, done=True, metadata=payload(BIG), **result)))
        assert must_read_again(event) is (kind is Failed)
        assert outcome_from_event(event).operation == pb.Operation(name=NAME, done=True, **result)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [Failed, Cancelled])
@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("many", [False, True])
def test_a_large_error_is_cut_and_read_again(kind: Any, letter: str, *, many: bool) -> None:
    """Its code and the beginning of its message stay, whatever the letters."""
    details = [payload(2000)] * 100 if many else []
    status = status_pb2.Status(code=5, message=letter * BIG, details=details)
    event = sent(kind(operation=pb.Operation(name=NAME, done=True, metadata=payload(BIG), error=status)))
    assert must_read_again(event)
    left = outcome_from_event(event)
    assert isinstance(left, kind)
    assert left.operation.error.code == 5
    assert left.operation.error.message.startswith(letter * 100)


def test_many_details_go_and_are_read_again() -> None:
    """The message, which is short, stays whole."""
    status = status_pb2.Status(code=5, message="short", details=[payload(900)] * 100)
    event = sent(Failed(operation=pb.Operation(name=NAME, done=True, error=status)))
    assert must_read_again(event)
    left = outcome_from_event(event)
    assert isinstance(left, Failed)
    assert (left.operation.error.message, list(left.operation.error.details)) == ("short", [])


@pytest.mark.parametrize("letter", LETTERS)
def test_a_failed_call_that_said_too_much_is_cut(letter: str) -> None:
    """Nobody can read it again, and nobody is told to; class, code and the beginning of the text stay."""
    details = [{"@type": "x", "detail": letter * BIG}]
    error = RpcError("text" + letter * BIG, code=14, message="message" + letter * BIG, details=details)
    error.retry_after = 2.5
    running = pb.Operation(name=NAME, metadata=payload(BIG))
    for outcome in (
        Broken(error=error),
        NotFound(error=error, operation=running),
        TimedOut(operation=running, error=error, cancel="refused", cancel_error=error),
    ):
        event = sent(outcome)
        assert not must_read_again(event)
        left = outcome_from_event(event)
        assert type(left) is type(outcome)
        ours = left.error  # type: ignore[union-attr]
        assert (type(ours), ours.code, ours.retry_after) == (RpcError, 14, 2.5)
        assert str(ours).startswith("text" + letter * 100)
        assert ours.message.startswith("message" + letter * 100)


@given(
    st.sampled_from([Succeeded, Failed, Cancelled]),
    st.tuples(*[st.sampled_from([0, 10, 1000, 20_000, 70_000])] * 4),
    st.sampled_from(LETTERS),
)
def test_a_result_is_whole_or_read_again(kind: Any, sizes: tuple[int, int, int, int], letter: str) -> None:
    """Exactly one of the two, whatever is large, and never a success that silently lost its response."""
    metadata, response, message, detail = sizes
    operation = pb.Operation(name=NAME, done=True, metadata=payload(metadata))
    if kind is Succeeded:
        operation.response.CopyFrom(payload(response))
    else:
        operation.error.CopyFrom(
            status_pb2.Status(code=5, message=letter * (message // 4), details=[payload(detail)] * 2)
        )
    event = sent(kind(operation=operation))
    left: Any = outcome_from_event(event)
    result = "response" if kind is Succeeded else "error"
    whole = left.operation.HasField(result) and getattr(left.operation, result) == getattr(operation, result)
    if kind is not Succeeded:  # of which an error shows the metadata, too
        whole = whole and left.operation.metadata == operation.metadata
    assert whole is not must_read_again(event)


@pytest.mark.parametrize("size", range(LARGEST_EVENT - 3, LARGEST_EVENT + 4))
def test_the_limit_is_exact(size: int) -> None:
    """An event of exactly 64 KiB goes whole, one byte more does not."""
    error = status_pb2.Status(code=5)
    frame = len(json.dumps(event_from_outcome(Failed(operation=pb.Operation(done=True, error=error)), name=NAME)))
    error.message = "x" * (size - frame)
    event = sent(Failed(operation=pb.Operation(done=True, error=error)))
    assert must_read_again(event) is (size > LARGEST_EVENT)


# ── what is no event ──


@pytest.mark.parametrize("event", [{}, {"outcome": "Wat", "name": NAME}, {"outcome": None}, {"status": "success"}])
def test_what_is_no_event_of_ours(event: dict[str, Any]) -> None:
    """A ValueError that tells what to compare."""
    with pytest.raises(ValueError, match="same version of airflow-provider-lro"):
        outcome_from_event(event)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    """A field and an error class that this version does not know do no harm."""
    event = sent(Broken(error=RpcError("text", code=14)))
    event["error"] |= {"type": "FutureError", "extra": 1}
    left = outcome_from_event(event | {"novelty": {"x": 1}})
    assert isinstance(left, Broken)
    assert (type(left.error), str(left.error), left.error.code) == (LroError, "text", Code.UNAVAILABLE)
