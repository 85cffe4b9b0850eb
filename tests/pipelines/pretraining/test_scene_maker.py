"""Preparing scenes, on a real Ray in this process."""

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from grepr_core.bundles import bundle_files
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.errors import UserError
from grepr_core.pretraining import distortions
from grepr_core.pretraining.scenes import SceneRecipe, make_scene
from grepr_core.storage import Folder
from grepr_core.zero_shot import patches
from pipelines.options import SceneOptions, pretraining
from pipelines.pretraining.scene_maker import MOST_A_GPU, SCENES_FOLDER, make_scenes, processes_per_gpu
from pipelines.pretraining.scene_store import INDEX_FILE, SceneStore
from pipelines.running.shard_files import finished_shards
from pipelines.running.shard_pool import ShardRun
from pipelines.running.workers import Node, plan_workers
from tests.lake import make_lake

RECIPE = SceneRecipe(kinds=2, levels=1, side=96)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_lake(tmp_path_factory.mktemp("lake") / "photos", 40)
    (folder / "0003.jpg").write_bytes(b"no picture")
    return folder


def test_options_know_what_the_method_offers():
    assert len(distortions.DISTORTIONS) == pretraining.MOST_KINDS
    assert len(distortions.LEVELS) == pretraining.MOST_LEVELS
    assert patches.PATCH == pretraining.LEAST_SCENE_SIDE
    assert SemanticEncoder.architecture == bundle_files.EFFICIENTNET_LITE0 == pretraining.EFFICIENTNET_LITE0
    with pytest.raises(ValueError, match="--kinds"):
        SceneOptions(source="", output="", kinds=23)


@pytest.mark.usefixtures("warm_process")
def test_every_photograph_that_can_be_used_becomes_a_scene(
    lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = make_scenes(SceneOptions(source=str(lake), output=str(tmp_path)), RECIPE)
    assert len(store) == 39
    assert "1 photograph left out" in caplog.text
    assert "0003.jpg: unreadable" in caplog.text
    assert store.recipe == RECIPE
    scenes = [store.read(index) for index in range(39)]
    assert len({scene.versions[0].tobytes() for scene in scenes}) == 39
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read(38).versions, scenes[38].versions)
    np.testing.assert_array_equal(again.read(38).similarity, scenes[38].similarity)
    with pytest.raises(UserError, match="holds scenes made otherwise"):
        make_scenes(SceneOptions(source=str(lake), output=str(tmp_path)), SceneRecipe(kinds=3, levels=1, side=96))


def test_what_is_stored_is_what_was_made(tmp_path: Path):
    from pipelines.pretraining.scene_store import ScenesSummary, write_index, write_scenes

    recipe = SceneRecipe(kinds=1, levels=2, side=64)
    rng = np.random.default_rng(0)
    made = [make_scene(rng.integers(0, 256, (70 + i, 80, 3), np.uint8), recipe, key=i) for i in range(5)]
    folder = Folder(str(tmp_path))
    for shard, part in enumerate((made[:2], [], made[2:])):
        assert write_scenes(folder, shard, ((str(i), scene) for i, scene in enumerate(part)), {}).scenes == len(part)
    write_index(folder, recipe, "here", [ScenesSummary(shard, n, {}) for shard, n in ((2, 3), (0, 2), (1, 0))])
    store = SceneStore(folder)
    assert len(store) == 5
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(store.read, list(range(5)) * 40))
    for stored, scene in zip(read, made * 40, strict=True):
        np.testing.assert_array_equal(stored.versions, scene.versions)
        np.testing.assert_array_equal(stored.similarity, scene.similarity)
        assert (stored.kinds, stored.levels) == (scene.kinds, scene.levels)


@pytest.mark.usefixtures("warm_process")
def test_interrupted_in_the_middle_it_goes_on(lake: Path, tmp_path: Path):
    class Interrupted(ShardRun):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield next(super().__iter__())
            raise KeyboardInterrupt

    options, recipe = SceneOptions(source=str(lake), output=str(tmp_path)), SceneRecipe(kinds=6, levels=2, side=120)
    with mock.patch("pipelines.pretraining.scene_maker.ShardRun", Interrupted), pytest.raises(KeyboardInterrupt):
        make_scenes(options, recipe)
    scenes = Folder(str(tmp_path)).child(SCENES_FOLDER)
    assert not scenes.exists(INDEX_FILE)
    done = {
        shard: (tmp_path / SCENES_FOLDER / f"shard={shard:06d}.parquet").stat().st_mtime_ns
        for shard in finished_shards(scenes)
    }
    assert done
    assert len(make_scenes(options, recipe)) == 39
    for shard, written in done.items():
        assert (tmp_path / SCENES_FOLDER / f"shard={shard:06d}.parquet").stat().st_mtime_ns == written


GIB = 2**30
HEAD, CPUS, GPU = Node(0, 0, 8 * GIB), Node(32, 0, 64 * GIB), Node(16, 1, 64 * GIB)


@pytest.mark.parametrize(
    ("nodes", "device", "requested", "expected"),
    [
        ([GPU], "auto", None, 16),
        ([GPU], "cuda", 3, 16),
        ([GPU], "cpu", None, 0),
        ([CPUS], "auto", None, 0),
        ([CPUS], "cuda", None, 0),  # training says that there is none
        ([Node(16, 3, 64 * GIB)], "auto", 16, 6),  # every core has a share
        ([HEAD, CPUS, GPU, GPU], "auto", None, 32 // 2),
        ([HEAD, *[CPUS] * 4, GPU], "auto", None, 0),  # most cores have none beside them
        ([HEAD, *[CPUS] * 4, GPU], "auto", 16, 16),
        ([Node(2 * MOST_A_GPU, 1, 512 * GIB)], "auto", None, 0),
        ([Node(0, 1, 8 * GIB), CPUS], "auto", None, 0),
    ],
)
def test_gpus_compare_versions_where_that_pays(nodes: list[Node], device: str, requested: int | None, expected: int):
    found = processes_per_gpu(nodes, device, requested)
    assert found == expected
    if found and len(nodes) == 1:
        workers = plan_workers(nodes=nodes, device="cuda", requested=requested, per_gpu=found)
        assert workers.count == requested or workers.count == nodes[0].cpus


def test_versions_are_compared_on_the_device_that_is_asked_for():
    photo = np.random.default_rng(0).integers(0, 256, (96, 100, 3), np.uint8)
    on_cpu = make_scene(photo, RECIPE, key=7)
    # "meta" has no values, so that nothing but the comparison can be there.
    with mock.patch("grepr_core.pretraining.scenes.fsim_matrix", return_value=torch.eye(3)) as compare:
        elsewhere = make_scene(photo, RECIPE, key=7, device="meta")
    (pixels,) = compare.call_args.args
    assert (pixels.device.type, pixels.dtype, pixels.shape) == ("meta", torch.float32, (3, 3, 96, 96))
    np.testing.assert_array_equal(elsewhere.versions, on_cpu.versions)
    np.testing.assert_array_equal(elsewhere.similarity, np.eye(3))
