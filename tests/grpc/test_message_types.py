"""Message types by class, import path and full name, and what an operation makes of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import proto
import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message

from airflow_provider_lro import triggers
from airflow_provider_lro._core.names import module_names, type_name
from airflow_provider_lro._messages.encoding import response_to_json
from airflow_provider_lro._messages.types import load, message_type
from airflow_provider_lro.exceptions import PayloadTypeError
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.late_types import late_module
from tests.plus import Lake, Metadata, Pond, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.grpc.conftest import Client, FakeServer, Shell

NESTED = "google.protobuf.DescriptorProto.ReservedRange"
STRUCT = "google.protobuf.Struct"
LAKE = Lake(name="lakes/erie", state=State.RUNNING)
"""The response of the fake server's operations."""


def operation(name: str = "operations/o") -> pb.Operation:
    done = pb.Operation(name=name, done=True)
    done.response.Pack(Lake.pb(LAKE))
    done.metadata.Pack(Metadata.pb(Metadata(verb="fill")))
    return done


@pytest.fixture
def server(serve: Callable[..., FakeServer]) -> FakeServer:
    return serve(GetOperation=lambda request, context: operation(request.name))


# ── what a type is named by ──


@pytest.mark.parametrize(
    ("value", "full_name"),
    [
        (struct_pb2.Struct, STRUCT),
        (STRUCT, STRUCT),
        (f" {STRUCT}\n", STRUCT),
        ("google.protobuf.struct_pb2.Struct", STRUCT),
        ("google.protobuf.struct_pb2:Struct", STRUCT),
        ("google.protobuf.descriptor_pb2.DescriptorProto.ReservedRange", NESTED),
        (Lake, "lro_tests.plus.Lake"),
        ("tests.plus.Lake", "lro_tests.plus.Lake"),
        ("tests.plus:Lake", "lro_tests.plus.Lake"),
        ("lro_tests.plus.Lake", "lro_tests.plus.Lake"),
    ],
)
def test_type_is_found(value: Any, full_name: str) -> None:
    """By class, by import path in both spellings, by full name; what is found is found again."""
    found = message_type(value)
    assert found is not None
    assert found.full_name == full_name
    assert message_type(found) is found
    assert message_type(type_name(value, what="response_type")).full_name == full_name  # type: ignore[union-attr]


def test_common_types_are_known_in_a_fresh_process() -> None:
    """A worker looks its types up before it has loaded anything else."""
    names = ["Any", "Duration", "Empty", "FieldMask", "Int64Value", "Struct", "Timestamp"]
    program = f"""
from airflow_provider_lro._messages.types import load
for name in {names}:
    load(response_type="google.protobuf." + name)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=50)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("google.cloud.nowhere_v1.types.Lake", r"'google\.cloud\.nowhere_v1\.types\.Lake'.*No module named 'google"),
        ("google.protobuf.struct_pb2.Nothing", r"struct_pb2.* has no 'Nothing'"),
        ("google.protobuf.struct_pb2:Nothing", r"struct_pb2.* has no 'Nothing'"),
        ("no_such_package:Lake", "No module named 'no_such_package'"),
        ("lro_tests.plus.Ocean", "no message has this full name.*type_modules"),
        ("Lake", "one word"),
        (":", "Empty module name"),
        ("a:", "No module named 'a'"),
        (".a.b", "relative import"),
        ("os.path.join", "is <function .*, but it must be a protobuf or proto-plus message class"),
        ("os.path", "is <module .*message class"),
        (int, "is <class 'int'>, but it must be .*message class"),
        (Message, "message class"),
        (proto.Message, "message class"),
        ("", "='', but it must be a message class"),
        (5, "=5, but it must be a message class"),
        ("\ud800", r"='\\ud800', but it must be a message class"),
        (LAKE, "must be a message class"),
    ],
)
def test_a_value_that_is_not_a_type_is_refused(value: Any, says: str) -> None:
    """The error names the argument and the value, tells what was tried, and what to do."""
    with pytest.raises(ValueError, match=f"(?s)response_type.*{says}"):
        message_type(value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("given", ["metadata_type={}.Lake", "response_type={}:Lake", "type_modules={}"])
def test_module_that_fails_says_how(
    body: str, says: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error that a module raises is told, not that there is none; nothing else gets out, not even a SystemExit."""
    late = late_module(tmp_path, monkeypatch, body=body)
    argument, _, value = given.format(late.module).partition("=")
    with pytest.raises(ValueError, match=f"{argument}.*{says}"):
        load(**{argument: value})


