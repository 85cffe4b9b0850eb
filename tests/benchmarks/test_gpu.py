"""The benchmark of GPUs: what it counts, how it shares its time, what it calls right; and all of it on a CPU."""

import ast
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.gpu import feeding, right
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.feeding import feed, synchronisations_of
from benchmarks.gpu.limit import Layer, Rates, count_layers, layers_of, least_seconds
from benchmarks.gpu.photographs import FLICKR, LARGE, SQUARE, make_photographs
from benchmarks.gpu.report import Report
from benchmarks.gpu.steps import NotHere, Step, carry_out
from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Status
from grepr_core.encoders.resnet18 import ResNet18
from grepr_core.scoring.image_score import ImageScore


def on_meta(module: nn.Module, *shape: int) -> list[Layer]:
    module = module.to("meta").eval()
    return count_layers(lambda: module(torch.empty(shape, device="meta")))


def test_operations_of_resnet_18_are_those_of_its_paper():
    layers = on_meta(ResNet18(), 1, 3, 224, 224)
    assert len(layers) == 1 + 16 + 3
    # 1.814 GMACs with the classifier's 0.0005.
    assert sum(layer.operations for layer in layers) / 2 == pytest.approx(1.8136e9, rel=1e-4)


def test_bytes_of_a_layer_are_its_inputs_weights_and_result():
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert on_meta(convolution, 2, 8, 10, 10) == [Layer(2 * 2 * 8 * 100 * 9, 4 * (2 * 2 * 8 * 100 + 8 * 9))]
    assert on_meta(nn.Linear(5, 7, bias=False), 3, 5) == [Layer(2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))]


def test_what_stands_between_layers_is_not_counted():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    assert len(on_meta(network, 1, 3, 8, 8)) == 1


def test_weights_are_read_once_a_batch():
    bundle = load_bundle("grepr-lite")
    one, two = (layers_of(bundle, torch.bfloat16, (count, 64, 64)) for count in (1, 2))
    assert sum(layer.operations for layer in two) == 2 * sum(layer.operations for layer in one)
    assert sum(layer.bytes for layer in two) < 2 * sum(layer.bytes for layer in one)


def test_a_layer_takes_the_longer_of_its_operations_and_its_bytes():
    assert least_seconds([Layer(100, 10), Layer(10, 100)], Rates(operations=10, bytes=20)) == 10 + 5


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path, {"card": "A card/1", "processor": "none"})


def step(name: str, run, wants: float = 1.0) -> Step:
    return Step("table", name, wants, run)


def test_measurements_share_the_time_and_those_without_are_named(report):
    given = []

    def measured(seconds: float):
        given.append(seconds)
        return [{"seconds": seconds}]

    carry_out([step("long", measured, 100), step("short", measured, 1)], report, seconds=1000)
    assert given == [100, 1]
    carry_out([step("none", measured)], report, seconds=0)
    found = json.loads(report.path.read_text())
    assert len(given) == 2
    assert found["left_out"] == [{"table": "table", "what": "none", "reason": "no time was left for it"}]
    assert report.right


