"""Where an operation came from: the endpoint of the client that has started it, where that is certain.

A token will be sent there, so nothing is guessed: only objects whose making is known are looked into, and their
attributes are read, nothing in them is called. Of a gRPC channel that is the target as it was given; to ask the channel
itself (``target()``) takes the process down when it is closed, as it is after ``with Client() as client: return …``.

Floor 1: imports nothing that talks; what an object holds is loaded already.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from typing import Any

from airflow_provider_lro.operation import Operation

__all__ = ["endpoint_of"]

_HOST = re.compile(r"(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_SCHEME = re.compile(r"(dns|unix|unix-abstract|vsock|ipv4|ipv6|xds|google-c2p)(-[a-z0-9-]+)?:")


def endpoint_of(started: Any) -> str | None:
    """Return the ``host:port`` that an operation's own client talks to; None where nothing tells for certain.

    Args:
        started: google-api-core's ``Operation``, made by a client over gRPC or REST; or this provider's.
    """
    if isinstance(started, Operation):
        return _of_target(getattr(getattr(started._client, "config", None), "target", None))  # noqa: SLF001
    api_core = sys.modules.get("google.api_core.operation")
    refresh = getattr(started, "_refresh", None)
    if api_core is None or not isinstance(started, api_core.Operation) or not isinstance(refresh, functools.partial):
        return None
    if refresh.func is getattr(api_core, "_refresh_grpc", None):
        return _of_stub(refresh.args[0] if refresh.args else None)
    client = getattr(refresh.func, "__self__", None)
    if not type(client).__module__.startswith("google.api_core.operations_v1."):
        return None
    stub = getattr(client, "operations_stub", None)
    return _of_stub(stub) if stub is not None else _of_url(getattr(getattr(client, "_transport", None), "_host", None))


def _of_stub(stub: Any) -> str | None:
    """Return the endpoint of gRPC's generated stub, whose callables know their channel."""
    method: Any = getattr(stub, "GetOperation", None)
    if not type(method).__module__.startswith("grpc."):
        return None
    target = getattr(method, "_target", None)
    if isinstance(target, bytes):
        return _of_target(target.decode())
    # An intercepted one knows how to make the next, out of the channel below.
    thunk = getattr(method, "_thunk", None)
    channel: Any = inspect.getclosurevars(thunk).nonlocals.get("self") if inspect.isfunction(thunk) else None
    while type(channel).__module__.startswith("grpc."):
        target = getattr(channel, "_target", None)
        if target is not None:
            return _of_target(target)
        channel = getattr(channel, "_channel", None)
    return None


def _of_url(host: Any) -> str | None:
    """Return the endpoint of a REST transport; one without TLS is no service that answers gRPC next to it."""
    return _of_target(host.removeprefix("https://").removesuffix("/")) if isinstance(host, str) else None


def _of_target(target: Any) -> str | None:
    """Return the endpoint in a gRPC target; only a host is one that another machine can reach, too."""
    text = target.removeprefix("dns:///") if isinstance(target, str) else ""
    found = None if _SCHEME.match(text) else _HOST.fullmatch(text)
    return f"{found['host']}:{found['port'] or 443}" if found else None
