"""Checks of single values, and how values and texts that come from elsewhere are shown."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_SECONDS = 1e9
"""31 years: what keeps the arithmetic inside the floats."""
MIN_INTERVAL = 0.1
"""Seconds. Below it a wait would be a denial of service, and the answer would still travel longer than that."""
MAX_LINE = 400
"""Characters of a line."""
MAX_FIELD = 100
"""Characters of a field's name in a warning."""
MAX_JSON_DEPTH = 200
"""Of dicts and lists in each other: 100 messages, each in a list, as deep as protobuf parses. Anys may hide more, and
what serializes an XCom goes no deeper than Python recurses."""
MIN_SECRET = 6
"""Characters of a secret that is hidden; Airflow's masker leaves out shorter ones, too."""
MAX_NAME = 4096
"""Characters of a resource's name: as JSON, with at most twelve bytes each, it fits into an event."""
MAX_SAID = 2000
"""Characters of a service's message in the text of an error; its ``message`` has all of them."""

_GRPC_TARGET = re.compile(r"(dns|unix|unix-abstract|vsock|ipv4|ipv6|xds|google-c2p)(-[a-z0-9-]+)?:", re.IGNORECASE)
_HEADER_KEY = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_SECRET_HEADER = re.compile("authorization|api-?key|cookie|token|secret|password|jwt|assertion")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_AIRFLOWS_KEYS = frozenset({"__classname__", "__id__", "__type", "__var"})
"""Keys by which Airflow knows its own objects in JSON: it refuses a mapping with one, or makes such an object of it."""
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

log = logging.getLogger(__name__)

Rule: TypeAlias = "tuple[str, Callable[[Any], bool], str]"
"""An argument's name, its check and, in words, what it must be."""


def check_rules(values: object, rules: Iterable[Rule]) -> None:
    """Raise ValueError for the first attribute that breaks its rule: its value, and what it must be."""
    for name, is_right, expected in rules:
        value = getattr(values, name)
        if not is_right(value):
            raise ValueError(f"{name}={value!r}, but it must be {expected}")


def between(least: float, most: float = MAX_SECONDS) -> Callable[[Any], bool]:
    """Return the check of a number in a range."""
    return lambda value: is_number(value, least=least, most=most)


def or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that lets None pass, too."""
    return lambda value: value is None or is_right(value)


def one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    """Return the check of a choice, and the choices in words."""
    return lambda value: value in choices, f"one of {', '.join(map(repr, choices))}"


def is_number(value: object, *, least: float = -MAX_SECONDS, most: float = MAX_SECONDS) -> bool:
    """Return True for a number in a range; NaN, True and False are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def is_whole(value: object, *, least: int = 0, most: float = math.inf) -> bool:
    """Return True for a whole number in a range; True and False are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_text(value: object) -> TypeGuard[str]:
    """Return True for text that can be sent: UTF-8 has no lone surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_positive(value: object) -> bool:
    """Return True for a number above 0."""
    return is_number(value, least=0) and value != 0


def is_filled(value: object) -> bool:
    """Return True for a text that is not blank."""
    return is_text(value) and bool(value.strip())


def is_flag(value: object) -> bool:
    """Return True for True and False."""
    return isinstance(value, bool)


def check_name(
    name: object, *, what: str = "operation_name", example: str = "projects/p/locations/l/operations/o"
) -> str:
    """Return a resource's name; raise ValueError for a value that cannot be one."""
    if not is_filled(name):
        raise ValueError(f"{what}={name!r}, but it must be a non-empty text in UTF-8, such as {example!r}")
    text = str(name)
    if len(text) > MAX_NAME:
        raise ValueError(
            f"{what}={text[:80] + '…'!r} has {len(text):,} characters, but it must have at most {MAX_NAME:,}"
        )
    return text


def is_name(name: str) -> bool:
    """Return True if a name that a service lists can be used: it is neither blank nor too long."""
    return bool(name.strip()) and len(name) <= MAX_NAME


