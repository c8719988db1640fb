"""The event of a trigger: the outcomes of one operation or many in 64 KiB of JSON, and no result lost unnoticed."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc import status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_lro import exceptions
from airflow_provider_lro._core.outcome import CallFailed, Cancelled, Failed, NotFound, Succeeded, TimedOut
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._messages.events import (
    MAX_ENTRY,
    MAX_EVENT,
    MAX_OPERATIONS,
    MAX_TEXT,
    MAX_TEXT_OF_MANY,
    check_event,
    event_from_outcomes,
    outcomes_from_event,
    to_read_again,
)
from airflow_provider_lro._messages.protocol import STATUS_URL
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
    from collections.abc import Callable, Sequence

    from airflow_provider_lro._core.outcome import Outcome

NAME = "projects/p/locations/l/operations/o"
DONE = (Succeeded, Failed, Cancelled)
LETTERS = {
    "Succeeded": "S",
    "Failed": "F",
    "Cancelled": "C",
    "NotFound": "N",
    "CallFailed": "B",
    "none": "T",
    "took effect": "K",
    "asked": "A",
    "refused": "R",
}
"""By the outcome, and for one that timed out by the effect of the cancel."""


def names_for(found: Sequence[Any]) -> list[str]:
    """Name operations."""
    return [f"operations/{index}/o" for index in range(len(found))]


def sent(found: Sequence[Outcome | None], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Send an event through the database: it is JSON, and not too large."""
    names = names or names_for(found)
    event = event_from_outcomes(found, names, started_at=5.0)
    text = json.dumps(event, allow_nan=False)
    assert len(text.encode()) <= MAX_EVENT
    arrived: dict[str, Any] = json.loads(text)
    assert arrived == event
    assert (arrived["name"], arrived["started_at"]) == (names[0], 5.0)
    assert arrived["outcomes"] == "".join(map(letter_of, found))
    return arrived


def letter_of(outcome: Outcome | None) -> str:
    """Return the letter for an outcome."""
    if outcome is None:
        return "."
    return LETTERS[outcome.cancel if isinstance(outcome, TimedOut) else type(outcome).__name__]


def arrived_of(outcome: Outcome, name: str = NAME) -> tuple[Any, bool]:
    """Send the outcome of one operation; return what arrives, and whether it must be read again."""
    event = sent([outcome], [name])
    (arrived,) = outcomes_from_event(event, [name])
    return arrived, to_read_again(event) == [0]


def said(error: LroError | None) -> Any:
    """Return all that an error says."""
    return error and (type(error), str(error), vars(error))


def is_same(one: Outcome | None, two: Outcome | None) -> bool:
    """Return True for equal outcomes; errors are compared by what they say."""
    if one is None or two is None:
        return one is two
    return type(one) is type(two) and all(
        said(ours) == said(theirs) if isinstance(ours, LroError) else ours == theirs
        for ours, theirs in ((getattr(one, field.name), getattr(two, field.name)) for field in fields(one))
    )


texts = st.text(max_size=40)
state_names = st.sampled_from(["", "o", "\u00e4/o"])
"""A service may give an operation another form of its name, or none."""
storable_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable_texts, inner, max_size=3),
    max_leaves=5,
)
json_details = st.lists(st.dictionaries(texts, json_values, max_size=3), max_size=3)
payloads = st.builds(Payload, type_url=texts, value=st.binary(max_size=60)) | st.builds(JsonPayload, json=json_values)


@st.composite
def states(draw: st.DrawFn, result: str) -> OperationState:
    """Make a state with any metadata, and that result, in either form of payloads."""
    given_: dict[str, Any] = {
        "name": draw(state_names),
        "done": result != "running",
        "metadata": draw(st.none() | payloads),
    }
    if result == "response":
        given_["response"] = draw(st.none() | payloads)
    if result in ("error", "cancelled"):
        codes = st.integers(-(2**31), 2**31 - 1).filter(lambda code: code != Code.CANCELLED)
        given_["code"] = Code.CANCELLED if result == "cancelled" else draw(codes)
        given_["message"] = draw(texts)
        given_["details"] = draw(st.none() | payloads)
    return OperationState(**given_)


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
        error.permanent, error.not_sent = draw(st.booleans()), draw(st.booleans())
        if (retry_after := draw(st.none() | st.floats(0, 300))) is not None:
            error.retry_after = retry_after
    return error


