"""What the repository says to clusters: cluster.yaml, KubeRay's resources, the image, and what a job carries along."""

import re
import shlex
import shutil
import zipfile
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.cli import parse
from jobs.submit import check_places, check_secrets, own_folders
from pipelines.options import NightlyOptions, ScoreOptions, SubmitOptions
from pipelines.running.workers import Node, plan_workers
from pipelines.scoring.nightly import night_options
from tests.jobs.documented import ROOT, commands
from tests.jobs.kuberay_fields import resource

KUBERAY = sorted((ROOT / "jobs/kuberay").glob("*.yaml"))
PACKAGES = {"grepr", "grepr_core", "pipelines", "jobs"}
DOCKERFILE = (ROOT / "jobs/kuberay/Dockerfile").read_text()


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


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def ray_job(path: Path) -> dict[str, Any]:
    spec = load(path)["spec"]
    return spec.get("jobTemplate", spec)


def ray_cluster(path: Path) -> dict[str, Any]:
    return ray_job(path)["rayClusterSpec"]


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kuberay_knows_every_field(path: Path):
    written = load(path)
    jsonschema.validate(written, resource(written["kind"]))
    written["spec"]["backofLimit"] = 3
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(written, resource(written["kind"]))


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
    program, *arguments = shlex.split(ray_job(path)["entrypoint"])
    assert program == "grepr"
    options = parse(arguments)
    (group,) = ray_cluster(path)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus = int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0))
    training = getattr(options, "stage", None)
    workers = plan_workers(
        nodes=[Node(0, 0, 0), *[Node(cpus, gpus, 40 * 2**30)] * group["replicas"]],
        device=training.device if training else options.device,
        requested=training.num_workers if training else options.workers,
    )
    assert workers.count == (group["replicas"] if gpus else cpus * group["replicas"])


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
    assert (tmp_path / "working_dir.zip").stat().st_size < 40 * 2**20
    for folder in own_folders():
        create_package(str(folder), tmp_path / f"{folder.name}.zip", include_gitignore=True, excludes=["__pycache__"])
        assert not [name for name in zipfile.ZipFile(tmp_path / f"{folder.name}.zip").namelist() if "pycache" in name]
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


def test_a_night_builds_on_the_last_one_that_was_finished(tmp_path: Path):
    def night(day: int, hour: int) -> ScoreOptions:
        options = parse(["nightly", "s3://lake/", str(tmp_path), "--workers", "8", "--features", "--shard-size", "7"])
        assert isinstance(options, NightlyOptions)
        return night_options(options, datetime(2026, 3, day, hour, tzinfo=UTC))

    def score(*arguments: str) -> object:
        return parse(["score", "s3://lake/", *arguments, "--workers", "8", "--features", "--shard-size", "7"])

    first = f"{tmp_path}/2026-03-01"
    assert night(1, 22) == night(2, 4) == score(first)
    (tmp_path / "2026-03-01").mkdir()
    (tmp_path / "2026-03-01/run.json").touch()
    (tmp_path / "2026-03-02").mkdir()  # was not finished
    third = night(3, 22)
    assert third == score(f"{tmp_path}/2026-03-03", "--since", first)
    (tmp_path / "2026-03-03").mkdir()
    (tmp_path / "2026-03-03/run.json").touch()
    assert night(4, 3) == third  # started again in the same night
