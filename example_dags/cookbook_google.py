"""Five operators of the Google provider that hold a worker while they wait, as ``@task.lro``. See docs/cookbook.md."""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

PARENT = "projects/my-project/locations/us-central1"

with DAG("lro_cookbook_google", schedule=None, tags=["lro"]):

    @task.lro(interval=30, retries=2, response_type="google.cloud.dataplex_v1.Lake", deferrable=True)
    def create_lake(lake_id: str) -> Any:
        from google.cloud.dataplex_v1 import DataplexServiceClient, Lake

        return DataplexServiceClient().create_lake(parent=PARENT, lake_id=lake_id, lake=Lake(display_name="Sales"))

    @task.lro(interval=60, retries=0, response_type="google.cloud.aiplatform_v1.DeployModelResponse", deferrable=True)
    def deploy_model(endpoint: str, model: str) -> Any:
        from google.cloud.aiplatform_v1 import DedicatedResources, DeployedModel, EndpointServiceClient, MachineSpec

        client = EndpointServiceClient(client_options={"api_endpoint": "us-central1-aiplatform.googleapis.com"})
        machines = DedicatedResources(machine_spec=MachineSpec(machine_type="n1-standard-4"), min_replica_count=1)
        return client.deploy_model(
            endpoint=f"{PARENT}/endpoints/{endpoint}",
            deployed_model=DeployedModel(model=f"{PARENT}/models/{model}", dedicated_resources=machines),
            traffic_split={"0": 100},
        )

    @task.lro(interval=30, retries=2, response_type="google.cloud.redis_v1.Instance", deferrable=True)
    def create_redis(instance_id: str) -> Any:
        from google.cloud.redis_v1 import CloudRedisClient, Instance

        instance = Instance(tier=Instance.Tier.STANDARD_HA, memory_size_gb=5)
        return CloudRedisClient().create_instance(parent=PARENT, instance_id=instance_id, instance=instance)

    @task.lro(interval=30, retries=2, response_type="google.cloud.alloydb_v1.Cluster", deferrable=True)
    def create_cluster(cluster_id: str, request_id: str = "") -> Any:
        from google.cloud.alloydb_v1 import AlloyDBAdminClient, Cluster, CreateClusterRequest

        network = Cluster.NetworkConfig(network="projects/my-project/global/networks/default")
        return AlloyDBAdminClient().create_cluster(
            CreateClusterRequest(
                parent=PARENT,
                cluster_id=cluster_id,
                cluster=Cluster(network_config=network),
                request_id=request_id,
            )
        )

    @task.lro(interval=10, retries=2, response_type="google.cloud.run_v2.Execution", deferrable=True)
    def run_job(job: str, tasks: int) -> Any:
        from google.cloud.run_v2 import JobsClient, RunJobRequest

        overrides = RunJobRequest.Overrides(task_count=tasks)
        return JobsClient().run_job(RunJobRequest(name=f"{PARENT}/jobs/{job}", overrides=overrides))

    @task
    def check_execution(execution: dict[str, Any]) -> str:
        if execution["succeeded_count"] != execution["task_count"]:
            raise RuntimeError(f"{execution['name']}: {execution['failed_count']} of its tasks failed")
        return str(execution["name"])

    create_lake("sales")
    deploy_model("17", "churn")
    create_redis("cache")
    create_cluster("orders")
    check_execution(run_job("nightly", 4))
