"""The DAGs of test_end_from_trigger.py: tasks that end in the triggerer, beside the same ones that do not."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG, BaseOperator

START = datetime(2024, 1, 1, tzinfo=UTC)
AIRFLOW = tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])
SOON: dict[str, Any] = {"poke_interval": 1, "timeout": 120, "retries": 0, "deferrable": True}
WAYS: dict[str, dict[str, Any]] = {"plain": {}}
if AIRFLOW >= (3, 3):
    WAYS["ended"] = {"end_from_trigger": True}

# task → what its operation does, and the sensor's further arguments
OUTCOMES: dict[str, tuple[str, dict[str, Any]]] = {
    "succeeds": ("duration=2", {}),
    "silent": ("duration=2", {"do_xcom_push": False}),
    "skips": ("duration=2&outcome=cancelled", {"on_cancelled": "skip"}),
    "soft_fails": ("duration=2&outcome=fail&code=9", {"soft_fail": True}),
    "soft_times_out": ("outcome=never", {"soft_fail": True, "timeout": 4}),
    "fails": ("duration=2&outcome=fail&code=9", {}),
    "cancelled": ("duration=2&outcome=cancelled", {}),
    "times_out": ("outcome=never", {"timeout": 4, "on_timeout": "cancel"}),
}

for way, more in WAYS.items():
    with DAG(f"same_{way}", schedule=None, start_date=START):
        for outcome, (script, arguments) in OUTCOMES.items():
            LongRunningOperationSensor(
                task_id=outcome,
                operation_name=f"simulations/{script}/operations/{{{{ run_id }}}}-{way}-{outcome}",
                **{**SOON, **more, **arguments},
            )

with DAG("steady", schedule=None, start_date=START):
    for task, arguments in {"keeps_its_deadline": {"timeout": 75}, "killed": {"cancel_on_kill": True}}.items():
        LongRunningOperationSensor(
            task_id=task,
            operation_name=f"simulations/outcome=never/operations/{{{{ run_id }}}}-steady-{task}",
            **{**SOON, **arguments},
        )


class Name(BaseOperator):
    """Leaves the name that it is mapped over."""

    def __init__(self, *, name: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    def execute(self, context: Any) -> str | None:
        return self.name


def log_callback(context: Any) -> None:
    print("the callback was called")


if AIRFLOW >= (3, 3):
    from airflow.sdk import Asset

    with DAG("duties", schedule=None, start_date=START):
        LongRunningOperationSensor(
            task_id="outlet",
            operation_name="simulations/duration=1/operations/{{ run_id }}-outlet",
            outlets=[Asset("lro_outlet")],
            **SOON,
            **WAYS["ended"],
        )
        LongRunningOperationSensor(
            task_id="callback",
            operation_name="simulations/duration=1/operations/{{ run_id }}-callback",
            on_success_callback=log_callback,
            **SOON,
            **WAYS["ended"],
        )
        LongRunningOperationSensor(
            task_id="tried_twice",
            operation_name=(
                "simulations/duration=1&outcome={{ 'ok' if ti.try_number == 1 else 'fail' }}/operations/"
                "{{ run_id }}-{{ ti.try_number }}"
            ),
            **SOON,
            **WAYS["ended"],
        )
        mapped_over = LongRunningOperationSensor(
            task_id="mapped_over",
            operation_name="simulations/duration=1/operations/{{ run_id }}-mapped-over",
            **SOON,
            **WAYS["ended"],
        )
        Name.partial(task_id="maps").expand(name=mapped_over.output)
        LongRunningOperationSensor.partial(task_id="ended_each", **SOON, **WAYS["ended"]).expand(
            operation_name=[f"simulations/duration=1/operations/{{{{ run_id }}}}-ended-{index}" for index in range(2)]
        )
