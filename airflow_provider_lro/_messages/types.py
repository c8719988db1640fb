"""Types of protobuf and proto-plus messages by class, import path or full name, and the modules that bring them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from airflow_provider_lro._core.names import module_names, type_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_ALWAYS_KNOWN = (  # imported so that the descriptor pool has them: what services wrap most
    any_pb2,
    code_pb2,
    duration_pb2,
    empty_pb2,
    error_details_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    """A type of messages: its full name, how its bytes are read, how an empty one is made."""

    full_name: str
    parse: Callable[[bytes], Any]
    empty: Callable[[], Any]


def message_type(value: Any, *, what: str = "response_type") -> MessageType | None:
    """Return the type that a user means by a protobuf or proto-plus class, its import path or its full name.

    An import path (``package.module.Class``, ``module:Class``) is imported. None for None.

    Raises:
        ValueError: the type is not known here. ``what``: the argument's name.
    """
    if value is None or isinstance(value, MessageType):
        return value
    if isinstance(value, type):
        return _of_class(value, what=what)
    text = type_name(value, what=what) or ""
    known = None if ":" in text else _of_full_name(text)
    return known or _of_class(_imported(text, what=what), what=f"{what}={text!r}")


def load(*, response_type: Any = None, metadata_type: Any = None, type_modules: Any = ()) -> None:
    """Import the modules of the types, so that an ``Any`` of them can be unpacked.

    Raises:
        ValueError: a module cannot be imported, or a type is not in it.
    """
    for module in module_names(type_modules):
        try:
            _import(module)
        except ImportError as error:
            raise ValueError(f"type_modules: {module!r} cannot be imported: {error}; {_ADVICE}") from error
    message_type(response_type, what="response_type")
    message_type(metadata_type, what="metadata_type")


_ADVICE = "install its package on this machine, or correct the name"


def _of_class(kind: Any, *, what: str) -> MessageType:
    try:
        own = _protobuf_class(kind)
    except (Exception, SystemExit) as error:  # a foreign class does whatever it likes
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} is not a protobuf or proto-plus message class that can be used: {why}") from error
    if own is None:
        raise ValueError(f"{what} is {kind!r}, but it must be a protobuf or proto-plus message class")
    read = own.FromString
    parse = read if own is kind else lambda payload: kind.wrap(read(payload))
    return MessageType(full_name=own.DESCRIPTOR.full_name, parse=parse, empty=kind)


def _protobuf_class(kind: Any) -> type[Message] | None:
    """Return a protobuf class as it is, that of a proto-plus class, and None of anything else."""
    own = kind
    if not _is_message(kind):
        try:
            own = kind.pb()
        except (AttributeError, TypeError):
            return None
    return own if _is_message(own) and own.DESCRIPTOR is not None else None


def _is_message(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message)


def _of_full_name(name: str) -> MessageType | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return None
    return _of_class(message_factory.GetMessageClass(descriptor), what=name)


def _imported(text: str, *, what: str) -> Any:
    """Import ``module:Class``, or ``package.module.Class`` by the longest part of it that is a module."""
    module, colon, path = text.partition(":")
    parts = text.split(".")
    tries = (
        [(module, path)] if colon else [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts))[:0:-1]]
    )
    why = ""
    for module, path in tries:
        try:
            found: Any = _import(module)
        except ImportError as error:
            if not _is_missing(module, error):
                why = str(error)
                break
            why = why or str(error)
            continue
        for part in path.split("."):
            try:
                found, why = getattr(found, part), ""
            except AttributeError:
                # A name that is missing in a package was meant as a module of it, whose import has failed before.
                why = why or f"{getattr(found, '__name__', found)!r} has no {part!r}"
                break
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a module's __getattr__ runs whatever it likes)
                why = f"{type(error).__name__}: {error}"
                break
        else:
            return found
        break
    raise ValueError(
        f"{what}={text!r} is not a type that is known here: no message has this full name (is the module that"
        f" brings it in type_modules?), and as an import path it fails: {why or 'it is one word'}; {_ADVICE}"
    )


def _is_missing(module: str, error: ImportError) -> bool:
    """Return True if a module is simply not there, unlike one that is and fails."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def _import(module: str) -> ModuleType:
    """Import a module; whatever it raises becomes an ImportError."""
    try:
        return import_module(module)
    except ImportError:
        raise
    except (Exception, SystemExit) as error:  # a module runs whatever it likes
        raise ImportError(f"{type(error).__name__}: {error}") from error
