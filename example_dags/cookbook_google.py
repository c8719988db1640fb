"""Operators of the Google provider that hold a worker while they wait, as ``@task.lro``. See docs/cookbook.md."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_lro.hooks import LongRunningOperationHook

PARENT = "projects/my-project/locations/us-central1"
REGION = {"project_id": "my-project", "region": "us-central1"}
AS: dict[str, Any] = {
    "lro_conn_id": "google_cloud_default",
    "impersonation_chain": "deployer@my-project.iam.gserviceaccount.com",
}


def succeeded(execution: Any, metadata: Any) -> bool | str:
    if execution.succeeded_count == execution.task_count:
        return True
    return f"{execution.succeeded_count} of {execution.task_count} tasks have succeeded: {execution.log_uri}"


def dataproc() -> Any:
    from google.cloud.dataproc_v1 import ClusterControllerClient

    return ClusterControllerClient(client_options={"api_endpoint": "us-central1-dataproc.googleapis.com"})


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

    @task.lro(
        interval=30, retries=2, response_type="google.cloud.redis_v1.Instance", multiple_outputs=True, deferrable=True
    )
    def create_redis(instance_id: str) -> Any:
        from google.cloud.redis_v1 import CloudRedisClient, Instance

        instance = Instance(tier=Instance.Tier.STANDARD_HA, memory_size_gb=5)
        return CloudRedisClient().create_instance(parent=PARENT, instance_id=instance_id, instance=instance)

    @task
    def redis_url(host: str, port: int) -> str:
        return f"redis://{host}:{port}"

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

    @task.lro(interval=10, retries=2, response_type="google.cloud.run_v2.Execution", check=succeeded, deferrable=True)
    def run_job(job: str, tasks: int) -> Any:
        from google.cloud.run_v2 import JobsClient, RunJobRequest

        overrides = RunJobRequest.Overrides(task_count=tasks)
        return JobsClient().run_job(RunJobRequest(name=f"{PARENT}/jobs/{job}", overrides=overrides))

    @task.lro(interval=30, retries=2, deferrable=True)
    def delete_if_broken(name: str) -> Any:
        from google.api_core.exceptions import NotFound
        from google.cloud.dataproc_v1 import ClusterStatus

        client = dataproc()
        with suppress(NotFound):
            cluster = client.get_cluster(**REGION, cluster_name=name)
            if cluster.status.state == ClusterStatus.State.ERROR:
                return client.delete_cluster(**REGION, cluster_name=name)
        return {"done": True}  # nothing to delete, so nothing to wait for

    @task.lro(
        interval=30,
        retries=5,
        retry_delay=timedelta(minutes=2),
        response_type="google.cloud.dataproc_v1.Cluster",
        deferrable=True,
    )
    def use_cluster(name: str, request_id: str = "") -> Any:
        from google.api_core.exceptions import AlreadyExists
        from google.cloud.dataproc_v1 import ClusterStatus

        client = dataproc()
        config = {"software_config": {"image_version": "2.2-debian12"}}
        new = {"project_id": "my-project", "cluster_name": name, "config": config}
        try:
            return client.create_cluster({**REGION, "cluster": new, "request_id": request_id})
        except AlreadyExists:
            cluster = client.get_cluster(**REGION, cluster_name=name)
        if cluster.status.state != ClusterStatus.State.RUNNING:
            raise RuntimeError(f"the cluster {name} exists, and its state is {cluster.status.state.name}")
        return {"done": True, "response": cluster}

    create_lake("sales")
    deploy_model("17", "churn")
    redis = create_redis("cache")
    redis_url(redis["host"], redis["port"])
    create_cluster("orders")
    run_job("nightly", 4)
    delete_if_broken("etl") >> use_cluster("etl")


with DAG("lro_cookbook_google_impersonation", schedule=None, tags=["lro"]):

    @task.lro(**AS, interval=30, retries=2, response_type="google.cloud.dataplex_v1.Lake", deferrable=True)
    def create_lake_as_deployer(lake_id: str) -> Any:
        from google.cloud.dataplex_v1 import DataplexServiceClient, Lake

        client = DataplexServiceClient(credentials=LongRunningOperationHook(**AS).get_credentials())
        return client.create_lake(parent=PARENT, lake_id=lake_id, lake=Lake(display_name="Stock"))

    create_lake_as_deployer("stock")
