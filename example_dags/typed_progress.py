"""Say of what types an operation's messages are: the response is checked, and the progress can be read in the log.

The triggerer logs a line such as `42 %, simulate` whenever the metadata says something new. The simulator's messages
are Structs, which every process knows; of a service's own types, say which they are, as in
`response_type="google.cloud.dataplex_v1.types.Lake"` and `type_modules=["google.cloud.dataplex_v1"]`.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("lro_typed_progress", schedule=None, tags=["lro"]):
    LongRunningOperationSensor(
        task_id="wait",
        operation_name="simulations/duration=8/operations/{{ run_id }}",
        response_type="google.protobuf.Struct",
        metadata_type="google.protobuf.struct_pb2.Struct",
        type_modules=["google.protobuf.struct_pb2"],
        poke_interval=2,
        timeout=600,
        deferrable=True,
    )
