"""What the repository says to clusters: cluster.yaml, KubeRay's resources, the image, and what a job carries along."""

import os
import re
import shlex
import shutil
import tomllib
import zipfile
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.aws.config import _check_ami
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.cli import parse
from jobs.submit import check_places, check_secrets, own_folders
from pipelines.options import SubmitOptions
from pipelines.running.workers import WORKER_BYTES
from tests.jobs.documented import ROOT, commands
from tests.jobs.kuberay_crds import validator

KUBERAY = sorted((ROOT / "jobs/kuberay").glob("*.yaml"))
PACKAGES = {"grepr", "grepr_core", "pipelines", "jobs"}
DOCKERFILE = (ROOT / "jobs/kuberay/Dockerfile").read_text()
#: Cores and GiB of memory of Amazon's machine types.
MACHINES = {"c6i.8xlarge": (32, 64), "m7i.2xlarge": (8, 32), "m7i.8xlarge": (32, 128), "g6.4xlarge": (16, 64)}
GIB = 2**30


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_takes_the_cluster_file(cluster: dict[str, Any]):
    validate_config(prepare_config(cluster))


def test_ray_would_refuse_a_mistake_in_it(cluster: dict[str, Any]):
    cluster["available_node_types"]["gpu_spot"]["max_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(cluster))


def test_the_head_does_no_work_and_every_spot_group_has_a_fallback(cluster: dict[str, Any]):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"cpu_spot", "gpu_spot"}
    for name in spot:
        fallback = types[name.replace("spot", "ondemand")]
        assert fallback["priority"] < types[name]["priority"]
        assert fallback["node_config"]["InstanceType"] == types[name]["node_config"]["InstanceType"]
    assert sum(kind["max_workers"] for kind in types.values()) <= cluster["max_workers"]


