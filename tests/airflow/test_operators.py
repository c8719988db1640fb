"""The operators that cancel, delete, get and list."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro.exceptions import (
    Code,
    LroError,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operators import (
    CancelOperationOperator,
    CancelStaleOperationsOperator,
    DeleteOperationOperator,
    GetOperationOperator,
    ListOperationsOperator,
)
from tests.airflow.worker import FakeTaskInstance, run
from tests.versions import needs_partial_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator

WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])


def cancel(operation_name: Any, **kwargs: Any) -> Any:
    return run(CancelOperationOperator(task_id="cancel", operation_name=operation_name, interval=0.1, **kwargs))


def test_cancel_asks_once_and_does_not_wait(name: Callable[..., str], simulator: Simulator) -> None:
    """Success means "asked"; the operation is not polled afterwards."""
    operation = name(outcome="never", cancel_delay=30)
    assert cancel(operation).result == {"name": operation, "asked": True, "outcome": "running"}
    assert len(simulator.calls("CancelOperation", operation)) == 1
    assert len(simulator.calls("GetOperation", operation)) == 1


@pytest.mark.parametrize(
    ("script", "outcome"),
    [({}, "succeeded"), ({"outcome": "fail"}, "failed"), ({"outcome": "cancelled"}, "cancelled")],
)
def test_cancel_leaves_what_is_done_alone(
    name: Callable[..., str], simulator: Simulator, script: dict[str, Any], outcome: str
) -> None:
    """An operation that is done already is an outcome, not an error, and is not asked anything."""
    operation = name(duration=0, **script)
    assert cancel(operation, wait=True).result == {"name": operation, "asked": False, "outcome": outcome}
    assert simulator.calls("CancelOperation", operation) == []


@WAYS
@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ({"outcome": "never", "cancel_delay": 0.3}, "cancelled"),
        ({"duration": 0.4, "cancel": "ignore"}, "succeeded"),
        ({"duration": 0.4, "cancel": "ignore", "outcome": "fail"}, "failed"),
    ],
)
def test_cancel_waits_for_the_outcome(
    name: Callable[..., str], script: dict[str, Any], outcome: str, deferrable: bool
) -> None:
    """The operation's own outcome is reported, whatever the cancel was to do."""
    operation = name(**script)
    waited = cancel(operation, wait=True, deferrable=deferrable)
    assert waited.result == {"name": operation, "asked": True, "outcome": outcome}
    assert waited.deferrals == (1 if deferrable else 0)


@WAYS
def test_cancel_of_several_waits_for_all(name: Callable[..., str], deferrable: bool) -> None:
    """A list gives a list, in its order, also where some were done already."""
    names = [name(outcome="never", cancel_delay=0.3), name(duration=0), name(outcome="never", cancel_delay=0.2)]
    waited = cancel(names, wait=True, deferrable=deferrable)
    assert [(result["name"], result["asked"], result["outcome"]) for result in waited.result] == [
        (names[0], True, "cancelled"),
        (names[1], False, "succeeded"),
        (names[2], True, "cancelled"),
    ]


def test_cancel_of_several_defers_once(name: Callable[..., str], simulator: Simulator) -> None:
    """However many there are, one trigger waits for all of them; each is asked once."""
    names = [name(outcome="never", cancel_delay=0.2 * number) for number in range(1, 7)]
    waited = cancel(names, wait=True, deferrable=True)
    assert waited.deferrals == 1
    assert waited.result == [{"name": each, "asked": True, "outcome": "cancelled"} for each in names]
    assert [len(simulator.calls("CancelOperation", each)) for each in names] == [1] * 6


@WAYS
def test_cancel_that_one_ignores_does_not_cost_the_result_of_the_other(
    name: Callable[..., str], deferrable: bool
) -> None:
    """When the wait times out, the XCom has what the other one came to, and the error names the one."""
    stubborn, other = name(outcome="never", cancel="ignore"), name(outcome="never", cancel_delay=0.1)
    ti = FakeTaskInstance()
    operator = CancelOperationOperator(
        task_id="cancel",
        operation_name=[stubborn, other],
        wait=True,
        wait_timeout=0.5,
        interval=0.1,
        deferrable=deferrable,
    )
    with pytest.raises(OperationsFailed, match="1 of 2 operations could not be cancelled") as raised:
        run(operator, ti=ti)
    assert {each: type(error) for each, error in raised.value.errors.items()} == {stubborn: OperationTimeout}
    assert stubborn in str(raised.value)
    first, second = ti.xcoms["return_value"]
    assert second == {"name": other, "asked": True, "outcome": "cancelled"}
    assert (first["name"], first["asked"], first["outcome"]) == (stubborn, True, "timed_out")
    assert stubborn in first["error"]["message"]


