"""The services of the cookbook, as far as it calls them: what creates, and what the operation is then.

The messages are the clients' own, so a request that the real service could not read is not read here either.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the clients think of each other's versions
    from google.cloud import aiplatform_v1, alloydb_v1, dataplex_v1, dataproc_v1, redis_v1, run_v2

import grpc
from google.protobuf import empty_pb2

from tests.cookbook.google_cloud import RunningService

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.longrunning import operations_proto_pb2 as pb

PARENT = "projects/my-project/locations/us-central1"
ENDPOINT = f"{PARENT}/endpoints/17"
JOB = f"{PARENT}/jobs/nightly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service.

    Attributes:
        host: Where its clients call it.
        audience: What tokens for it are for, when a client signs them itself.
        method: The full name of the method that creates.
        request_type: proto-plus.
        parent: Where its operations are.
        response: What a request comes to.
        metadata: What its operation says meanwhile.
        kind: What runs it.
    """

    host: str
    audience: str
    method: str
    request_type: Any
    parent: str
    response: Callable[[Any], Any]
    metadata: Any
    kind: type[RunningService] = RunningService


class Dataproc(RunningService):
    """Dataproc, with one cluster at most.

    Attributes:
        cluster: What GetCluster answers.
    """

    def __init__(self, spec: Service, **kwargs: Any) -> None:
        super().__init__(spec, **kwargs)
        self.cluster: dataproc_v1.Cluster | None = None
        self._later: dict[str, dataproc_v1.Cluster | None] = {}  # by the operation that comes to it
        controller = spec.method.rpartition("/")[0]
        self._methods |= {
            f"/{controller}/GetCluster": (dataproc_v1.GetClusterRequest.deserialize, self._get_cluster),
            f"/{controller}/DeleteCluster": (dataproc_v1.DeleteClusterRequest.deserialize, self._delete),
        }

    def has(self, state: str) -> None:
        """Let the cluster exist, in a state."""
        self.cluster = dataproc_v1.Cluster(cluster_name="etl", status={"state": state}, project_id="my-project")

    def _create(self, request: dataproc_v1.CreateClusterRequest, context: grpc.ServicerContext) -> pb.Operation:
        assert (request.project_id, request.region) == ("my-project", "us-central1")
        if self.cluster is not None:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Already exists: {self.cluster.cluster_name}")
        operation = super()._create(request, context)
        self.has("RUNNING")
        self._later[operation.name] = self.cluster
        self.has("CREATING")
        return operation

    def _get_cluster(self, request: dataproc_v1.GetClusterRequest, context: grpc.ServicerContext) -> Any:
        if self.cluster is None or request.cluster_name != self.cluster.cluster_name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: {request.cluster_name}")
        return self.cluster

    def _delete(self, request: dataproc_v1.DeleteClusterRequest, context: grpc.ServicerContext) -> pb.Operation:
        self._get_cluster(request, context)
        operation = self.start(empty_pb2.Empty())
        self._later[operation.name] = None
        self.has("DELETING")
        return operation

    def _get(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        operation = super()._get(request, context)
        if operation.HasField("response") and request.name in self._later:
            self.cluster = self._later.pop(request.name)
        return operation


def _lake(request: dataplex_v1.CreateLakeRequest) -> dataplex_v1.Lake:
    assert request.parent == PARENT
    lake = dataplex_v1.Lake(request.lake)
    lake.name = f"{request.parent}/lakes/{request.lake_id}"
    lake.state = dataplex_v1.State.ACTIVE
    return lake


def _deployed(request: aiplatform_v1.DeployModelRequest) -> aiplatform_v1.DeployModelResponse:
    assert request.endpoint == ENDPOINT
    deployed = aiplatform_v1.DeployedModel(request.deployed_model)
    deployed.model_version_id = "1"
    return aiplatform_v1.DeployModelResponse(deployed_model=deployed)


def _instance(request: redis_v1.CreateInstanceRequest) -> redis_v1.Instance:
    assert request.parent == PARENT
    instance = redis_v1.Instance(request.instance)
    instance.name = f"{request.parent}/instances/{request.instance_id}"
    instance.state = redis_v1.Instance.State.READY
    instance.host, instance.port = "10.0.0.3", 6379
    return instance


def _cluster(request: alloydb_v1.CreateClusterRequest) -> alloydb_v1.Cluster:
    assert request.parent == PARENT
    cluster = alloydb_v1.Cluster(request.cluster)
    cluster.name = f"{request.parent}/clusters/{request.cluster_id}"
    cluster.state = alloydb_v1.Cluster.State.READY
    cluster.initial_user = None  # input only
    return cluster


def _execution(request: run_v2.RunJobRequest) -> run_v2.Execution:
    assert request.name == JOB
    tasks = request.overrides.task_count
    return run_v2.Execution(name=f"{JOB}/executions/nightly-x7k2p", job=JOB, task_count=tasks, succeeded_count=tasks)


def _dataproc_cluster(request: dataproc_v1.CreateClusterRequest) -> dataproc_v1.Cluster:
    cluster = dataproc_v1.Cluster(request.cluster)
    cluster.cluster_uuid = "8a0a7c4e"
    return cluster  # without its status: that is what the real one answers, too


SERVICES = {
    "create_lake": Service(
        host="dataplex.googleapis.com",
        audience="https://dataplex.googleapis.com/",
        method="google.cloud.dataplex.v1.DataplexService/CreateLake",
        request_type=dataplex_v1.CreateLakeRequest,
        parent=PARENT,
        response=_lake,
        metadata=dataplex_v1.OperationMetadata(verb="create", target=f"{PARENT}/lakes/sales"),
    ),
    "deploy_model": Service(
        host="us-central1-aiplatform.googleapis.com",
        audience="https://aiplatform.googleapis.com/",
        method="google.cloud.aiplatform.v1.EndpointService/DeployModel",
        request_type=aiplatform_v1.DeployModelRequest,
        parent=ENDPOINT,
        response=_deployed,
        metadata=aiplatform_v1.DeployModelOperationMetadata(
            generic_metadata={"partial_failures": []}, deployment_stage="STARTING_MODEL_SERVER"
        ),
    ),
    "create_redis": Service(
        host="redis.googleapis.com",
        audience="https://redis.googleapis.com/",
        method="google.cloud.redis.v1.CloudRedis/CreateInstance",
        request_type=redis_v1.CreateInstanceRequest,
        parent=PARENT,
        response=_instance,
        metadata=redis_v1.OperationMetadata(verb="create", target=f"{PARENT}/instances/cache"),
    ),
    "create_cluster": Service(
        host="alloydb.googleapis.com",
        audience="https://alloydb.googleapis.com/",
        method="google.cloud.alloydb.v1.AlloyDBAdmin/CreateCluster",
        request_type=alloydb_v1.CreateClusterRequest,
        parent=PARENT,
        response=_cluster,
        metadata=alloydb_v1.OperationMetadata(verb="create", target=f"{PARENT}/clusters/orders"),
    ),
    "run_job": Service(
        host="run.googleapis.com",
        audience="https://run.googleapis.com/",
        method="google.cloud.run.v2.Jobs/RunJob",
        request_type=run_v2.RunJobRequest,
        parent=PARENT,
        response=_execution,
        metadata=run_v2.Execution(name=f"{JOB}/executions/nightly-x7k2p", job=JOB),
    ),
    "use_cluster": Service(
        host="us-central1-dataproc.googleapis.com",
        audience="https://dataproc.googleapis.com/",
        method="google.cloud.dataproc.v1.ClusterController/CreateCluster",
        request_type=dataproc_v1.CreateClusterRequest,
        parent="projects/my-project/regions/us-central1",
        response=_dataproc_cluster,
        metadata=dataproc_v1.ClusterOperationMetadata(cluster_name="etl"),
        kind=Dataproc,
    ),
}
"""By the task that calls it."""