def test_every_machine_has_memory_for_a_process_a_core(cluster: dict[str, Any]):
    head = cluster["head_node_type"]
    for name, kind in cluster["available_node_types"].items():
        cores, memory = MACHINES[kind["node_config"]["InstanceType"]]
        # What Ray gives to processes of a machine that is still to come.
        for_processes = memory * GIB * (1 - DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
        assert name == head or for_processes >= cores * WORKER_BYTES, name


def test_the_machine_image_is_neither_rays_old_default_nor_forgotten(cluster: dict[str, Any]):
    configs = [kind["node_config"] for kind in cluster["available_node_types"].values()]
    (image,) = {config["ImageId"] for config in configs}
    config = prepare_config(cluster)
    _check_ami(config)
    assert {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()} == {image}
    # EC2 refuses what is no id before it starts anything.
    assert not re.fullmatch("ami-[0-9a-f]{8,17}", image)
    page = (ROOT / "docs/clusters.md").read_text()
    assert image in page
    assert "aws ssm get-parameter" in page


def test_machines_get_the_wheel_and_nothing_else_of_the_clone(cluster: dict[str, Any]):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    wheel = f"grepr-{version}-py3-none-any.whl"
    mounts = cluster["file_mounts"]
    (mounted,) = (remote for remote, local in mounts.items() if local == f"dist/{wheel}")
    assert mounts == {mounted: f"dist/{wheel}", "/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert f"pip install {mounted}" in cluster["setup_commands"]
    assert "pip wheel --no-deps --wheel-dir dist ." in (ROOT / "docs/clusters.md").read_text()


def test_credentials_are_roles(cluster: dict[str, Any]):
    assert all("IamInstanceProfile" in kind["node_config"] for kind in cluster["available_node_types"].values())
    for path in (ROOT / "cluster.yaml", *KUBERAY):
        assert not re.search("access_key|secretKeyRef|password", path.read_text(), re.IGNORECASE), path


def test_every_place_names_the_same_ray(cluster: dict[str, Any]):
    image = cluster["docker"]["image"]
    assert re.search("^FROM (.*)$", DOCKERFILE, re.MULTILINE)[1] == image
    ray = image.partition(":")[2].partition("-")[0]
    assert {spec["rayVersion"] for spec in map(ray_cluster, KUBERAY)} == {ray}
    (wanted,) = (line for line in requires("grepr") or [] if line.startswith("ray["))
    assert ray in Requirement(wanted).specifier


def test_every_place_names_this_grepr():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = {
        (path.name, found)
        for path in (ROOT / "cluster.yaml", ROOT / "docs/clusters.md", *sorted((ROOT / "jobs/kuberay").iterdir()))
        for found in re.findall(r"\bgrepr[-:](\d+\.\d+\.\d+)", path.read_text())
    }
    assert {found for _, found in named} == {version}
    assert {name for name, _ in named} >= {"cluster.yaml", "clusters.md", "Dockerfile", "score.yaml", "nightly.yaml"}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def ray_job(path: Path) -> dict[str, Any]:
    spec = load(path)["spec"]
    return spec.get("jobTemplate", spec)


def ray_cluster(path: Path) -> dict[str, Any]:
    return ray_job(path)["rayClusterSpec"]


def by_name(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def crds() -> Path:
    """The folder of KubeRay's definitions of its resources."""
    folder = os.environ.get("GREPR_CRDS")
    if not folder or not Path(folder, "ray.io_rayjobs.yaml").is_file():
        pytest.skip("GREPR_CRDS names no folder with ray.io_rayjobs.yaml and ray.io_raycronjobs.yaml of KubeRay 1.7")
    return Path(folder)


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kuberay_takes_every_file(path: Path, crds: Path):
    written = load(path)
    assert written["apiVersion"] == "ray.io/v1"
    validator(crds, written["kind"]).validate(written)


MISTAKES: dict[str, Callable[[dict[str, Any]], object]] = {
    "backofLimit": lambda job: job.update(backofLimit=3),
    "timezone": lambda job: job.update(timezone="Etc/UTC"),
    "minReplica": lambda job: job["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplica=0),
    "resource": lambda job: job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(
        resource={}
    ),
    "v3": lambda job: job["rayClusterSpec"]["autoscalerOptions"].update(version="v3"),
    "DeletePods": lambda job: job["deletionStrategy"]["deletionRules"][0].update(policy="DeletePods"),
    "'3'": lambda job: job.update(backoffLimit="3"),
    "entrypoint": lambda job: job.update(entrypoint=["grepr", "demo"]),
    "headGroupSpec": lambda job: job["rayClusterSpec"].pop("headGroupSpec"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("path", KUBERAY[:2], ids=by_name)
def test_kuberay_would_refuse_a_mistake(path: Path, mistake: str, crds: Path):
    written = load(path)
    MISTAKES[mistake](written["spec"].get("jobTemplate", written["spec"]))
    (refused,) = validator(crds, written["kind"]).iter_errors(written)
    assert mistake in f"{refused.json_path}: {refused.message}"


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_the_operator_takes_what_its_schema_does_not_say(path: Path):
    # ValidateRayJobSpec and ValidateRayJobMetadata of KubeRay 1.7.
    assert re.fullmatch("[a-z]([-a-z0-9]{0,45}[a-z0-9])?", load(path)["metadata"]["name"])
    job = ray_job(path)
    assert not job.keys() & {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}, "not beside deletionRules"
    ends: dict[str, dict[str, int]] = {}
    for rule in job["deletionStrategy"]["deletionRules"]:
        after = rule["condition"].pop("ttlSeconds")
        (end,) = rule["condition"].values()
        assert rule["policy"] not in ends.setdefault(end, {})
        ends[end][rule["policy"]] = after
    # However a job ends, the cluster goes in minutes and the job in days.
    assert ends.keys() == {"SUCCEEDED", "Failed"}
    for rules in ends.values():
        assert rules.keys() == {"DeleteCluster", "DeleteSelf"}, "no DeleteWorkers beside an autoscaler"
        assert 0 < rules["DeleteCluster"] <= 600
        assert rules["DeleteSelf"] >= 86400
    groups = [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]
    assert all("restartPolicy" not in group["template"]["spec"] for group in groups), "the autoscaler's v2 wants Never"


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_pods_come_by_need_and_go_soon(path: Path):
    resource = {"metadata": {"name": "lake", "namespace": "default"}, "spec": ray_cluster(path)}
    assert resource["spec"]["enableInTreeAutoscaling"] is True
    assert resource["spec"]["autoscalerOptions"]["version"] == "v2"
    config = _derive_autoscaling_config_from_ray_cr(resource)
    (written,) = resource["spec"]["workerGroupSpecs"]
    group = config["available_node_types"][written["groupName"]]
    assert written["replicas"] == group["min_workers"] == 0 < group["max_workers"]
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert config["idle_timeout_minutes"] <= 5
    assert "--autoscaling" in shlex.split(ray_job(path)["entrypoint"])


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_the_head_stays_where_it_is(path: Path):
    template = ray_cluster(path)["headGroupSpec"]["template"]
    assert template["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    (term,) = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {(rule["key"], rule["operator"], *rule["values"]) for rule in term["matchExpressions"]} == {
        ("karpenter.sh/capacity-type", "NotIn", "spot"),
        ("eks.amazonaws.com/capacityType", "NotIn", "SPOT"),
        ("cloud.google.com/gke-spot", "NotIn", "true"),
    }


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_no_job_waits_or_tries_for_ever(path: Path):
    job = ray_job(path)
    assert 0 < job["preRunningDeadlineSeconds"] <= 3600
    assert 0 < job["backoffLimit"] <= 3
    assert 0 < job["activeDeadlineSeconds"] <= (86400 if "score" in job["entrypoint"] else 172800)


def test_nights_have_a_time_zone():
    (night,) = (load(path)["spec"] for path in KUBERAY if load(path)["kind"] == "RayCronJob")
    assert night["timeZone"] == "Etc/UTC"
    assert night["jobTemplate"]["activeDeadlineSeconds"] < 86400


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kubernetes_takes_every_pod(path: Path):
    spec = ray_cluster(path)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        broken = deepcopy(pod)
        broken["spec"]["containers"][0]["resource"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.34", strict=True)
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"
    assert {pod["template"]["spec"]["containers"][0]["image"] for pod in groups} == {
        re.search("--tag (\\S+)", DOCKERFILE)[1]
    }


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_grepr_takes_every_entry_point_and_the_cluster_has_room_for_it(path: Path):
    words = shlex.split(ray_job(path)["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.unattended"]
    options = parse(words[3:])
    command = getattr(options, "stage", options)
    check_places(command)
    check_secrets(command)
    (group,) = ray_cluster(path)["workerGroupSpecs"]
    pod = group["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    cpus, gpus, pods = int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0)), group["maxReplicas"]
    assert command.workers == cpus * pods
    assert not gpus or (command.num_workers, command.device) == (gpus * pods, "cuda")
    # A process a core, beside what Ray keeps in shared memory, which counts as the pod's.
    (shared,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])
    assert cpus * WORKER_BYTES <= (int(limits["memory"].removesuffix("Gi")) - int(shared.removesuffix("Gi"))) * GIB


def test_the_image_holds_what_the_build_asks_for():
    copied = re.findall(r"^COPY --chown=ray (.*) /home", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    assert {"pyproject.toml", "README.md", "LICENSE", *PACKAGES} == names


def test_a_job_carries_grepr_and_little_else(tmp_path: Path):
    # The way of 'ray job submit --working-dir .', and of grepr submit.
    create_package(str(ROOT), tmp_path / "working_dir.zip", include_gitignore=True)
    names = zipfile.ZipFile(tmp_path / "working_dir.zip").namelist()
    assert {name.partition("/")[0] for name in names if "/" in name} == PACKAGES
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ROOT / "jobs/kuberay" not in path.parents
    }
    assert {"grepr_core/web/access.py", "pipelines/rating/page/static/index.html"} < ours <= set(names)
    assert (tmp_path / "working_dir.zip").stat().st_size < 40 * 2**20
    for folder in own_folders():
        create_package(str(folder), tmp_path / f"{folder.name}.zip", include_gitignore=True, excludes=["__pycache__"])
        carried = {f"{folder.name}/{name}" for name in zipfile.ZipFile(tmp_path / f"{folder.name}.zip").namelist()}
        assert not [name for name in carried if "pycache" in name]
        assert {name for name in ours if name.startswith(f"{folder.name}/")} <= carried
    assert "METADATA" in zipfile.ZipFile(tmp_path / f"{own_folders()[-1].name}.zip").namelist()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.zip")) < 80 * 2**20


def test_a_job_leaves_what_commands_made_in_the_clone(tmp_path: Path):
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, clone)
    for package in PACKAGES:
        (clone / package).mkdir()
        (clone / package / "module.py").touch()
    for made in (
        "scores/scores/shard=000000.parquet",
        "demo/photos/cat.jpg",
        "my photos/a.jpg",
        "low-run/w.safetensors",
    ):
        (clone / made).parent.mkdir(parents=True)
        (clone / made).touch()
    (clone / "report.html").touch()
    create_package(str(clone), tmp_path / "working_dir.zip", include_gitignore=True)
    names = zipfile.ZipFile(tmp_path / "working_dir.zip").namelist()
    assert {name for name in names if not name.endswith("/")} == {f"{package}/module.py" for package in PACKAGES}


def test_the_guide_has_commands():
    assert {arguments[0] for arguments in commands(ROOT / "docs/clusters.md")} == {"score", "submit"}


@pytest.mark.parametrize("arguments", commands(ROOT / "docs/clusters.md"), ids=" ".join)
def test_grepr_takes_every_command_of_the_guide(arguments: list[str]):
    options = parse(arguments)
    if isinstance(options, SubmitOptions) and options.command:
        command = parse(options.command)
        check_places(command)
        check_secrets(command)