@WAYS
def test_error_of_asking_outlives_the_wait(name: Callable[..., str], deferrable: bool) -> None:
    """One that could not be asked is an error after all others were waited for, with its code and its text."""
    refusing, other = name(outcome="never", unimplemented="cancel"), name(outcome="never", cancel_delay=0.2)
    ti = FakeTaskInstance()
    operator = CancelOperationOperator(
        task_id="cancel", operation_name=[refusing, other], wait=True, interval=0.1, deferrable=deferrable
    )
    with pytest.raises(OperationsFailed) as raised:
        run(operator, ti=ti)
    assert {each: error.code for each, error in raised.value.errors.items()} == {refusing: Code.UNIMPLEMENTED}
    failed, second = ti.xcoms["return_value"]
    assert (failed["name"], failed["error"]["code"]) == (refusing, 12)
    assert second == {"name": other, "asked": True, "outcome": "cancelled"}


@WAYS
def test_cancel_without_effect_times_out(name: Callable[..., str], deferrable: bool) -> None:
    """wait_timeout ends the wait with an error that may be retried."""
    with pytest.raises(OperationTimeout):
        cancel(name(outcome="never", cancel="ignore"), wait=True, wait_timeout=0.4, deferrable=deferrable)


def test_cancel_wait_survives_dropped_arguments(name: Callable[..., str]) -> None:
    """`airflow dags test` drops what crosses beside the event: then each operation is polled again."""
    names = [name(outcome="never", cancel_delay=0.3), name(duration=0), name(outcome="never", cancel_delay=0.1)]
    options = {"task_id": "cancel", "wait": True, "deferrable": True, "interval": 0.1, "initial_delay": 0.1}
    operator = CancelOperationOperator(operation_name=names, **options)
    (event,) = run(operator).events
    resumed = operator.execute_complete({"ti": FakeTaskInstance()}, event)
    assert [result["outcome"] for result in resumed] == ["cancelled", "succeeded", "cancelled"]
    stubborn = name(outcome="never", cancel="ignore")
    operator = CancelOperationOperator(operation_name=[stubborn, *names], wait_timeout=0.3, **options)
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match=stubborn):
        operator.execute_complete({"ti": ti}, event)
    assert [result["outcome"] for result in ti.xcoms["return_value"]] == [
        "timed_out",
        "cancelled",
        "succeeded",
        "cancelled",
    ]


def test_airflow_timeout_of_a_cancel_polls_once(name: Callable[..., str]) -> None:
    """Where no triggerer has reported in time, the worker polls: done is done, else it is a timeout."""
    done = CancelOperationOperator(task_id="c", operation_name=name(duration=0), wait=True, wait_timeout=1)
    context = {"ti": FakeTaskInstance()}
    assert done.resume_execution("__fail__", {"error": "Trigger timeout"}, context)["outcome"] == "succeeded"
    stubborn = name(outcome="never", cancel="ignore")
    late = CancelOperationOperator(task_id="c", operation_name=stubborn, wait=True, wait_timeout=1)
    with pytest.raises(OperationTimeout):
        late.resume_execution("__fail__", {"error": "Trigger timeout"}, context)


