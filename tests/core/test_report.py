"""What became of many operations, as an XCom carries it."""

from __future__ import annotations

import json

from airflow_provider_lro.exceptions import Code, RpcError
from airflow_provider_lro.operators._report import Report


def filled(number: int) -> Report:
    report = Report(counted=("listed",), named=("asked", "refused", "done"))
    for index in range(number):
        report.add("listed", f"o{index}")
        report.add("asked", f"o{index}")
    return report


def test_all_kinds_are_there_from_the_start() -> None:
    """Who reads a report needs not ask whether there is a number, or a list."""
    assert filled(0).as_json() == {
        "counts": {"listed": 0, "asked": 0, "refused": 0, "done": 0},
        "asked": [],
        "refused": [],
        "done": [],
    }


def test_names_are_bounded_and_numbers_are_of_all() -> None:
    """An XCom names 200 of a kind; what crosses a deferral has all of the one that is waited for."""
    report = filled(1000)
    assert (report.as_json()["counts"]["asked"], len(report.as_json()["asked"])) == (1000, 200)
    assert len(report.as_json(whole="asked")["asked"]) == 1000


def test_survives_json_and_goes_on() -> None:
    """What was read back counts on, also for an operation whose name was left out."""
    report = Report.of(json.loads(json.dumps(filled(300).as_json())))
    report.move("o299", "asked", "done")
    report.move("o0", "asked", "done")
    report.move("o1", "asked", "refused", RpcError("no", code=7, message="x" * 9999))
    assert (report.counts["asked"], report.counts["done"], report.names("done")) == (297, 2, ["o299", "o0"])
    assert len(report.names("asked")) == 198
    assert report.entries("refused") == [{"name": "o1", "code": Code.PERMISSION_DENIED, "message": "x" * 500}]
    assert str(report) == "300 listed, 297 asked, 1 refused, 2 done"
