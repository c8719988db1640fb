"""The error tree: as drawn, with its fields, through pickles and copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc import code_pb2

from airflow_provider_lro import exceptions
from airflow_provider_lro.exceptions import Code, LroError, OperationsFailed, RpcError
from tests.versions import AirflowException

if TYPE_CHECKING:
    from collections.abc import Callable


def _pickled(error: Any, *, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))  # noqa: S301  (its own)


KINDS = [value for value in vars(exceptions).values() if inspect.isclass(value) and issubclass(value, LroError)]
FIELDS: dict[str, Any] = {
    "code": 9,
    "message": "what the service said",
    "details": ({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "QUOTA", "metadata": {"q": "1"}},),
    "operation": {"name": "operations/o", "done": True},
}
CROSSINGS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {number}": partial(_pickled, protocol=number) for number in range(2, pickle.HIGHEST_PROTOCOL + 1)},
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def drawn_tree() -> dict[str, str]:
    """Read the drawing in the module's docstring: the parent of each class, by the class's name."""
    assert exceptions.__doc__
    found: dict[str, str] = {}
    ancestors: list[str] = []
    for line in exceptions.__doc__.splitlines():
        branch, dashes, text = line.partition("── ")
        if dashes:
            # Each level is drawn four columns further right, below the root.
            depth = (len(branch) - len("    ")) // 4 + 1
            name = text.split()[0]
            found[name] = ancestors[depth - 1]
            ancestors[depth:] = [name]
        elif line.strip().startswith("LroError("):
            name, _, base = line.strip().rstrip(")").partition("(")
            found[name] = base
            ancestors = [name]
    return found


def test_the_tree_is_as_drawn() -> None:
    """Each class has the one base that the drawing shows, and each is drawn."""
    assert drawn_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}
    assert all(len(kind.__bases__) == 1 for kind in KINDS)


def test_the_root_is_airflows() -> None:
    """Code that catches AirflowException catches all of ours."""
    assert LroError.__bases__ == (AirflowException,)


def test_everything_public_is_declared() -> None:
    """The module declares its errors and the codes, and nothing else."""
    assert set(exceptions.__all__) == {kind.__name__ for kind in KINDS} | {"Code"}
    assert sorted(exceptions.__all__) == list(exceptions.__all__)


def test_codes_are_google_rpcs() -> None:
    """Our codes are those of google/rpc/code.proto, name by name."""
    assert {code.name: code.value for code in Code} == dict(code_pb2.Code.items())


@pytest.mark.parametrize("number", [-1, 17, 99, 2**31 - 1])
def test_a_number_without_a_code_stays_an_int(number: int) -> None:
    """A service may answer with codes of its own."""
    assert type(Code.of(number)) is int
    assert Code.of(number) == number
    assert LroError("x", code=number).code == number


def test_a_number_with_a_code_becomes_one() -> None:
    """Whether it comes as a number or as a code, it is kept as the code."""
    for code in Code:
        assert Code.of(code.value) is code
        assert LroError("x", code=code.value).code is code
        assert LroError("x", code=code).code is code


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not OperationsFailed], ids=lambda kind: kind.__name__
)
def test_errors_carry_fields(kind: type[LroError]) -> None:
    """The text is for people, the fields are for programs."""
    error = kind("the whole sentence", **FIELDS)
    assert str(error) == "the whole sentence"
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message == "what the service said"
    assert error.details == list(FIELDS["details"])
    assert error.operation == {"name": "operations/o", "done": True}


@every_kind
def test_fields_have_defaults(kind: type[LroError]) -> None:
    """An error with nothing but a text has no code, and its text for a message."""
    error = kind("the whole sentence")
    assert (error.code, error.message, error.details, error.operation) == (None, "the whole sentence", [], None)


def test_code_0_and_an_empty_message_are_kept() -> None:
    """A value that is there but false is not the same as none."""
    error = LroError("x", code=0, message="", operation={})
    assert error.code is Code.OK
    assert (error.message, error.operation) == ("", {})


def test_an_error_does_not_change_with_what_it_was_made_from() -> None:
    """Details and operation are copied."""
    detail, operation = {"a": 1}, {"name": "o"}
    error = LroError("x", details=[detail], operation=operation)
    detail["a"], operation["name"] = 2, "p"
    assert (error.details, error.operation) == ([{"a": 1}], {"name": "o"})


def test_errors_of_several_operations_are_kept_by_name() -> None:
    """One call for many operations tells which of them failed with what."""
    errors: dict[str, LroError] = {"operations/o": RpcError("x", code=14)}
    error = OperationsFailed("two of three", errors=errors)
    errors.clear()
    assert error.errors["operations/o"].code is Code.UNAVAILABLE
    assert OperationsFailed("none").errors == {}


def test_a_call_that_failed_may_be_repeated_unless_it_says_otherwise() -> None:
    """Without a RetryInfo there is none, and nothing is permanent by itself."""
    error = RpcError("x", code=8)
    assert (error.retry_after, error.permanent, error.not_sent) == (None, False, False)
    error.retry_after, error.permanent, error.not_sent = 5.0, True, True
    other = RpcError("x")
    assert (other.retry_after, other.permanent, other.not_sent) == (None, False, False)


@every_kind
def test_pickles_and_copies_keep_every_field(kind: type[LroError]) -> None:
    """An error that crosses a process is the same error on the other side, by each way there is."""
    error: LroError
    if kind is OperationsFailed:
        error = OperationsFailed("two of three", errors={"operations/o": RpcError("x", **FIELDS)})
    else:
        error = kind("the whole sentence", **FIELDS)
    if isinstance(error, RpcError):
        error.retry_after, error.permanent, error.not_sent = 7.5, True, True
    for way, cross in CROSSINGS.items():
        found = cross(error)
        assert found is not error, way
        assert type(found) is kind, way
        assert str(found) == str(error), way
        assert found.args == error.args, way
        assert fields_of(found) == fields_of(error), way
        assert type(found.code) is type(error.code), way


def test_an_error_is_raised_as_another_class_with_all_its_fields() -> None:
    """A sensor raises an error of ours as one that Airflow does not retry; the text may be another, too."""

    class NotRetried(RpcError):
        pass

    error = RpcError("the whole sentence", **FIELDS)
    error.retry_after, error.not_sent = 7.5, True
    found = error.as_type(NotRetried)
    assert type(found) is NotRetried
    assert fields_of(found) == fields_of(error)
    other = error.as_type(NotRetried, text="another sentence")
    assert str(other) == "another sentence"
    assert fields_of(other) == {**fields_of(error), "text": "another sentence"}


def fields_of(error: Any) -> Any:
    """Return an error's fields, those of errors inside it as well, in a form that can be compared."""
    if isinstance(error, dict):
        return {name: fields_of(value) for name, value in error.items()}
    if isinstance(error, LroError):
        return {**{name: fields_of(value) for name, value in vars(error).items()}, "text": str(error)}
    return error
