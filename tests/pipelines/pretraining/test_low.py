"""The low-level stage, on scenes of small photographs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from grepr_core.pretraining.losses import quality_aware_contrastive_loss
from grepr_core.pretraining.scenes import SceneRecipe, make_scene
from grepr_core.storage import Folder
from pipelines.options import PretrainLowOptions
from pipelines.pretraining.linear_probe import open_probe
from pipelines.pretraining.low import LowLevelStage
from pipelines.pretraining.scene_store import SceneStore, write_index, write_scenes
from pipelines.pretraining.training import train
from tests.lake import jpeg, photo

RECIPE = SceneRecipe(kinds=2, levels=2, side=96)
OPTIONS = PretrainLowOptions(
    source="", output="", epochs=2, batch=4, micro_batch=2, grid=1, cell=32, validation_scenes=3, precision="fp32"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    folder = Folder(str(tmp_path_factory.mktemp("scenes")))
    scenes = ((f"{i}.jpg", make_scene(np.asarray(photo(i, (100 + i, 96))), RECIPE, key=i)) for i in range(11))
    write_index(folder, RECIPE, "test", [write_scenes(folder, 0, scenes, {})])
    return SceneStore(folder)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in five degrees of noise, rated by how little of it there is."""
    folder = tmp_path_factory.mktemp("rated")
    rows = []
    for i in range(30):
        noisy = distort(np.asarray(photo(i, (96, 96))), "gaussian_noise", i % 5 + 1, seed=i)
        (folder / f"{i}.jpg").write_bytes(jpeg(Image.fromarray(noisy), quality=95))
        rows.append({"image": f"{i}.jpg", "mos": -(i % 5), "split": "train" if i < 25 else "val"})
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


def test_what_is_drawn_depends_on_seed_epoch_and_scene_alone(store: SceneStore):
    stage = LowLevelStage(store, OPTIONS)
    assert stage.examples == 8
    views, similarity = stage.example(0, 3)
    assert views.shape == (2, 5, 3, 32, 32)
    assert views.dtype == torch.uint8
    assert similarity.shape == (5, 5)
    assert (similarity.diagonal() == 1).all()
    torch.rand(7)
    assert torch.equal(views, LowLevelStage(store, OPTIONS).example(0, 3)[0])
    assert not torch.equal(views, stage.example(1, 3)[0])
    assert not torch.equal(views, stage.example(0, 4)[0])
    grid = LowLevelStage(store, replace(OPTIONS, grid=3, cell=16))
    assert grid.example(0, 0)[0].shape == (2, 5, 3, 48, 48)


def test_flips_have_the_probability_that_was_asked_for(store: SceneStore):
    never, always = (LowLevelStage(store, replace(OPTIONS, flip_probability=p)) for p in (0, 1))
    for index in range(3):
        (anchor, augmented), (same_anchor, flipped) = never.example(0, index)[0], always.example(0, index)[0]
        assert torch.equal(anchor, same_anchor)
        assert torch.equal(augmented, flipped.flip((-1, -2)))


def test_scenes_are_held_out_of_training(store: SceneStore):
    stage = LowLevelStage(store, replace(OPTIONS, validation_scenes=4))
    assert stage.examples == 7
    known = {stage.example(0, i)[1].numpy().tobytes() for i in range(7)}
    every = {store.read(i).similarity.tobytes() for i in range(11)}
    assert len(known) == 7
    assert known < every
    for bad in (1, 11):
        with pytest.raises(UserError, match=f"--validation-scenes {bad}: must be 0, or at least 2"):
            LowLevelStage(store, replace(OPTIONS, validation_scenes=bad))
    assert LowLevelStage(store, replace(OPTIONS, validation_scenes=None)).examples == 11


