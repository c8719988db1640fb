"""Modules of message types that no process knows before it imports them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import any_pb2

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BODY = """
import proto

__protobuf__ = proto.module(package={package!r}, manifest={{"Lake", "Metadata"}})


class Lake(proto.Message):
    name = proto.Field(proto.STRING, number=1)


class Metadata(proto.Message):
    verb = proto.Field(proto.STRING, number=1)
"""


@dataclass(frozen=True)
class LateModule:
    """A module on the path, with the types ``Lake`` and ``Metadata``."""

    module: str
    package: str

    @property
    def lake(self) -> str:
        """The full name of its response."""
        return f"{self.package}.Lake"

    def response(self, name: str) -> any_pb2.Any:
        """Return a Lake, without knowing what that is."""
        return self._any("Lake", name)

    def metadata(self, verb: str) -> any_pb2.Any:
        """Return a Metadata, likewise."""
        return self._any("Metadata", verb)

    def _any(self, kind: str, text: str) -> any_pb2.Any:
        payload = text.encode()
        url = f"type.googleapis.com/{self.package}.{kind}"
        return any_pb2.Any(type_url=url, value=b"\x0a" + bytes([len(payload)]) + payload)


def late_module(directory: Path, monkeypatch: pytest.MonkeyPatch, *, body: str = BODY) -> LateModule:
    """Write a module that no other test has, and put it on the path."""
    unique = f"late_{uuid.uuid4().hex}"
    (directory / f"{unique}.py").write_text(body.format(package=f"lro_tests.{unique}") if body is BODY else body)
    monkeypatch.syspath_prepend(directory)
    return LateModule(module=unique, package=f"lro_tests.{unique}")