call_errors = errors(RpcError, UnimplementedError, CredentialsError, EndpointError, OperationNotFound, LroError)
running = st.none() | states("running")
outcomes = st.one_of(
    st.builds(Succeeded, operation=states("response")),
    st.builds(Failed, operation=states("error")),
    st.builds(Cancelled, operation=states("cancelled")),
    st.builds(
        TimedOut,
        # After a cancel that took effect the operation is done.
        operation=running | states("cancelled"),
        error=st.none() | call_errors,
        cancel=st.sampled_from(["none", "took effect", "asked", "refused"]),
        cancel_error=st.none() | call_errors,
    ),
    st.builds(NotFound, error=errors(OperationNotFound), operation=running),
    st.builds(CallFailed, error=call_errors, operation=running),
)

# ── whole ──


@given(outcomes, texts.map(lambda text: f"{text}/o"))
def test_every_outcome_survives_the_trip(outcome: Outcome, name: str) -> None:
    """Payloads bit by bit, whatever their types, and JSON as it is; errors with class, text and fields."""
    arrived, again = arrived_of(outcome, name)
    assert not again
    assert is_same(arrived, outcome)


@given(st.lists(st.none() | outcomes, min_size=1, max_size=6))
@pytest.mark.no_cover  # which would take most of its time
def test_every_outcome_of_many_survives_the_trip(found: list[Outcome | None]) -> None:
    """So do those of many, and what is not done stays so, while there is room for all."""
    event = sent(found)
    assert to_read_again(event) == []
    assert all(map(is_same, outcomes_from_event(event, names_for(found)), found))


def test_codes_come_back_as_what_they_were() -> None:
    """A Code is one again, a number that is none stays an int."""
    for code, kind in ((14, Code), (77, int)):
        arrived, _ = arrived_of(CallFailed(error=RpcError("x", code=code)))
        assert type(arrived.error.code) is kind


def test_every_error_of_ours_can_travel() -> None:
    """An event names the class, and the worker has it."""
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if kind not in (Code, OperationsFailed):  # that one is raised on the worker alone
            arrived, _ = arrived_of(CallFailed(error=kind("text", operation={"name": "o"})))
            assert (type(arrived.error), arrived.error.operation) == (kind, {"name": "o"})


EVENTS: list[tuple[list[Outcome | None], list[str], dict[str, Any]]] = [
    (
        [
            Succeeded(
                operation=OperationState(name="o", done=True, response=Payload(type_url="t.com/x.Y", value=b"\x01"))
            )
        ],
        ["o"],
        {
            "name": "o",
            "outcomes": "S",
            "known": {"0": {"operation": {"done": True, "response": {"@type": "t.com/x.Y", "value": "AQ=="}}}},
        },
    ),
    (
        [Succeeded(operation=OperationState(name="o", done=True, response=JsonPayload(json={"rows": [1, None]})))],
        ["o"],
        {
            "name": "o",
            "outcomes": "S",
            "known": {"0": {"operation": {"done": True, "response": {"json": {"rows": [1, None]}}}}},
        },
    ),
    ([TimedOut()], ["o"], {"name": "o", "outcomes": "T", "known": {}}),
    (
        [
            None,
            Succeeded(operation=None),
            Failed(operation=OperationState(name="renamed/c", done=True, code=5, message="gone")),
            TimedOut(cancel="refused", cancel_error=UnimplementedError("no", code=12)),
        ],
        ["a", "b", "c", "d"],
        {
            "name": "a",
            "outcomes": ".SFR",
            "known": {
                "2": {"operation": {"done": True, "name": "renamed/c", "code": 5, "message": "gone"}},
                "3": {
                    "cancel_error": {
                        "type": "UnimplementedError",
                        "text": "no",
                        "code": 12,
                        "message": "no",
                        "details": [],
                    }
                },
            },
        },
    ),
]


@pytest.mark.parametrize(("found", "names", "event"), EVENTS)
def test_form_of_an_event(found: list[Outcome | None], names: list[str], event: dict[str, Any]) -> None:
    """A letter for each operation, by position what is known, payloads opaque or JSON; what is unset is left out."""
    made = event_from_outcomes(found, names, started_at=5.0)
    assert made == {**event, "started_at": 5.0}
    assert json.loads(json.dumps(made)) == made