def test_loss_compares_the_versions_of_each_scene_in_two_views(store: SceneStore):
    stage = LowLevelStage(store, replace(OPTIONS, temperature=0.3))
    examples = [stage.example(0, i) for i in range(2)]
    encoder = LowLevelEncoder(seed=1).eval()  # so that scenes can be encoded one at a time
    with torch.inference_mode():
        loss = stage.loss(encoder, tuple(map(torch.stack, zip(*examples, strict=True))))
        expected = [
            quality_aware_contrastive_loss(
                encoder(views[0].float() / 255)[None],
                encoder(views[1].float() / 255)[None],
                similarity[None],
                temperature=0.3,
            )
            for views, similarity in examples
        ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_recipe_of_the_paper_is_the_authors_settings():
    made = PretrainLowOptions(source="", output="", recipe="paper")
    named = {name: getattr(made, name) for name in ("kinds", "levels", "grid", "cell", "epochs", "batch", "precision")}
    assert named == {"kinds": 4, "levels": 2, "grid": 7, "cell": 32, "epochs": 15, "batch": 8, "precision": "fp32"}
    rates = (made.learning_rate, made.final_learning_rate, made.warmup_epochs, made.weight_decay, made.temperature)
    assert rates == (1e-4, 1e-6, 0, 0.05, 0.5)
    assert (made.scenes_a_pass, made.side, made.validation_scenes, made.separate_views) == (8, 0, 0, True)
    usual = PretrainLowOptions(source="", output="")
    assert (usual.scenes_a_pass, usual.side, usual.validation_scenes, usual.separate_views) == (4, 384, None, False)


def test_options_beside_the_recipe_count_even_at_their_usual_values():
    given = {"micro_batch": 4, "scene_side": 384, "validation_scenes": 32, "precision": "bf16"}
    made = PretrainLowOptions(source="", output="", recipe="paper", **given)
    assert (made.scenes_a_pass, made.side, made.validation_scenes, made.precision) == (4, 384, 32, "bf16")
    assert PretrainLowOptions(source="", output="", recipe="paper", batch=16).scenes_a_pass == 16


def test_the_recipe_reaches_the_scenes_the_loss_and_the_settings(store: SceneStore):
    stage = LowLevelStage(store, PretrainLowOptions(source="", output="", recipe="paper"))
    assert stage.examples == 11
    assert stage.settings() | {"micro_batch": 8, "separate_views": True} == stage.settings()
    views, similarity = (tensor[None] for tensor in stage.example(0, 0))
    passes = []
    encoder = LowLevelEncoder()
    encoder.register_forward_pre_hook(lambda _, images: passes.append(len(images[0])))
    stage.loss(encoder, (views, similarity))
    assert passes == [5, 5]


def test_a_trained_encoder_loads_strictly_and_was_watched(store: SceneStore, rated: Path, tmp_path: Path):
    probe = open_probe(f"{rated}/ratings.csv", str(rated), {})
    assert len(probe.uris) == 25
    options = replace(OPTIONS, output=str(tmp_path / "run"), learning_rate=1e-3)
    record = train(LowLevelStage(store, options, probe), options)
    encoder = LowLevelEncoder(seed=5)
    encoder.load_state_dict(load_file(tmp_path / "run/low_level.safetensors"))
    fresh = LowLevelEncoder(seed=0).state_dict()
    assert all(not torch.equal(tensor, fresh[name]) for name, tensor in encoder.state_dict().items())
    for epoch in record.epochs:
        assert 0 <= epoch["order_accuracy"] <= 1
        assert -1 <= epoch["probe_srocc"] <= 1
    assert record.settings["scenes"] == {"kinds": 2, "levels": 2, "side": 96, "seed": 0}


def test_features_that_know_the_answer_have_a_high_probe_srocc(rated: Path):
    class NoiseMeter(LowLevelEncoder):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.diff(dim=-1).abs().median()[None, None] * torch.tensor([[1.0, 0.0]])

    probe = open_probe(f"{rated}/ratings.csv", str(rated), {})
    assert probe.srocc(NoiseMeter().features, torch.device("cpu")) > 0.9


def test_ratings_that_cannot_be_used_are_refused_before_training(rated: Path, tmp_path: Path):
    with pytest.raises(UserError, match="check --ratings-images"):
        open_probe(f"{rated}/ratings.csv", str(tmp_path), {})
    (tmp_path / "few.csv").write_text("image,mos\n0.jpg,1\n1.jpg,2\n")
    with pytest.raises(UserError, match="2 ratings to probe with"):
        open_probe(f"{tmp_path}/few.csv", str(rated), {})
