"""What versions of Airflow have in different places, for tests and their DAGs, and what old libraries do not have."""

from __future__ import annotations

import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro.version_compat import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseHook,
    BaseOperator,
    BaseSensorOperator,
    DecoratedOperator,
    XCom,
    conf,
)

try:
    from airflow.sdk.exceptions import TaskDeferred
except ImportError:  # below Airflow 3.2
    from airflow.exceptions import TaskDeferred

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # below Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

__all__ = [
    "DAG",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRescheduleException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BaseSensorOperator",
    "DagSerialization",
    "DecoratedOperator",
    "TaskDeferred",
    "XCom",
    "conf",
    "needs_partial_success",
    "task",
]

needs_partial_success = pytest.mark.skipif(
    "return_partial_success" not in pb.ListOperationsRequest.DESCRIPTOR.fields_by_name,
    reason="the services of the tests know it from googleapis-common-protos 1.76 on",
)