def check_flag(value: bool, *, what: str) -> bool:  # noqa: FBT001
    """Return True or False; raise ValueError for all else: a None that was meant for a dry run would delete."""
    if not is_flag(value):
        raise ValueError(f"{what}={value!r}, but it must be True or False")
    return value


def check_choice(value: str, choices: tuple[str, ...], *, what: str) -> str:
    """Return one of some texts; raise ValueError for all else."""
    if value not in choices:
        raise ValueError(f"{what}={value!r}, but it must be one of {', '.join(map(repr, choices))}")
    return value


def check_not_url(value: object, *, what: str) -> None:
    """Raise ValueError for a URL where a host must be; a template is checked when it is rendered."""
    if isinstance(value, str) and value.strip().lower().startswith(("https://", "http://")) and "{" not in value:
        raise ValueError(
            f"{what}={without_user(value)!r}, but it must be a host or host:port, such as 'redis.googleapis.com': leave"
            " out the scheme and the path"
        )


def check_wait_timeout(value: object) -> None:
    """Raise ValueError for a ``wait_timeout`` that is neither None nor a number of seconds."""
    if value is not None and not is_number(value, least=0):
        raise ValueError(f"wait_timeout={value!r}, but it must be None or a number of seconds of at least 0")


def check_page_size(value: object) -> None:
    """Raise ValueError for a ``page_size`` that is a wrong number; a template is checked when it is rendered."""
    if isinstance(value, int | float) and not is_whole(value, least=1, most=2**31 - 1):
        raise ValueError(f"page_size={value!r}, but it must be None or a whole number from 1 to 2147483647")


def check_headers(headers: Iterable[tuple[str, str | bytes]], *, what: str = "metadata") -> None:
    """Raise ValueError where a header of the caller's own cannot be sent."""
    for key, value in headers:
        binary = key.endswith("-bin")
        sendable = isinstance(value, bytes) if binary else is_header_value(value)
        if not _HEADER_KEY.fullmatch(key) or not sendable:
            raise ValueError(
                f"{what}: the header {key!r} cannot be sent; expected a lower-case name, and printable ASCII text"
                " (bytes for a name that ends in '-bin')"
            )


def is_header_value(value: object) -> TypeGuard[str]:
    """Return True for a text that a header can carry."""
    return isinstance(value, str) and _HEADER_VALUE.fullmatch(value) is not None


def is_secret_header(key: str) -> bool:
    """Return True for a header that may carry a secret."""
    return _SECRET_HEADER.search(key) is not None


def secret_texts(headers: Iterable[tuple[str, str | bytes]]) -> Iterator[str]:
    """Yield the secrets in headers: whole values, and what follows a word such as ``Bearer``."""
    for name, value in headers:
        if is_secret_header(name) and isinstance(value, str):
            yield from (text for text in (value, value.partition(" ")[2]) if len(text) >= MIN_SECRET)


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return a text without secrets that it may quote."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def hide_in_bytes(content: bytes, secrets: Iterable[str]) -> bytes:
    """Return an answer without secrets that it may quote; each keeps its length, or the answer could not be parsed."""
    for secret in secrets:
        content = content.replace(secret.encode(), b"*" * len(secret))
    return content


def read_headers(value: object, *, where: str = "") -> dict[str, str]:
    """Return headers from a mapping, or its JSON; raise ValueError, which shows no value: one may be a secret."""
    try:
        content = json.loads(value) if isinstance(value, str) and value else value or {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, Mapping) or not all(isinstance(text, str) for each in content.items() for text in each):
        example = '{"x-goog-request-params": "location=us-central1"}'
        raise ValueError(f"headers=…{where}, but it must be a JSON object of texts such as {example}")
    check_headers(content.items(), what=f"headers{where}")
    return dict(content)


def read_task_headers(value: object) -> dict[str, str]:
    """Return the headers of a task, as ``read_headers`` does; raise ValueError for a secret one, too."""
    headers = read_headers(value)
    for key in headers:
        if is_secret_header(key):
            raise ValueError(
                f"headers: {key!r} may hold a secret, and the arguments of a task are stored in plain text: put it into"
                " headers in the connection's extra"
            )
    return headers


