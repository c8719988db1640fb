"""The report of a cleanup, as an XCom carries it."""

from __future__ import annotations

import json

from airflow_provider_lro.exceptions import Code, RpcError
from airflow_provider_lro.operators._cleanup import Report


def filled(number: int) -> Report:
    """Return the report of so many operations that were listed and asked to cancel."""
    report = Report(counted=("listed",), named=("asked", "refused", "done"))
    for index in range(number):
        report.add("listed", f"o{index}")
        report.add("asked", f"o{index}")
    return report


def test_all_kinds_are_there_from_the_start() -> None:
    """A DAG that reads a report need not ask whether there is a number, or a list."""
    assert filled(0).as_json() == {
        "counts": {"listed": 0, "asked": 0, "refused": 0, "done": 0},
        "asked": [],
        "refused": [],
        "done": [],
    }


def test_names_are_bounded_and_numbers_are_of_all() -> None:
    """An XCom names 200 of a kind."""
    report = filled(1000).as_json()
    assert (report["counts"]["asked"], len(report["asked"])) == (1000, 200)


def test_survives_json_and_goes_on() -> None:
    """A report that was read back counts on, also for an operation whose name was left out."""
    report = Report.of(json.loads(json.dumps(filled(300).as_json())))
    report.move("o299", "asked", "done")
    report.move("o0", "asked", "done")
    report.move("o1", "asked", "refused", RpcError("no", code=7, message="x" * 9999))
    assert (report.counts["asked"], report.counts["done"], report.names("done")) == (297, 2, ["o299", "o0"])
    assert len(report.names("asked")) == 198
    assert report.names("refused") == [{"name": "o1", "code": Code.PERMISSION_DENIED, "message": "x" * 500}]
    assert str(report) == "300 listed, 297 asked, 1 refused, 2 done"


def test_names_that_an_xcom_had_no_room_for_are_restored() -> None:
    """A cleanup that waits keeps all names beside its report: each has its place in the end."""
    names = [f"o{index}" for index in range(300)]
    report = Report.of(json.loads(json.dumps(filled(300).as_json())))
    report.restore("asked", names)
    for name in names[:299]:
        report.move(name, "asked", "done")
    assert (report.names("asked"), report.counts["asked"], report.counts["done"]) == (["o299"], 1, 299)