@pytest.mark.parametrize(
    ("operator", "verb"), [(CancelOperationOperator, "cancel"), (DeleteOperationOperator, "delete")]
)
class TestIgnored:
    """What cancel and delete have in common."""

    def test_missing(self, operator: Any, verb: str, name: Callable[..., str]) -> None:
        """NOT_FOUND is an error unless it is to be ignored."""
        gone = name(not_found=99)
        with pytest.raises(OperationNotFound):
            run(operator(task_id=verb, operation_name=gone))
        ignored = run(operator(task_id=verb, operation_name=gone, ignore_missing=True)).result
        assert (ignored["name"], ignored["outcome"]) == (gone, "missing")

    def test_unimplemented(self, operator: Any, verb: str, name: Callable[..., str]) -> None:
        """UNIMPLEMENTED is an error unless it is to be ignored."""
        stubborn = name(outcome="never", unimplemented=verb)
        with pytest.raises(UnimplementedError):
            run(operator(task_id=verb, operation_name=stubborn))
        ignored = run(operator(task_id=verb, operation_name=stubborn, ignore_unimplemented=True)).result
        assert (ignored["name"], ignored["outcome"]) == (stubborn, "unimplemented")

    def test_all_are_tried_before_an_error(
        self, operator: Any, verb: str, name: Callable[..., str], simulator: Simulator
    ) -> None:
        """One name that cannot be served keeps none of the others from being served; the error names it."""
        bad, worse, good = name(not_found=99), name(outcome="never", unimplemented=verb), name(outcome="never")
        with pytest.raises(OperationsFailed) as raised:
            run(operator(task_id=verb, operation_name=[bad, worse, good]))
        assert set(raised.value.errors) == {bad, worse}
        assert bad in str(raised.value)
        assert len(simulator.calls(f"{verb.capitalize()}Operation", good)) == 1

    def test_nothing_to_do(self, operator: Any, verb: str) -> None:
        """An empty list is no error: there was nothing to do."""
        assert run(operator(task_id=verb, operation_name=[])).result == []

    def test_other_errors_are_raised(self, operator: Any, verb: str) -> None:
        """A service that is not there is an error, whatever is to be ignored."""
        with pytest.raises(RpcError, match="refused"):
            run(
                operator(
                    task_id=verb,
                    operation_name="operations/x",
                    endpoint="127.0.0.1:1",
                    ignore_missing=True,
                    ignore_unimplemented=True,
                )
            )


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        (GetOperationOperator, "GetOperation"),
        (DeleteOperationOperator, "DeleteOperation"),
        (CancelOperationOperator, "CancelOperation"),
    ],
)
def test_calls_overlap(fake: FakeService, operator: Any, method: str) -> None:
    """Of many names at least 10 are on their way at the same time, and never more than 32."""
    names = [fake.add(f"o{number}") for number in range(40)]
    overlap = threading.Event()

    def answer_slowly(called: str, _: str) -> None:
        if called == method:
            if fake.most_at_once >= 10:
                overlap.set()
            overlap.wait(20)
            time.sleep(0.1)  # the way to a service; more calls have time to come, and are counted

    fake.before = answer_slowly
    results = run(operator(task_id="many", operation_name=names)).result
    assert [result["name"] for result in results] == names
    assert sorted(fake.acted(method)) == sorted(names)
    assert 10 <= fake.most_at_once <= 32


@pytest.mark.parametrize(
    ("operator", "method", "verb"),
    [
        (GetOperationOperator, "GetOperation", "read"),
        (DeleteOperationOperator, "DeleteOperation", "deleted"),
        (CancelOperationOperator, "CancelOperation", "cancelled"),
    ],
)
def test_results_outlive_the_error_of_one(fake: FakeService, operator: Any, method: str, verb: str) -> None:
    """The XCom has a result for each that was served, and an entry with code and message for the other."""
    names = [fake.add(f"o{number}") for number in range(3)]
    fake.faults[method, names[1]] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match=f"1 of 3 operations could not be {verb}") as raised:
        run(operator(task_id="some", operation_name=names), ti=ti)
    assert {each: error.code for each, error in raised.value.errors.items()} == {names[1]: Code.PERMISSION_DENIED}
    first, failed, last = ti.xcoms["return_value"]
    assert failed == {"name": names[1], "error": {"code": 7, "message": "not yours"}}
    assert [first["name"], last["name"]] == [names[0], names[2]]
    assert "error" not in first
    without = FakeTaskInstance()
    with pytest.raises(OperationsFailed):
        run(operator(task_id="some", operation_name=names[1:], do_xcom_push=False), ti=without)
    assert without.xcoms == {}


def test_delete_takes_what_a_listing_gives(name: Callable[..., str]) -> None:
    """A list of mappings with names, as ListOperationsOperator leaves them in XCom, can be deleted as it is."""
    names = [name(duration=0), name(duration=0)]
    deleted = run(DeleteOperationOperator(task_id="delete", operation_name=[{"name": one} for one in names])).result
    assert deleted == [{"name": one, "outcome": "deleted"} for one in names]
    with pytest.raises(LroError):
        run(GetOperationOperator(task_id="get", operation_name=names[0]))


