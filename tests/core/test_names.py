"""Names: of operations and parents, in each form that another task may leave, and of message types."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.checks import MAX_NAME, check_name, is_name
from airflow_provider_lro._core.names import (
    are_many,
    check_literal,
    is_same_operation,
    module_names,
    name_of,
    names_of,
    pack,
    parent_in,
    parent_of,
    type_name,
    unpack,
)
from airflow_provider_lro._core.state import OperationState

NAME = "projects/p/locations/l/operations/o"
ENDLESS: dict[str, Any] = {}
ENDLESS["name"] = ENDLESS


@pytest.mark.parametrize(
    "value", [NAME, f"  {NAME}\n", {"name": NAME, "done": False}, {"name": {"name": NAME}}, {"name": f" {NAME} "}]
)
def test_a_name_is_found_in_each_form(value: Any) -> None:
    """A text, or an XCom of another operator that holds one, with space around it or not."""
    assert name_of(value) == NAME
    assert names_of(value) == [NAME]
    assert names_of([value, "operations/b"]) == [NAME, "operations/b"]
    assert names_of((value,)) == [NAME]
    check_literal(value)
    check_literal([value])


WRONG_NAMES: list[tuple[Any, str]] = [
    ("", "must be a non-empty text"),
    ("  ", "must be a non-empty text"),
    (b"operations/o", "must be a non-empty text"),
    (1.5, "must be a non-empty text"),
    (True, "must be a non-empty text"),
    ({"operations/o"}, "must be a non-empty text"),
    ("None", "the XCom or the variable that the template reads has no value"),
    (" null ", "the XCom or the variable that the template reads has no value"),
    ({"id": 1, "done": False}, r"a mapping without a 'name' \(it has \['done', 'id'\]\)"),
]


@pytest.mark.parametrize(("value", "expected"), WRONG_NAMES, ids=lambda value: str(value)[:20])
def test_a_value_without_a_name_is_refused_when_the_dag_is_read(value: Any, expected: str) -> None:
    """Nothing that is rendered later makes a name of it; one of several is no better."""
    for check in (name_of, check_literal):
        with pytest.raises(ValueError, match=f"^operation_name.*{expected}"):
            check(value)
    for check_all in (names_of, check_literal):
        with pytest.raises(ValueError, match=expected):
            check_all([NAME, value])


RENDERED_WRONG: list[tuple[Any, str]] = [
    (None, "must be a non-empty text"),
    ("{{ ti.xcom_pull('a') }}", "is a template that was not rendered: .*ti.xcom_pull"),
    ("{'name': 'operations/o'}", "is the text of a whole value, not a name: .* pass the XCom itself"),
    ("['operations/o']", "is the text of a whole value, not a name"),
    ({"name": None}, "must be a non-empty text"),
    ({"name": ["operations/o"]}, "must be a non-empty text"),
    ("operations/\ud800", "must be a non-empty text in UTF-8"),
    (ENDLESS, "a mapping whose 'name' is a mapping, and so on, more than 10 deep"),
    (OperationState(name=NAME), "must be a non-empty text"),
]


@pytest.mark.parametrize(("value", "expected"), RENDERED_WRONG, ids=lambda value: str(value)[:20])
def test_a_value_without_a_name_is_refused_when_it_is_rendered(value: Any, expected: str) -> None:
    """It may be a template, or hold one, so the reading of the DAG lets it pass."""
    check_literal(value)
    with pytest.raises(ValueError, match=f"^operation_name.*{expected}"):
        name_of(value)
    with pytest.raises(ValueError, match=f"^other.*{expected}"):
        name_of(value, what="other")


@pytest.mark.parametrize(
    ("value", "expected"),
    [([NAME], True), ((NAME,), True), ([], True), (NAME, False), (b"a", False), ({"name": NAME}, False), (None, False)],
)
def test_several_are_a_sequence(value: Any, expected: bool) -> None:
    """A text is one name, though Python takes it for a sequence; so is a mapping."""
    assert are_many(value) is expected


def test_a_parent_is_a_name() -> None:
    """It is stripped, and the remains of a template are refused, as of an operation."""
    assert parent_of(" projects/p/locations/l ") == "projects/p/locations/l"
    for value in ("", None, "None", "{{ x }}", "['projects/p']", 5.5, True):
        with pytest.raises(ValueError, match=r"^parent"):
            parent_of(value)


def test_names_of_digits_come_as_numbers_from_native_templates() -> None:
    """Speech-to-Text names operations so, and a project's number may be a parent; one or many, bare or in a mapping."""
    assert name_of(5543203840552489181) == "5543203840552489181"
    assert names_of([7, {"name": 8}, "operations/o"]) == ["7", "8", "operations/o"]
    assert parent_of(123) == "123"
    with pytest.raises(ValueError, match="non-empty text"):
        check_literal(7)


