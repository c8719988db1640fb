"""The DAG of test_secrets.py, which makes the connections: every kind of credentials, used and refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.operators import CancelOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG, BaseHook, BaseOperator

BRIEF = "duration=2"
CASES = {
    # task: (connection, what the operation does)
    "bearer": ("bearer", BRIEF),
    "service_account": ("service_account", BRIEF),
    "configuration": ("configuration", BRIEF),
    "mutual_tls": ("mutual_tls", BRIEF),
    "fails": ("bearer", "duration=2&outcome=fail&code=9"),
    "refused": ("refused", BRIEF),
    "refused_later": ("bearer", "duration=60&fault_after=1&fault=16*forever"),
    "invalid_grant": ("invalid_grant", BRIEF),
    "invalid_grant_later": ("invalid_grant_later", "duration=60"),
    "unusable_key": ("unusable_key", BRIEF),
    "unusable_configuration": ("unusable_configuration", BRIEF),
    "unusable_client_key": ("unusable_client_key", BRIEF),
    "unusable_token": ("unusable_token", BRIEF),
    "client_secret": ("client_secret", BRIEF),
    "plaintext": ("plaintext", BRIEF),
}
ECHOES = {
    # task: (connection, how the service quotes the headers of a call, whether that is in the triggerer)
    "quoted_status": ("echo_bearer", "status", True),
    "quoted_status_here": ("echo_refreshed", "status", False),
    "quoted_error": ("echo_refreshed", "error", True),
    "quoted_response": ("echo_bearer", "response", True),
}
CANCELS = {"cancels": "service_account", "cancel_refused": "refused"}


class Leak(BaseOperator):
    """Logs what no masker knows for a secret, plainly and within other text in base64."""

    def execute(self, context: Any) -> None:
        """Log it."""
        host = BaseHook.get_connection("planted").host
        self.log.info("planted: %s", host)
        self.log.info("planted, encoded: %s", base64.b64encode(f"host={host};".encode()).decode())


with DAG("audited", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), default_args={"retries": 0}):
    for task, (connection, script) in CASES.items():
        LongRunningOperationSensor(
            task_id=task,
            operation_name=f"simulations/{script}/operations/{{{{ run_id }}}}-{task}",
            lro_conn_id=connection,
            deferrable=True,
            poke_interval=1,
            timeout=45,
            max_consecutive_errors=2,
        )
    for task, (connection, how, deferrable) in ECHOES.items():
        LongRunningOperationSensor(
            task_id=task,
            operation_name=f"{how}/operations/{{{{ run_id }}}}-{task}",
            lro_conn_id=connection,
            deferrable=deferrable,
            poke_interval=1,
            timeout=45,
            metadata_type="google.protobuf.Struct",
            type_modules=["google.protobuf.struct_pb2"],
        )
    for task, connection in CANCELS.items():
        CancelOperationOperator(
            task_id=task,
            operation_name=f"simulations/outcome=never&cancel_delay=2/operations/{{{{ run_id }}}}-{task}",
            lro_conn_id=connection,
            wait=True,
            interval=1,
            deferrable=True,
        )
    Leak(task_id="leaks")
