"""The protos a simulated operation carries: metadata, response, error and its details."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from google.longrunning import operations_proto_pb2 as operations_pb2
from google.protobuf import any_pb2, empty_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2

from airflow_provider_lro.simulator.behaviour import CANCELLED

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from airflow_provider_lro.simulator.behaviour import CallError, Snapshot
    from airflow_provider_lro.simulator.script import Script, Simulation

# A package that exists nowhere, so no descriptor pool can know it.
_UNKNOWN: Final = "type.googleapis.com/simulations.unknown.v1."


def _unknown(message: str) -> any_pb2.Any:
    # Field 1, text "opaque": well formed, as a newer service's message would be.
    return any_pb2.Any(type_url=_UNKNOWN + message, value=b"\x0a\x06opaque")


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _timestamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, tz=UTC).isoformat().replace("+00:00", "Z")


def _details() -> dict[str, any_pb2.Any]:
    d = error_details_pb2
    retry = d.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    messages: list[Message] = [
        d.ErrorInfo(
            reason="RATE_LIMIT_EXCEEDED",
            domain="simulations.googleapis.com",
            metadata={"service": "simulations.googleapis.com", "consumer": "projects/123456"},
        ),
        retry,
        d.BadRequest(
            field_violations=[d.BadRequest.FieldViolation(field="input.uri", description="The bucket does not exist.")]
        ),
        d.Help(links=[d.Help.Link(description="How to fix this", url="https://example.com/simulations/help")]),
        d.LocalizedMessage(locale="de-CH", message="Das Kontingent ist erschöpft."),
        d.QuotaFailure(
            violations=[
                d.QuotaFailure.Violation(subject="project:123456", description="CPUs per region: 24 of 24 are in use.")
            ]
        ),
        d.PreconditionFailure(
            violations=[
                d.PreconditionFailure.Violation(
                    type="TOS", subject="simulations.googleapis.com", description="Terms of service not accepted."
                )
            ]
        ),
        d.DebugInfo(stack_entries=["worker.cc:42", "queue.cc:7"], detail="The worker lost its lease."),
        d.RequestInfo(request_id="4f1c2d9e-0b5a", serving_data="eJxLSg"),
        d.ResourceInfo(
            resource_type="storage.bucket",
            resource_name="projects/_/buckets/inputs",
            owner="project:123456",
            description="The bucket was not found.",
        ),
    ]
    return {message.DESCRIPTOR.name: _pack(message) for message in messages} | {"Unknown": _unknown("ErrorDetail")}


DETAIL_MESSAGES: Final = _details()


def _response(simulation: Simulation) -> any_pb2.Any:
    kind = simulation.script.response_type
    if kind == "empty":
        return _pack(empty_pb2.Empty())
    if kind == "unknown":
        return _unknown("Response")
    if kind == "nested_unknown":
        return _pack(status_pb2.Status(code=0, message="nested", details=[_unknown("Nested")]))
    if kind == "malformed":
        # A length-delimited field 1 that promises more bytes than there are.
        return any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\x0a\x7fbroken")
    text = simulation.script.response
    struct = struct_pb2.Struct()
    struct.update({"id": simulation.id} if text is None else json.loads(text))
    if simulation.script.response_bytes:
        struct["padding"] = "x" * max(0, simulation.script.response_bytes - struct.ByteSize())
    return _pack(struct)


def _error(script: Script, seen: Snapshot) -> status_pb2.Status:
    return status_pb2.Status(
        code=CANCELLED if seen.outcome == "cancelled" else script.code,
        message="Cancelled by request." if seen.by_request and not script.message else script.message,
        details=[DETAIL_MESSAGES[name] for name in script.details],
    )


def _metadata(seen: Snapshot) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    values = struct.fields
    values["verb"].string_value = "simulate"
    values["create_time"].string_value = _timestamp(seen.started_at)
    values["progress_percent"].number_value = seen.progress
    values["requested_cancellation"].bool_value = seen.requested_cancellation
    if seen.done and seen.ends_at is not None:
        values["end_time"].string_value = _timestamp(seen.ends_at)
    return struct


def operation(simulation: Simulation, seen: Snapshot) -> operations_pb2.Operation:
    """Build the operation a client is given."""
    script = simulation.script
    proto = operations_pb2.Operation(name=simulation.name, done=seen.done)
    if script.metadata == "struct":
        proto.metadata.Pack(_metadata(seen))
    elif script.metadata == "unknown":
        proto.metadata.CopyFrom(_unknown("Metadata"))
    if seen.outcome == "ok":
        proto.response.CopyFrom(_response(simulation))
    elif seen.outcome in {"fail", "cancelled"}:
        # CopyFrom sets the oneof even for an error of code 0 without a message.
        proto.error.CopyFrom(_error(script, seen))
    return proto


def status_details(refused: CallError) -> bytes:
    """Serialize the google.rpc.Status that travels in `grpc-status-details-bin`."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(round((refused.retry_info or 0) * 1e9))
    status = status_pb2.Status(code=refused.code, message=refused.message, details=[_pack(retry)])
    serialized: bytes = status.SerializeToString()
    return serialized