def test_error_of_all_stands_once() -> None:
    """Of a connection that cannot be used, fifty thousand operations are told in one entry."""
    error = CredentialsError("no key", code=16)
    found = [CallFailed(error=error)] * MAX_OPERATIONS
    event = sent(found)
    assert event["known"] == {}
    assert event["error"]["text"] == "no key"
    assert {said_ for one in outcomes_from_event(event, names_for(found)) for said_ in [str(one.error)]} == {"no key"}  # type: ignore[union-attr]
    three: list[Outcome | None] = [*found[:2], CallFailed(error=RpcError("other"))]
    others = outcomes_from_event(sent(three), names_for(three))
    assert [str(one.error) for one in others] == ["no key", "no key", "other"]  # type: ignore[union-attr]


# ── too large ──

WIDTHS = {"a": 1, "\u00e4": 6, "\U0001f600": 12}
"""Bytes of a letter in JSON."""
BIG = 100_000


def payload(size: int, *, is_json: bool = False) -> Payload | JsonPayload:
    """Make a payload of some size."""
    if is_json:
        return JsonPayload(json="x" * size)
    return Payload(type_url="type.googleapis.com/google.protobuf.Struct", value=b"x" * size)


def details(size: int, number: int = 1) -> Payload:
    """Make the details of an error."""
    status = status_pb2.Status()
    for _ in range(number):
        status.details.add(type_url="type.googleapis.com/google.protobuf.Struct", value=b"x" * size)
    return Payload(type_url=STATUS_URL, value=status.SerializeToString())


def failed(kind: Any = Failed, **more: Any) -> Any:
    """Make the outcome of a done operation with an error."""
    return kind(operation=OperationState(name=NAME, done=True, code=1 if kind is Cancelled else 5, **more))


@pytest.mark.parametrize("is_json", [False, True])
def test_a_large_response_stays_out_and_is_read_again(is_json: bool) -> None:
    """The event is still the success of that operation."""
    state = OperationState(name=NAME, done=True, response=payload(BIG, is_json=is_json))
    assert arrived_of(Succeeded(operation=state)) == (Succeeded(operation=None), True)


def test_large_metadata_alone_go_and_the_result_stays() -> None:
    """Progress of what is over is the least that is needed; only a failure's is read again, which shows it."""
    response = OperationState(name=NAME, done=True, response=payload(1000))
    found = OperationState(name=NAME, done=True, response=payload(1000), metadata=payload(BIG))
    assert arrived_of(Succeeded(operation=found)) == (Succeeded(operation=response), False)
    one = failed(message="m", details=details(1000))
    assert arrived_of(failed(message="m", details=details(1000), metadata=payload(BIG))) == (one, True)
    late = TimedOut(operation=OperationState(name=NAME, metadata=payload(BIG)))
    assert arrived_of(late) == (TimedOut(operation=OperationState(name=NAME)), False)


@pytest.mark.parametrize("kind", [Failed, Cancelled])
@pytest.mark.parametrize("letter", WIDTHS)
@pytest.mark.parametrize("number", [0, 100])
def test_a_large_error_is_cut_and_read_again(kind: Any, letter: str, number: int) -> None:
    """Its code and the beginning of its message stay, whatever the letters."""
    outcome = failed(kind, message=letter * BIG, metadata=payload(BIG), details=details(2000, number))
    arrived, again = arrived_of(outcome)
    assert again
    assert type(arrived) is kind
    assert arrived.operation.code == outcome.operation.code
    assert arrived.operation.message == letter * len(arrived.operation.message)
    assert MAX_TEXT / 2 < len(arrived.operation.message) * WIDTHS[letter] <= MAX_TEXT


def test_many_details_go_and_are_read_again() -> None:
    """The message, which is short, stays whole."""
    assert arrived_of(failed(message="short", details=details(900, 100))) == (failed(message="short"), True)