@pytest.mark.parametrize(
    ("name", "given", "parent"),
    [
        ("projects/p/locations/l/operations/o", None, "projects/p/locations/l"),
        ("a/operations/b/operations/c", None, "a/operations/b"),
        ("projects/p/locations/l/operations/o", "projects/p", "projects/p"),
        ("bare", "projects/p", "projects/p"),
        ("bare", None, ""),
        ("operations/o", None, ""),
        ("some/thing", None, ""),
    ],
)
def test_the_parent_is_the_text_before_the_operations(name: str, given: str | None, parent: str) -> None:
    """Unless it is given; a name that does not tell makes no error of a wait that may have started already."""
    assert parent_in(name, given) == parent


# ── packed ──


@given(names=st.lists(st.text(min_size=1).filter(str.strip), max_size=20))
def test_names_survive_packing(names: list[str]) -> None:
    """All of them, in their order, through a database that holds ASCII."""
    packed = pack(names)
    assert packed.isascii()
    assert unpack(json.loads(json.dumps(packed))) == names


def test_packed_names_are_short() -> None:
    """A thousand names of one service are a few letters each."""
    names = [f"projects/p/locations/us-central1/operations/{number}" for number in range(1000)]
    assert len(pack(names)) < 8 * len(names)


def packed(value: Any) -> str:
    """Pack any JSON, as ``pack`` packs names."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "operations/o",
        "AAAA",
        "é",
        base64.b64encode(zlib.compress(b"[")).decode(),
        packed([""]),
        packed([5]),
        packed(5),
    ],
)
def test_text_that_is_not_packed_is_refused(text: str) -> None:
    """Each is a ValueError, which the trigger's task reports as it is."""
    with pytest.raises(ValueError, match=r"is not a text of packed names|must be a non-empty text"):
        unpack(text)


# ── types ──


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (struct_pb2.Struct, "google.protobuf.struct_pb2:Struct"),
        (" google.protobuf.Struct ", "google.protobuf.Struct"),
        ("module:Class", "module:Class"),
    ],
)
def test_a_message_type_crosses_as_text(value: Any, text: str | None) -> None:
    """A class by its module and name; a text as it is, without the space around it."""
    assert type_name(value, what="response_type") == text


@pytest.mark.parametrize("value", ["", "  ", 5, dict, OperationState, OperationState(name="o"), b"a.B", "\ud800"])
def test_a_value_that_is_not_a_type_is_refused(value: Any) -> None:
    """The error shows the value, and each form that is right."""
    with pytest.raises(
        ValueError, match=r"^response_type=.*, but it must be a message class, its import path"
    ) as refused:
        type_name(value, what="response_type")
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize(
    ("value", "modules"),
    [
        (None, ()),
        ((), ()),
        ("", ()),
        ("a.b", ("a.b",)),
        (" a.b, c ,,", ("a.b", "c")),
        (["a.b", " c "], ("a.b", "c")),
        (("a", ""), ("a",)),
    ],
)
def test_modules_are_given_in_each_form(value: Any, modules: tuple[str, ...]) -> None:
    """One, several with commas between, or a sequence; empty ones do not count."""
    assert module_names(value) == modules
    assert module_names(",".join(modules)) == modules


@pytest.mark.parametrize("value", [5, [5], {"a"}, [None], b"a", {"a": 1}, ["\ud800"], "\ud800"])
def test_a_value_that_is_not_modules_is_refused(value: Any) -> None:
    """The error shows the value, and what is expected."""
    with pytest.raises(ValueError, match=r"^type_modules=.*, but it must be module paths such as") as refused:
        module_names(value)
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize(
    ("one", "two", "is_same"),
    [
        ("operations/o", "operations/o", True),
        ("projects/p/locations/l/operations/o", "projects/123/locations/l/operations/o", True),
        ("projects/p/instances/i/operations/o", "operations/o", True),
        ("projects/p/locations/eu/operations/o", "projects/p/locations/europe-west1/operations/o", True),
        ("operations/o", "o", True),
        ("operations/o", "operations/o/", True),
        ("operations/o", "operations/p", False),
        ("operations/o", "operations/o/p", False),
        ("operations/o", "operations/O", False),
        ("operations/a b", "operations/a%20b", False),
        ("operations/o", "", False),
    ],
)
def test_names_of_one_operation_have_the_same_last_segment(one: str, two: str, is_same: bool) -> None:
    """A number for an id, nested for flat, another location; a slash at the end does not count, upper case does."""
    assert is_same_operation(one, two) is is_same_operation(two, one) is is_same


def test_name_has_so_many_characters() -> None:
    """With more it would not fit into an event."""
    longest = "operations/" + "\U0001f600" * (MAX_NAME - 11)
    assert check_name(longest) == longest
    assert [is_name(name) for name in (longest, longest + "x", " ")] == [True, False, False]
    with pytest.raises(ValueError, match=r"operation_name='operations/.*…' has 4,097 characters, but it must have at"):
        check_name(longest + "x")