def test_a_run_that_is_cut_leaves_what_it_has(report):
    def cut(_: float):
        yield {"value": 1.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out([step("cut", cut)], report, seconds=100)
    found = json.loads(report.path.read_text())
    assert report.path.name.startswith("A-card-1-")
    assert found["tables"] == {"table": [{"value": 1.0}]}
    assert not found["finished"]


def test_what_fails_or_is_not_right_is_told_and_the_others_go_on(report, capsys):
    def fails(_: float):
        raise RuntimeError("no kernel")

    def is_not_here(_: float):
        raise NotHere("open_clip is not installed")

    carry_out([step("missing", is_not_here)], report, seconds=100)
    assert report.right
    carry_out([step("fails", fails), step("wrong", lambda _: [{"right": False}])], report, seconds=100)
    found = json.loads(report.path.read_text())
    assert [note["what"] for note in found["not_right"]] == ["fails", "right NO"]
    assert "no kernel" in capsys.readouterr().out
    assert not report.right


def test_photographs_are_the_same_for_a_seed_and_of_all_kinds(tmp_path):
    one, other = (make_photographs(tmp_path / name, quick=True) for name in "ab")
    assert [path.read_bytes() for path in one[FLICKR]] == [path.read_bytes() for path in other[FLICKR]]
    assert all(max(Image.open(path).size) in (500, 640, 1024) for path in one[FLICKR])
    assert {Image.open(path).size for path in one[SQUARE]} == {(512, 512)}
    camera = Image.open(io.BytesIO(one[LARGE][0].read_bytes()))
    assert [sampling[1:3] for sampling in camera.layer] == [(2, 2), (1, 1), (1, 1)]


def scores(values: np.ndarray) -> list[ImageScore]:
    features = np.random.default_rng(0).normal(size=(len(values), 4129)).astype(np.float32)
    return [ImageScore(Status.SCORED, score=v, features=f) for v, f in zip(values.tolist(), features, strict=True)]


def test_scores_are_right_within_the_limits_of_each_precision():
    bundle = load_bundle("grepr-lite")
    expected = np.linspace(0.1, 0.8, 50)

    def is_right(precision, off):
        return right.agreement(bundle, precision, scores(expected + off), scores(expected), "score", ranks=True)[
            "right"
        ]

    assert is_right("fp32", 5e-5)
    assert not is_right("fp32", 2e-4)
    assert is_right("bf16", 5e-3)
    assert not is_right("bf16", 2e-2)
    assert not is_right("bf16", np.eye(50)[3] * 0.06)
    with pytest.raises(RuntimeError, match="broken"):
        right.values([ImageScore(Status.UNREADABLE, error="broken")], "score")


def test_features_are_compared_by_block_and_to_the_bit():
    bundle = load_bundle("grepr-lite")
    one = scores(np.linspace(0, 1, 5))
    changed = one[0].features.copy()
    changed[-128:] *= 1.01
    other = [replace(one[0], features=changed), *one[1:]]
    assert right.features_difference(bundle, one, one) == 0
    assert 0.005 < right.features_difference(bundle, other, one) < 0.02
    assert right.same(one[0], one[0])
    assert not right.same(one[0], other[0])


def test_synchronisations_are_counted_by_where_they_come_from():
    def run():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    ((place, count),) = synchronisations_of(run).items()
    assert place.startswith("test_gpu.py:")
    assert count == 3


def test_a_scorer_is_fed_until_the_time_is_over_and_counts_from_its_second_pass():
    class Scorer:
        def __init__(self):
            self.seconds = {"read": 0.0, "decode": 0.0, "model": 0.0}
            self.calls = []

        def score(self, encoded):
            self.calls.append(list(encoded))
            self.seconds["model"] += 1

    scorer = Scorer()
    fed = feed(scorer, feeding.contents_of([Path(__file__)], "memory"), seconds=0)
    assert scorer.calls == [[Path(__file__).read_bytes()]] * 2
    assert (fed.images, fed.steps) == (1, {"read": 0.0, "decode": 0.0, "model": 1.0})


@pytest.mark.parametrize("path", ["tests/grepr_core/scoring/test_gpu.py", "tests/made_photos.py", "benchmarks/gpu"])
def test_what_runs_on_a_machine_with_a_gpu_needs_no_ray(path: str):
    root = Path(__file__).parents[2]
    for file in [root / path] if path.endswith(".py") else sorted((root / path).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"ray", "pipelines", "jobs", "grepr"}, (file, name)
                assert name not in {"tests.lake", "tests.conftest"}, (file, name)


@pytest.mark.slow
def test_the_whole_of_it_runs_on_a_cpu(tmp_path, capsys):
    assert main(["--device", "cpu", "--quick", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert found["finished"]
    assert found["not_right"] == []
    assert {note["table"] for note in found["left_out"]} == {"synchronisations", "right: pytest -m gpu"}
    assert set(found["tables"]) == {
        *("right", "right: pixels", "right: zero-shot"),
        *("rates", "forward pass", "an L4, by calculation", "scorer", "pretraining"),
    }
    assert {row["processes"] for row in found["tables"]["scorer"]} == {1, 2}
    assert "| images/s |" in capsys.readouterr().out