@pytest.mark.parametrize("letter", WIDTHS)
@pytest.mark.parametrize("total", [1, 2])
def test_a_failed_call_that_said_too_much_is_cut(letter: str, total: int) -> None:
    """Nobody can read it again, and nobody is told to; class, code and the beginning of the text stay."""
    error = RpcError(
        "text" + letter * BIG,
        code=14,
        message="message" + letter * BIG,
        details=[{"@type": "x", "detail": letter * BIG}],
    )
    error.retry_after = 2.5
    state = OperationState(name=NAME, metadata=payload(BIG))
    for outcome in (
        CallFailed(error=error),
        NotFound(error=error, operation=state),
        TimedOut(operation=state, error=error, cancel="refused", cancel_error=error),
    ):
        found: list[Outcome | None] = [outcome, None][:total]
        event = sent(found)
        assert to_read_again(event) == []
        arrived: Any = outcomes_from_event(event, names_for(found))[0]
        assert type(arrived) is type(outcome)
        for ours in (arrived.error, getattr(arrived, "cancel_error", arrived.error)):
            assert (type(ours), ours.code, ours.retry_after, ours.details) == (RpcError, 14, 2.5, [])
            assert str(ours).startswith("text" + letter * 10)
            assert ours.message.startswith("message" + letter * 10)
            assert len(json.dumps(ours.message)) <= (MAX_TEXT if total == 1 else MAX_TEXT_OF_MANY)


def test_error_of_all_that_said_too_much_is_cut() -> None:
    """However much it says, the event has room for the letters of all, and for its beginning."""
    error = RpcError("text" + "\U0001f600" * BIG, code=14, details=[{"@type": "x", "detail": "y" * BIG}])
    found = [CallFailed(error=error)] * MAX_OPERATIONS
    event = sent(found)
    last: Any = outcomes_from_event(event, names_for(found))[-1]
    assert (type(last.error), last.error.code) == (RpcError, 14)
    assert str(last.error).startswith("text\U0001f600")


@given(
    st.sampled_from([Succeeded, Failed, Cancelled]),
    st.tuples(*[st.sampled_from([0, 10, 1000, 20_000, 70_000])] * 4),
    st.sampled_from(list(WIDTHS)),
    st.booleans(),
)
def test_a_result_is_whole_or_read_again(
    kind: Any, sizes: tuple[int, int, int, int], letter: str, is_json: bool
) -> None:
    """Exactly one of the two, whatever is large, and never a success that silently lost its response."""
    metadata, response, message, detail = sizes
    more: dict[str, Any] = {"metadata": payload(metadata, is_json=is_json)}
    if kind is Succeeded:
        outcome = Succeeded(
            operation=OperationState(name=NAME, done=True, response=payload(response, is_json=is_json), **more)
        )
    else:
        outcome = failed(kind, message=letter * (message // 4), details=details(detail, 2), **more)
    arrived, again = arrived_of(outcome)
    assert type(arrived) is kind
    is_whole = arrived == outcome
    if kind is Succeeded and arrived.operation is not None:  # whose metadata nobody needs
        is_whole = arrived.operation.response == outcome.operation.response
    assert is_whole is not again


@pytest.mark.parametrize("beyond", range(-3, 4))
def test_the_limit_is_exact(beyond: int) -> None:
    """An event of exactly 64 KiB goes whole, one byte more does not."""
    frame = len(json.dumps(event_from_outcomes([failed()], [NAME], started_at=5.0)))
    size = MAX_EVENT + beyond
    arrived, again = arrived_of(failed(message="x" * (size - frame)))
    # The first entry of an event has no comma before it, which is reckoned all the same.
    assert again is (size > MAX_EVENT - 2)
    assert (len(arrived.operation.message) == size - frame) is not again


def test_entry_of_many_leaves_room_for_the_others() -> None:
    """Of one among many no more than 4 KiB of an error travel, but a response of any size where there is room."""
    large = [
        failed(message="x" * MAX_ENTRY),
        CallFailed(error=RpcError("x" * MAX_ENTRY)),
        Succeeded(operation=OperationState(name="operations/2/o", done=True, response=payload(MAX_ENTRY))),
    ]
    event = sent(large)
    assert to_read_again(event) == [0]
    assert [len(json.dumps(event["known"][index])) <= MAX_ENTRY for index in "012"] == [True, True, False]
    assert outcomes_from_event(event, names_for(large))[2] == large[2]


def test_what_cannot_be_read_again_comes_first() -> None:
    """Errors of calls go first, then errors of operations, then results, in whatever order they come."""
    rows: list[tuple[int, Callable[[int], Outcome]]] = [
        (100, succeeded),
        (100, lambda index: failed(message=f"{index} " + "x" * 200)),
        (100, lambda index: CallFailed(error=RpcError(f"{index} " + "x" * 120))),
    ]
    for order in (rows, rows[::-1]):
        found = [make(index) for number, make in order for index in range(number)]
        event = sent(found)
        known = [index in event["known"] for index in map(str, range(len(found)))]
        kept = {
            kind: sum(have for have, one in zip(known, found, strict=True) if isinstance(one, kind))
            for kind in (CallFailed, Failed, Succeeded)
        }
        assert kept[CallFailed] == 100
        assert 0 < kept[Failed] <= 100
        assert kept[Failed] == 100 or kept[Succeeded] == 0
        assert kept[Succeeded] < 100
        assert to_read_again(event) == [
            index for index, one in enumerate(found) if isinstance(one, DONE) and not known[index]
        ]


def succeeded(index: int) -> Outcome:
    """Make a success with a small response."""
    return Succeeded(operation=OperationState(name=f"operations/{index}/o", done=True, response=payload(300)))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Succeeded, Failed, CallFailed, NotFound, TimedOut]), st.sampled_from([0, 200, 3000])
        ),
        min_size=2,
        max_size=60,
    )
)
def test_each_of_many_is_whole_or_read_again(sizes: list[tuple[Any, int]]) -> None:
    """Whatever has no room: its verdict stands, what is done is read again, and an error says that it was cut."""
    found = [outcome_of_size(kind, size) for kind, size in sizes * 3]
    event = sent(found)
    again = to_read_again(event)
    for index, (ours, theirs) in enumerate(zip(found, outcomes_from_event(event, names_for(found)), strict=True)):
        assert type(theirs) is type(ours)
        if isinstance(ours, DONE):
            assert (theirs == ours) is (index not in again)
        elif not is_same(theirs, ours):
            assert index not in again
            error = theirs.error  # type: ignore[union-attr]
            assert isinstance(ours, TimedOut) or "no room" in str(error) or str(ours.error).startswith(str(error))  # type: ignore[union-attr]