def test_get_gives_the_operation_as_json(name: Callable[..., str]) -> None:
    """An operation that failed is a result like any other."""
    operation = name(duration=0, outcome="fail", code=9, message="no", details="ErrorInfo")
    result = run(GetOperationOperator(task_id="get", operation_name=operation)).result
    assert (result["name"], result["done"]) == (operation, True)
    assert result["error"]["code"] == 9
    assert result["error"]["details"][0]["@type"].endswith("ErrorInfo")
    assert result["metadata"]["value"]["progress_percent"] == 100.0


def test_get_of_several_gives_a_list(name: Callable[..., str]) -> None:
    """A sequence of names gives a sequence of operations, in order."""
    names = [name(duration=0), name(outcome="never")]
    got = run(GetOperationOperator(task_id="get", operation_name=names)).result
    assert [(one["name"], one["done"]) for one in got] == [(names[0], True), (names[1], False)]


def test_native_templates_make_numbers_of_digits(fake: FakeService) -> None:
    """A name, a parent, a project or a connection's id that is all digits is a text for all that."""
    fake.operations["7"] = pb.Operation(name="7", done=True)
    task = GetOperationOperator(task_id="get", operation_name="{{ name }}", quota_project_id="{{ project }}")
    task.operation_name, task.quota_project_id = 7, 123456789012  # type: ignore[assignment]
    assert run(task).result["name"] == "7"
    listing = ListOperationsOperator(task_id="list", parent="{{ parent }}", filter="{{ filter }}")
    listing.parent, listing.filter = 5, 6  # type: ignore[assignment]
    assert run(listing).result == []
    assert (fake.requests[-1].name, fake.requests[-1].filter) == ("5", "6")


def test_list_gives_all_pages_or_a_limit(name: Callable[..., str], simulator: Simulator) -> None:
    """All pages are read; with a limit only those that are needed."""
    names = {name(duration=0, response={"of": "listing"}) for _ in range(5)}
    run(GetOperationOperator(task_id="get", operation_name=sorted(names)))
    parent = next(iter(names)).rpartition("/operations/")[0]
    listed = run(ListOperationsOperator(task_id="list", parent=parent, page_size=2)).result
    assert {one["name"] for one in listed} == names
    before = len(simulator.calls("ListOperations"))
    limited = run(ListOperationsOperator(task_id="list", parent=parent, page_size=2, limit=2)).result
    assert len(limited) == 2
    assert len(simulator.calls("ListOperations")) == before + 1


@needs_partial_success
def test_list_filters_and_reports_what_is_unreachable(name: Callable[..., str]) -> None:
    """The filter reaches the service; what it could not reach is an XCom of its own."""
    done, running = name(duration=0, unreachable="eu-west9"), name(outcome="never", unreachable="eu-west9")
    run(GetOperationOperator(task_id="get", operation_name=[done, running]))
    ti = FakeTaskInstance()
    operator = ListOperationsOperator(
        task_id="list", parent="simulations", filter="done=false", return_partial_success=True
    )
    listed = {one["name"] for one in run(operator, ti=ti).result}
    assert running in listed
    assert done not in listed
    assert ti.xcoms["unreachable"] == ["eu-west9"]


@pytest.mark.parametrize(
    ("kind", "kwargs", "complaint"),
    [
        (CancelOperationOperator, {"poke_interval": 5}, "does not take poke_interval: give interval"),
        (CancelOperationOperator, {"timeout": 5}, "does not take timeout: give wait_timeout"),
        (CancelOperationOperator, {"deferrable": True}, "without wait=True there is nothing to defer for"),
        (GetOperationOperator, {"gcp_conn_id": "g"}, "does not take gcp_conn_id: give lro_conn_id"),
        (
            CancelOperationOperator,
            {"max_polls_per_second": 5},
            "max_polls_per_second: give it in the connection's extra",
        ),
        (GetOperationOperator, {"endpoint": "http://x"}, "endpoint='http://x'.*leave out the scheme"),
        (CancelStaleOperationsOperator, {"parent": "p", "older_than": "6h"}, "older_than='6h', but it must be"),
    ],
)
def test_what_others_call_it(kind: type[Any], kwargs: dict[str, Any], complaint: str) -> None:
    """An argument of another operator's is told what it is called here, when the DAG is read."""
    name = {} if "parent" in kwargs else {"operation_name": "o"}
    with pytest.raises(ValueError, match=complaint):
        kind(task_id="task", **name, **kwargs)
