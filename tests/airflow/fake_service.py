"""A service with any number of operations, whatever they are called: what the simulator is too good for."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import empty_pb2, struct_pb2, timestamp_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARENT = "projects/p"


class FakeService(grpc.GenericRpcHandler):
    """A service with any number of operations; it measures how many calls are on their way."""

    def __init__(self) -> None:
        self.operations: dict[str, pb.Operation] = {}
        self.faults: dict[tuple[str, str], tuple[grpc.StatusCode, str]] = {}
        """What a method answers for a name instead, "" for all names."""
        self.before: Callable[[str, str], None] = lambda method, name: None
        self.calls: list[tuple[str, str]] = []
        self.requests: list[Any] = []
        self.unreachable: list[str] = []
        self.lists_results = True
        """Whether a listing tells of an operation all that a GetOperation does."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.port = 0

    def add(self, name: str, *, age: float | None = None, ended: float | None = None, error: int | None = None) -> str:
        """Add an operation that was created, and perhaps has ended, so many seconds ago."""
        full = f"{PARENT}/operations/{name}"
        operation = self.operations[full] = pb.Operation(name=full, done=ended is not None)
        if error is not None:
            operation.error.code = error
        metadata = struct_pb2.Struct()
        for key, seconds in (("create_time", age), ("end_time", ended)):
            if seconds is not None:
                stamp = timestamp_pb2.Timestamp()
                stamp.FromNanoseconds(int((time.time() - seconds) * 1e9))
                metadata[key] = stamp.ToJsonString()
        operation.metadata.Pack(metadata)
        return full

    def acted(self, method: str) -> list[str]:
        return [name for called, name in self.calls if called == method]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method.rpartition("/")[2]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.calls.append((method, request.name))
                self.requests.append(request)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                self.before(method, request.name)
                fault = self.faults.get((method, request.name)) or self.faults.get((method, ""))
                if fault:
                    context.abort(*fault)
                return getattr(self, method)(request, context)
            finally:
                with self._lock:
                    self._at_once -= 1

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=getattr(pb, f"{method}Request").FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    def GetOperation(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        if request.name not in self.operations:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return self.operations[request.name]

    def WaitOperation(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        """Answer at once, as some services do."""
        return self.GetOperation(request, context)

    def ListOperations(self, request: Any, context: grpc.ServicerContext) -> pb.ListOperationsResponse:
        size = request.page_size or 300
        names = [name for name in self.operations if name.startswith(f"{request.name}/")]
        start = int(request.page_token or 0)
        operations = [self.operations[name] for name in names[start : start + size]]
        if not self.lists_results:
            operations = [pb.Operation(name=each.name, done=each.done, metadata=each.metadata) for each in operations]
        page = pb.ListOperationsResponse(operations=operations)
        page.next_page_token = str(start + size) if start + size < len(names) else ""
        if getattr(request, "return_partial_success", False):
            page.unreachable.extend(self.unreachable)
        return page

    def CancelOperation(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def DeleteOperation(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if self.operations.pop(request.name, None) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return empty_pb2.Empty()


@contextmanager
def serving(service: FakeService) -> Iterator[None]:
    with ThreadPoolExecutor(64) as threads:
        server = grpc.server(threads, handlers=[service], options=[("grpc.so_reuseport", 0)])
        service.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield
        server.stop(None).wait()