def outcome_of_size(kind: Any, size: int) -> Any:
    """Make an outcome with so much to tell."""
    error = OperationNotFound("x" * size, code=5) if kind is NotFound else RpcError("x" * size, code=14)
    if kind is Succeeded:
        return Succeeded(operation=OperationState(name=NAME, done=True, response=payload(size)))
    return failed(message="x" * size) if kind is Failed else kind(error=error)


@pytest.mark.parametrize(
    "make",
    [
        lambda index: CallFailed(error=RpcError(f"{index} " + "\u00e4" * 300)),
        lambda index: failed(message=f"{index} " + "x" * 5000),
        lambda index: Succeeded(operation=OperationState(name=NAME, done=True, response=payload(70_000))),
        lambda index: TimedOut(cancel="refused", cancel_error=UnimplementedError(f"{index} no", code=12)),
        lambda index: None,
    ],
)
@pytest.mark.no_cover  # which would take most of its time
def test_fifty_thousand_have_room(make: Callable[[int], Any]) -> None:
    """There is a letter for each, and what is left of the room is used."""
    found = [make(index) for index in range(100)] * (MAX_OPERATIONS // 100)
    event = sent(found)
    arrived = outcomes_from_event(event, names_for(found))
    assert "".join(map(letter_of, arrived)) == event["outcomes"]
    is_result = found[0] is None or isinstance(found[0], Succeeded)
    assert bool(event["known"]) is not is_result
    assert (len(to_read_again(event)) == MAX_OPERATIONS) is isinstance(found[0], Succeeded | Failed)


HUGE = "\U0001f600" * 100_000
LONGEST_NAME = "\U0001f600" * 4094 + "/o"


def huge_error(kind: type[LroError] = RpcError) -> LroError:
    """Make an error that says too much everywhere."""
    error = kind(HUGE, code=14, message=HUGE, details=[{HUGE: HUGE}], operation={"name": HUGE})
    vars(error).update(retry_after=2.5, noted=[HUGE], debug=HUGE)
    error.add_note(HUGE)
    return error


def huge_state(**more: Any) -> OperationState:
    """Make a state in which everything is too large."""
    huge = Payload(type_url=HUGE, value=b"x" * BIG)
    return OperationState(name=LONGEST_NAME, **{"metadata": huge, **more})


HUGE_OUTCOMES: list[Outcome] = [
    Succeeded(operation=huge_state(done=True, response=Payload(type_url=HUGE))),
    Succeeded(operation=huge_state(done=True, response=JsonPayload(json={HUGE: [HUGE]}))),
    *(
        kind(operation=huge_state(done=True, code=code, message=HUGE, details=JsonPayload(json=[{HUGE: HUGE}])))
        for kind, code in ((Failed, 2**31 - 1), (Cancelled, 1))
    ),
    NotFound(error=huge_error(OperationNotFound), operation=huge_state()),
    CallFailed(error=huge_error(), operation=huge_state()),
    TimedOut(error=huge_error(), cancel="refused", cancel_error=huge_error(), operation=huge_state()),
]


@pytest.mark.parametrize("outcome", HUGE_OUTCOMES, ids=lambda outcome: outcome.word)
@pytest.mark.parametrize("total", [1, 2, 20])
@pytest.mark.parametrize("name", ["operations/o", LONGEST_NAME], ids=["short name", "long name"])
def test_event_is_bounded_whatever_is_said(outcome: Outcome, total: int, name: str) -> None:
    """Names, types, codes, texts, details, and what hangs on an error: 64 KiB, and the verdict of each is in it."""
    found: list[Outcome | None] = [outcome] * total
    arrived = outcomes_from_event(sent(found, [name] * total), [name] * total)
    assert {type(each) for each in arrived} == {type(outcome)}


def test_event_of_as_many_as_there_may_be_is_bounded() -> None:
    """Beside fifty thousand letters a name may have no room; the letters have."""
    found: list[Outcome | None] = [HUGE_OUTCOMES[5]] * MAX_OPERATIONS
    event = event_from_outcomes(found, [LONGEST_NAME] * MAX_OPERATIONS, started_at=5.0)
    assert len(json.dumps(event)) <= MAX_EVENT
    assert event["outcomes"] == "B" * MAX_OPERATIONS
    check_event(json.loads(json.dumps(event)), ["operations/any"] * MAX_OPERATIONS)


@pytest.mark.parametrize(
    ("said", "asked", "is_same"),
    [
        ("projects/123/operations/o", "projects/p/operations/o", True),
        ("operations/o", "projects/p/instances/i/operations/o", True),
        ("projects/p/operations/other", "projects/p/operations/o", False),
        ("", "projects/p/operations/o", True),
    ],
)
def test_event_of_another_operation_is_refused(said: str, asked: str, is_same: bool) -> None:
    """By the last segment of the name that it is about, and of the name in each operation's state."""
    state = OperationState(name=said, done=True)
    for names, found in (
        ([said], [Succeeded(operation=None)]),
        ([asked], [Succeeded(operation=state)]),
        (["operations/first", asked], [None, Succeeded(operation=state)]),
    ):
        event = sent(found, names)
        expected = [*names[:-1], asked]
        if is_same:
            assert outcomes_from_event(event, expected) == found
        else:
            with pytest.raises(ValueError, match=f"event is about {said!r}, but this task waits for {asked!r}: "):
                outcomes_from_event(event, expected)


# ── what is not an event ──


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"outcome": "Wat", "name": NAME},
        {"outcomes": None, "known": {}},
        {"outcomes": "S"},
        {"status": "success"},
        {"outcomes": "", "known": {}},
        {"outcomes": "SS", "known": {}},
        {"outcomes": "x", "known": {}},
        {"outcomes": "S", "known": None},
        {"outcomes": "B", "known": {}, "error": "text"},
        {"name": NAME, "outcomes": "S", "known": {}},
        {"name": NAME, "outcomes": "S", "known": {}, "started_at": "now"},
        {"name": 5, "outcomes": "S", "known": {}, "started_at": 5.0},
        {"name": NAME, "outcomes": ["S"], "known": {}, "started_at": 5.0},
        {"name": NAME, "outcomes": ".", "known": {"0": "text"}, "started_at": 5.0},
        {"name": NAME, "outcomes": "B", "known": {}, "started_at": 5.0, "error": {"type": 5, "text": "x"}},
        {"name": NAME, "outcomes": "B", "known": {}, "started_at": 5.0, "error": {"type": "RpcError", "text": 5}},
        *(
            {
                "name": NAME,
                "outcomes": "B",
                "known": {"0": {"error": {"type": "RpcError", "text": "x", field: value}}},
                "started_at": 5.0,
            }
            for field, value in (
                ("code", "14"),
                ("code", 2**31),
                ("message", None),
                ("details", [5]),
                ("operation", "o"),
                ("retry_after", "now"),
                ("permanent", 1),
                ("cancel", "perhaps"),
            )
        ),
        [],
        "S",
    ],
)
def test_what_is_not_an_event_of_ours(event: Any) -> None:
    """A ValueError that tells what to compare, for other operations, too."""
    with pytest.raises(ValueError, match="same version of airflow-provider-lro"):
        outcomes_from_event(event, [NAME])


DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]


def test_error_of_an_event_has_no_other_fields() -> None:
    """What an event says of an error never takes the place of one of its methods."""
    event = sent([CallFailed(error=RpcError("text", code=14))], [NAME])
    event["known"]["0"]["error"] |= {"as_type": "x", "with_traceback": "x", "__class__": "x", "is_transient": False}
    (arrived,) = outcomes_from_event(event, [NAME])
    assert isinstance(arrived, CallFailed)
    assert vars(arrived.error) == vars(RpcError("text", code=14))
    assert arrived.error.is_transient


@pytest.mark.parametrize("kind", DONE)
@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"cut": True},
        {"operation": None},
        {"operation": {}},
        {"operation": {"done": False}},
        {"operation": {"done": False, "code": 5}},
        {"operation": {"done": True, "code": 0}},
        {"operation": {"done": True, "code": 1}},
        {"operation": {"done": True}},
        {"operation": {"done": True, "response": {"@type": "x", "value": "not base64"}}},
        {"operation": {"done": True, "response": {"value": ""}}},
        {"operation": {"done": True, "response": "text"}},
        {"operation": {"done": True, "response": {"@type": 5, "value": ""}}},
        {"operation": {"done": "yes"}},
        {"operation": {"done": True, "code": "5"}},
        {"operation": {"done": True, "code": 5, "message": ["m"]}},
        {"operation": {"done": True, "name": 5}},
        {"operation": {"done": True, "response": {"json": DEEP}}},
    ],
)
def test_tampered_event_is_not_an_outcome(kind: Any, entry: dict[str, Any]) -> None:
    """No success, failure or cancellation is taken from an operation that does not bear it out."""
    event = {"name": NAME, "outcomes": LETTERS[kind.__name__], "known": {"0": entry}, "started_at": 5.0}
    bears_out = {
        Succeeded: [{"operation": {"done": True}}],
        Failed: [{"operation": {"done": True, "code": 0}}],
        Cancelled: [{"operation": {"done": True, "code": 1}}],
    }
    if entry in bears_out[kind]:
        (found,) = outcomes_from_event(event, [NAME])
        assert type(found) is kind
    else:
        with pytest.raises(ValueError, match="same version of airflow-provider-lro"):
            outcomes_from_event(event, [NAME])


@given(st.lists(outcomes, min_size=1, max_size=3), st.text("SFCNBTKAR.", min_size=1, max_size=3))
def test_other_letters_make_no_success(found: list[Outcome], letters: str) -> None:
    """Under another letter an entry is refused, or stays what the letter says; it never becomes a success."""
    event = {**sent(found), "outcomes": letters}
    try:
        arrived = outcomes_from_event(event, names_for(found))
    except ValueError:
        return
    for letter, ours, theirs in zip(letters, found, arrived, strict=True):
        assert letter_of(theirs) == letter
        if isinstance(theirs, Succeeded) and theirs.operation is not None:
            assert isinstance(ours, Succeeded)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    """A field and an error class that this version does not know do no harm."""
    event = sent([CallFailed(error=RpcError("text", code=14))])
    event["known"]["0"]["novelty"] = 1
    event["known"]["0"]["error"] |= {"type": "FutureError", "extra": 1}
    (arrived,) = outcomes_from_event(event | {"novelty": {"x": 1}}, ["operations/0/o"])
    assert isinstance(arrived, CallFailed)
    assert (type(arrived.error), str(arrived.error), arrived.error.code) == (LroError, "text", Code.UNAVAILABLE)