ODD = """
class Odd:
    def pb():
        raise RuntimeError("no licence")


class Meta(type):
    def __repr__(cls):
        raise KeyError("no name")


class Nameless(metaclass=Meta):
    pass


def __getattr__(name):
    raise RuntimeError("no licence")
"""


@pytest.mark.parametrize("path", ["{}:Odd", "{}.Odd", "{}:Lake", "{}.Lake"])
def test_what_a_foreign_module_raises_is_the_reason(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attributes and its classes run what they like, as it does itself."""
    late = late_module(tmp_path, monkeypatch, body=ODD)
    with pytest.raises(ValueError, match=r"metadata_type.*RuntimeError: no licence"):
        load(metadata_type=path.format(late.module))


def test_modules_make_a_full_name_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type is found by its full name once the module that brings it is imported."""
    late = late_module(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="type_modules"):
        load(response_type=late.lake)
    load(response_type=late.lake, type_modules=["json", late.module])
    assert late.module in sys.modules


@pytest.mark.parametrize(
    ("value", "modules"),
    [((), ()), (None, ()), ("", ()), ("a.b", ("a.b",)), ("a.b, c ,", ("a.b", "c")), (["a.b", " c"], ("a.b", "c"))],
)
def test_modules_are_a_text_or_a_sequence(value: Any, modules: tuple[str, ...]) -> None:
    """One, several with commas between, a list; joined, which is how they cross, they are the same."""
    assert module_names(value) == modules
    assert module_names(",".join(modules)) == modules


@pytest.mark.parametrize("value", [5, [5], {"a"}, [None]])
def test_a_value_that_is_not_modules_is_refused(value: Any) -> None:
    """The error says what would do."""
    with pytest.raises(ValueError, match=r"type_modules=.*, but it must be module paths"):
        module_names(value)


# ── in a triggerer ──


@pytest.fixture
def wait(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that waits in a triggerer, with these types."""
    monkeypatch.setenv("AIRFLOW_CONN_TYPES", json.dumps({"conn_type": "lro", "extra": {"insecure": True}}))

    async def run(**types: str) -> str:
        trigger = LongRunningOperationTrigger(
            operation_name="operations/o", lro_conn_id="types", endpoint=server.endpoint, **types
        )
        (event,) = [event async for event in trigger.run()]
        outcomes: str = event.payload["outcomes"]
        return outcomes

    return run


async def test_no_surprise_gets_into_a_wait(
    wait: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else goes wrong with the types is logged, once, and where it came from."""
    late = late_module(tmp_path, monkeypatch, body=ODD)
    for _ in range(2):
        assert await wait(metadata_type=f"{late.module}:Nameless") == "S"
    (record,) = [record for record in caplog.records if record.name == triggers.__name__]
    assert record.exc_info is not None


async def test_modules_are_imported_once_for_all_waits(
    wait: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many waits that ask for the same share one import; that it failed is logged once, and ends no wait."""
    late = late_module(tmp_path, monkeypatch, body="import builtins; builtins.lro_imports.append(1); raise KeyError")
    imports: list[int] = []
    monkeypatch.setattr("builtins.lro_imports", imports, raising=False)
    assert await asyncio.gather(*(wait(type_modules=late.module) for _ in range(100))) == ["S"] * 100
    assert await wait(type_modules=late.module) == "S"
    assert imports == [1]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (warning,) = (text for text in warnings if "types are not known" in text)
    assert late.module in warning
    assert await wait(metadata_type="tests.plus:Metadata", type_modules="json") == "S"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == warnings


async def test_wait_does_not_hang_on_an_import(
    wait: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that takes for ever to import is done without; the event loop goes on meanwhile."""
    late = late_module(tmp_path, monkeypatch, body="import builtins; builtins.lro_gate.wait(20)")
    gate = threading.Event()
    monkeypatch.setattr("builtins.lro_gate", gate, raising=False)
    monkeypatch.setattr(triggers, "IMPORT_TIMEOUT", 0.05)
    try:
        assert await wait(type_modules=late.module) == "S"
    finally:
        gate.set()
    monkeypatch.setattr(triggers, "IMPORT_TIMEOUT", 20)
    assert await wait(type_modules=late.module) == "S"
    assert late.module in sys.modules


# ── of an operation ──


@pytest.mark.parametrize("kind", [Lake, "tests.plus.Lake", "tests.plus:Lake"])
async def test_proto_plus_response(server: FakeServer, shell: Shell, kind: Any) -> None:
    """A caller who asks for a proto-plus class gets an instance of it, from poll and from wait."""
    async with shell.connect(server.endpoint, insecure=True) as client:
        polled = shell.operation_type.from_name(client, "operations/o")
        assert await shell.do(polled.poll(kind)) == LAKE
        assert isinstance(await shell.do(polled.poll(kind)), Lake)
        waited = shell.operation_type.from_name(client, "operations/o")
        assert isinstance(await shell.do(waited.wait(kind)), Lake)
        metadata = polled.metadata("tests.plus:Metadata")
        assert isinstance(metadata, Metadata)
        assert metadata.verb == "fill"


async def test_full_name_gives_a_protobuf_message(server: FakeServer, shell: Shell) -> None:
    """The full name says nothing of proto-plus."""
    async with shell.connect(server.endpoint, insecure=True) as client:
        polled = shell.operation_type.from_name(client, "operations/o")
        assert await shell.do(polled.poll("lro_tests.plus.Lake")) == Lake.pb(LAKE)


async def test_wrong_type_names_both(server: FakeServer, shell: Shell) -> None:
    """A response or metadata of another type is an error with both names; the operation is done all the same."""
    async with shell.connect(server.endpoint, insecure=True) as client:
        polled = shell.operation_type.from_name(client, "operations/o")
        with pytest.raises(PayloadTypeError, match=r"is a 'lro_tests\.plus\.Lake', but 'lro_tests\.plus\.Pond'"):
            await shell.do(polled.poll(Pond))
        assert polled.done
        with pytest.raises(PayloadTypeError, match=r"'lro_tests\.plus\.Metadata', but 'lro_tests\.plus\.Pond'"):
            polled.metadata("tests.plus.Pond")


async def test_type_that_does_not_exist_is_known_before_a_call(server: FakeServer, shell: Shell) -> None:
    """Nothing is sent for a type that cannot be found."""
    async with shell.connect(server.endpoint, insecure=True) as client:
        polled = shell.operation_type.from_name(client, "operations/o")
        for method in (polled.poll, polled.wait):
            with pytest.raises(ValueError, match="No module named 'nowhere'"):
                await shell.do(method("nowhere:Lake"))
    assert server.calls == []


async def test_no_response_is_an_empty_one_of_the_type(client: Client) -> None:
    """A proto-plus class too has its empty message."""
    found = await client.do(client.operation(duration=0, outcome="neither").poll("tests.plus.Lake"))
    assert isinstance(found, Lake)
    assert found == Lake()


def test_proto_plus_as_json() -> None:
    """A proto-plus message is said as its protobuf message is, enum names and all."""
    assert response_to_json(LAKE) == response_to_json(Lake.pb(LAKE)) == {"name": "lakes/erie", "state": "RUNNING"}
    assert response_to_json(any_pb2.Any(type_url="a/b", value=b"c")) == {"@type": "a/b", "value": "Yw=="}
