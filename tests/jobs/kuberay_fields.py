"""The fields of KubeRay's resources that it documents (apis/ray/v1), as far as a run of grepr has use for them.

A schema in the words of JSON Schema, closed like those that the operator installs are for ``kubectl``: a field that is
not here is a mistake of spelling, or has to be looked up and added. Pod templates are Kubernetes' own.
"""

from typing import Any

COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}
#: ``ray start``'s options; the operator takes strings only.
START_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
POD_TEMPLATE = {"type": "object", "required": ["spec"]}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


WORKER_GROUP = _closed(
    ("groupName", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=START_PARAMS,
    template=POD_TEMPLATE,
)
RAY_CLUSTER = _closed(
    ("headGroupSpec", "rayVersion"),
    rayVersion=TEXT,
    authOptions=_closed(("mode",), mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions={"type": "object"},
    headGroupSpec=_closed(
        ("template",),
        rayStartParams=START_PARAMS,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        template=POD_TEMPLATE,
    ),
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)
RAY_JOB = _closed(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    suspend={"type": "boolean"},
    rayClusterSpec=RAY_CLUSTER,
)
SPECS = {
    "RayJob": RAY_JOB,
    "RayCronJob": _closed(("schedule", "jobTemplate"), schedule=TEXT, suspend={"type": "boolean"}, jobTemplate=RAY_JOB),
}


def resource(kind: str) -> dict[str, Any]:
    """Gives the schema of a resource as it is written into a file."""
    metadata = _closed(("name",), name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"})
    return _closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=SPECS[kind],
    )
