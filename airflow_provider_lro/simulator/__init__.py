"""A real gRPC server of `google.longrunning.Operations` whose operations do what their names say.

Scheduler, worker and triggerer agree on an operation without sharing any state, because all of it is in the name:

    simulations/duration=3&outcome=fail&code=5/operations/a1

Command::

    python -m airflow_provider_lro.simulator --port N [--host 127.0.0.1] [--state FILE] [--log FILE] [--token TOKEN]
        [--tls-cert FILE --tls-key FILE [--tls-client-ca FILE]] [--unimplemented-service]

`--port 0` picks a free port. One line on stdout says `simulator: listening on 127.0.0.1:50051` when it serves. SIGTERM
and SIGINT end it with exit code 0; bad arguments, an unusable file and a busy port with one line and exit code 2.

========================= ============================================================================================
`--state FILE`            Append-only JSON lines: first sights, starts, cancels, deletions, counted Gets, request ids.
                          Read at start, so that a killed and restarted server agrees with itself.
`--log FILE`              Appends one JSON line a call, before the call is answered: `time` (epoch seconds), `method`,
                          `name`, `code` (number; 1 also when the client went away), `done` (Get, Wait, Start that
                          succeed) and `headers`: those of interest, and `authorization` as true or false.
`--token TOKEN`           Every call needs `authorization: Bearer TOKEN`, or it is UNAUTHENTICATED.
`--tls-…`                 Serves TLS; with `--tls-client-ca` a client needs a certificate of that CA.
`--unimplemented-service` Every call of Operations is UNIMPLEMENTED. Start still works.
========================= ============================================================================================

Names
-----
`simulations/<key=value&key=value>/operations/<id>`, with any prefix before it (`projects/p/locations/l/simulations/…`).
Values are percent-decoded (a `+` is a plus sign); a script needs one pair at least. The id is any text that is not
empty. Everything else is INVALID_ARGUMENT. `operation_name` builds names. Seconds may have a fraction.

================== ========= =========================================================================================
key                default   meaning
================== ========= =========================================================================================
`duration`         1         Seconds until the operation ends.
`start`            -         Epoch seconds when its clock started; without it, the first call that names it.
`outcome`          ok        `ok`, `fail`, `cancelled` (error of code 1), `neither` (done without error and response),
                             `never` (never done).
`code`             9         Of `fail`: number or name; may be one that google.rpc.Code does not know.
`message`          (empty)   Of the error.
`details`          (none)    Of the error, comma list: ErrorInfo, RetryInfo, BadRequest, Help, LocalizedMessage,
                             QuotaFailure, PreconditionFailure, DebugInfo, RequestInfo, ResourceInfo, and Unknown, whose
                             type nobody knows.
`response`         {"id": …} JSON object, becomes a google.protobuf.Struct.
`response_type`    struct    `struct`, `empty`, `unknown` (an Any whose type nobody knows), `nested_unknown` (a
                             google.rpc.Status that carries such an Any), `malformed` (a Struct that does not parse).
`response_bytes`   0         Pads the Struct to about so many bytes; 60 MiB at most.
`metadata`         struct    `struct` (verb, create_time, progress_percent, requested_cancellation, end_time when
                             done), `none`, `unknown`.
`latency`          0         Seconds added to each Get.
`fault`            (none)    What Gets answer instead, comma list of CODE*N: `14*3,8*1` is three times UNAVAILABLE, then
                             once RESOURCE_EXHAUSTED. CODE is a number or a name, `*1` may be left out, the last may be
                             `*forever`.
`fault_after`      0         So many Gets pass before the faults begin.
`retry_info`       (none)    Seconds: gives those faults a google.rpc.RetryInfo, in `grpc-status-details-bin`.
`not_found`        0         The first N Gets are NOT_FOUND; `fault_after` and `fault` count from there.
`not_found_for`    0         NOT_FOUND for so many seconds after the first sight; uses none of the faults up.
`expire`           (never)   NOT_FOUND so many seconds after the end.
`unimplemented`    (none)    UNIMPLEMENTED methods, comma list of get, list, cancel, delete, wait.
`cancel`           accept    `accept` (it ends with an error of code 1, unless its own end comes first) or `ignore` (the
                             answer is OK, and the operation goes on).
`cancel_delay`     0         Seconds from an accepted cancel to that end.
`unreachable`      (none)    Comma list that a List with `return_partial_success` reports.
================== ========= =========================================================================================

Methods:
-------
- **Get.** Absence (deleted, `not_found_for`, `expire`) comes first, then the counted faults, then the operation.
- **Wait.** A Get, `latency` and faults included, that answers when the operation is done, changes its end or goes away,
  or at the timeout (60 s without one; a little before the call's deadline).
- **Cancel.** OK, and without effect on an operation that is done. NOT_FOUND where a Get would say so.
- **Delete.** Later calls are NOT_FOUND, a second Delete too. NOT_FOUND where a Get would say so.
- **List.** What was started or seen by any call, is there (absence as for Get) and whose name starts with `name` + `/`;
  `simulations` lists everything. By start, then by name. `filter`: `done=true`, `done=false` (or `done:true`),
  `name:substring`, joined with `AND`. `page_size` 100 by default, 1000 at most. `unimplemented=list` counts when
  the script is in the parent; `unreachable` also when an operation below the parent has it.
- **Start**, of `airflow_provider_lro.simulator.Simulations`: takes a google.protobuf.Struct with the script's keys, and
  `id` and `request_id` (the same one gives the same operation); answers with an operation whose name holds
  `start=<epoch seconds>`. `SimulatorClient` calls it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_lro.simulator.client import SimulatorClient
    from airflow_provider_lro.simulator.script import operation_name

__all__ = ["SimulatorClient", "operation_name"]

_HOMES = {"SimulatorClient": "client", "operation_name": "script"}


# Lazy (PEP 562), so that a DAG file that only builds names loads neither grpc nor protobuf.
def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