def is_grpc_target(endpoint: str) -> bool:
    """Return True for an endpoint that names a resolver of gRPC: ``unix:…``, ``xds:///…``."""
    return _GRPC_TARGET.match(endpoint) is not None


def without_user(text: str) -> str:
    """Return a wrong address as it may be shown: without a user and a password that stand before its host."""
    before, at, host = text.rpartition("@")
    return f"{'…@' if before else at}{host}"


def storable(text: str, *, what: str = "") -> str:
    """Return a text that every database takes: PostgreSQL refuses U+0000, and UTF-8 has no half of a surrogate pair.

    U+FFFD stands for each then, and a warning says so; ``what`` the text is, for it: without it there is none.
    """
    if not _UNSTORABLE.search(text):
        return text
    if what:
        _warn_of_unstorable(what)
    # A million of them one by one take long, and nearly all are of one kind.
    return _UNSTORABLE.sub("\ufffd", text.replace("\0", "\ufffd"))


def storable_json(value: Any, hidden: Mapping[str, Any] | None = None) -> Any:
    """Return JSON, as plain dicts and lists, of which every text can be stored; a warning names the first that was not.

    A number that JSON does not have becomes a text, as in ProtoJSON; a key that Airflow keeps for itself gets one more
    underscore. ``hidden``: what takes the place of a mapping, by the text that it has as its ``value``.

    Raises:
        RecursionError: it is deeper than ``MAX_JSON_DEPTH``.
    """
    mended: list[str] = []

    def text(said: str, where: str) -> str:
        if (stored := storable(said)) != said:
            mended.append(where)
        return stored

    def rebuild(value: Any, where: str, depth: int) -> Any:
        if depth > MAX_JSON_DEPTH:
            raise RecursionError("too deep for JSON")
        if isinstance(value, str):
            return text(value, where)
        if isinstance(value, dict):
            inner = value.get("value")
            if hidden and isinstance(inner, str) and inner in hidden:
                return hidden[inner]
            return {text(_own_key(key), where): rebuild(item, key, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [rebuild(item, where, depth + 1) for item in value]
        # A text of proto2 that is not UTF-8 comes as bytes from protobuf 4.
        return value.decode(errors="replace") if isinstance(value, bytes) else as_finite(value)

    rebuilt = rebuild(value, "", 0)
    if mended:
        _warn_of_unstorable(f"a message's field {one_line(mended[0], MAX_FIELD)!r} (of {len(mended)} texts)")
    return rebuilt


def _own_key(key: str) -> str:
    if key not in _AIRFLOWS_KEYS:
        return key
    log.warning("a message's field %r has a name that Airflow keeps for itself: an underscore is put before it", key)
    return f"_{key}"


def as_finite(value: Any) -> Any:
    """Return a value as it is; a number that JSON does not have as the text that ProtoJSON has for it."""
    return _NOT_FINITE[str(value)] if isinstance(value, float) and not math.isfinite(value) else value


def _warn_of_unstorable(what: str) -> None:
    log.warning("%s has U+0000 or half of a surrogate pair in it, which no database takes: it becomes U+FFFD", what)


def in_words(seconds: float) -> str:
    """Return a duration as it is said: ``8 s``, ``5 min 12 s``, ``7 d``; no more than its two largest units."""
    whole = round(seconds)
    if seconds < 1:
        return f"{max(0.0, seconds):.1g} s"
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(index for index, (number, _) in enumerate(units) if number)
    return " ".join(f"{number} {unit}" for number, unit in units[first : first + 2] if number)


def one_line(text: str, longest: int = MAX_LINE) -> str:
    """Return a text fit for a log: one line, printable (no control or direction characters), of bounded length."""
    text = text[: 4 * longest]  # the rest cannot be seen, however much of this is space
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
