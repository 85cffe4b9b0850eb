import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.encoders.high_level import POSITIONS, HighLevelEncoder, load_open_clip
from grepr_core.encoders.semantic import load_semantic_encoder
from grepr_core.errors import UserError
from grepr_core.pretraining.group_contrast import centre_crop
from grepr_core.scoring.scorer import Scorer
from grepr_core.storage import Folder
from pipelines.models.bundles import build
from pipelines.options import ModelBuildOptions, PretrainHighOptions
from pipelines.pretraining.high import CropMaker, HighLevelStage, LabelledCropMaker, run
from pipelines.pretraining.scene_store import SceneStore, read_summary
from pipelines.pretraining.training_log import read_history
from pipelines.running.shard_files import finished_shards
from pipelines.running.workers import Node, plan_workers
from tests.grepr_core.models import full_bundle
from tests.lake import grepr, make_lake, photo, run_here
from tests.tiny_clip import save_tiny_clip

PHOTOS, BATCH = 14, 6
#: A tiny network needs a larger rate than CLIP to learn anything in so few steps.
SETTINGS = {
    "crop": 64,
    "batch": BATCH,
    "learning_rate": 1e-4,
    "warmup_epochs": 1.0,
    "epochs": 3,
    "precision": "fp32",
    "device": "cpu",
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, one of them smaller than a crop, and two files that are none."""
    folder = make_lake(tmp_path_factory.mktemp("lake") / "photos", PHOTOS - 1)
    photo(5, (50, 40)).save(folder / "small.png")
    (folder / "0003a.jpg").write_bytes((folder / "0003.jpg").read_bytes()[:700])
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def options(architecture: str, lake: Path, tmp_path_factory: pytest.TempPathFactory, warm_process: None):
    """Makes options for runs that share their manifest and crops, which take the most time."""
    prepared = tmp_path_factory.mktemp("prepared")

    def make(output: Path, **changes: object) -> PretrainHighOptions:
        settings = {**SETTINGS, "source": str(lake), "architecture": architecture, "pretrained": None, **changes}
        if (prepared / "crops").exists():
            output.mkdir()
            (output / "crops").symlink_to(prepared / "crops")
            (output / "manifest").symlink_to(prepared / "manifest")
        return PretrainHighOptions(output=str(output), **settings)

    run(make(prepared, epochs=1))
    return make


def losses(output: Path, epochs: int = 3) -> list[float]:
    return [row["loss"] for epoch in range(epochs) for row in read_history(Folder(str(output)), epoch)]


def tower(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "high_level.safetensors")


def test_trained_tower_is_the_encoder_and_keeps_statistics_and_prompts(options, tmp_path: Path) -> None:
    record = run(options(tmp_path / "run", epochs=15))
    assert len(record.epochs) == 15
    curve = losses(tmp_path / "run", 15)
    assert len(curve) == 15 * (PHOTOS // BATCH)
    assert np.mean(curve[-6:]) < np.mean(curve[:3]) - 0.1
    rates = [row["learning_rate"] for row in read_history(Folder(str(tmp_path / "run")), 0)]
    assert rates == pytest.approx([5e-5, 1e-4])
    assert record.epochs[-1]["learning_rate"] == pytest.approx(1e-4)
    assert record.epochs[-1]["pseudo_label_spread"] > 0

    before, after = tower(tmp_path / "run/initial"), tower(tmp_path / "run")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        # The bias of the keys shifts all scores of the attention alike.
        kept = "running_" in name or "num_batches" in name or name in ("text_features", "visual.attnpool.k_proj.bias")
        assert torch.equal(tensor, before[name]) == kept, name
    config = json.loads((tmp_path / "run/high_level.json").read_text())
    encoder = HighLevelEncoder.from_state(config, after)
    assert encoder.config() == config
    assert encoder(torch.rand(1, 3, 40, 90)).isfinite().all()


def test_training_starts_from_what_open_clip_loads(options, architecture: str, tmp_path: Path) -> None:
    run(options(tmp_path / "run", epochs=1))
    expected = load_open_clip(architecture)
    initial = tower(tmp_path / "run/initial")
    assert all(torch.equal(tensor, initial[name]) for name, tensor in expected.state_dict().items())


def test_crops_are_the_photographs_that_can_be_decoded(options, lake: Path, tmp_path: Path) -> None:
    from PIL import Image

    made = options(tmp_path / "run")
    store = SceneStore(Folder(str(tmp_path / "run/crops")))
    assert len(store) == PHOTOS
    files = [file for file in sorted(lake.iterdir()) if file.name not in ("0003a.jpg", "empty.jpg")]
    stage = HighLevelStage(store, made)
    for index, file in enumerate(files):
        expected = centre_crop(np.asarray(Image.open(file).convert("RGB")), 64)
        (crop,) = stage.example(epoch=2, index=index)
        assert crop.dtype == torch.uint8
        assert np.array_equal(crop.permute(1, 2, 0), expected), file


def test_photographs_that_cannot_be_decoded_are_left_out_with_the_reason(options, tmp_path: Path) -> None:
    options(tmp_path / "run")
    crops = Folder(str(tmp_path / "run/crops"))
    summaries = [read_summary(crops, shard) for shard in finished_shards(crops)]
    failures = {Path(uri).name: reason for summary in summaries for uri, reason in summary.failures.items()}
    assert failures.keys() == {"0003a.jpg", "empty.jpg"}
    assert "empty" in failures["empty.jpg"]


@pytest.mark.slow
def test_two_workers_equal_one(options, tmp_path: Path) -> None:
    run(options(tmp_path / "one"))
    run(options(tmp_path / "two", num_workers=2))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3 * (PHOTOS // BATCH)
    assert np.ptp(one) > 0.01
    assert two == pytest.approx(one, abs=1e-4)
    first, second = tower(tmp_path / "one"), tower(tmp_path / "two")
    initial = tower(tmp_path / "one/initial")
    moved = sum((first[name] - initial[name]).norm() for name in initial if "conv" in name)
    apart = sum((first[name] - second[name]).norm() for name in initial if "conv" in name)
    assert apart < 0.02 * moved


def test_frozen_head_and_moving_statistics_reproduce_the_authors(options, tmp_path: Path) -> None:
    made = options(tmp_path / "run", frozen_head=True, batch_norm="train")
    run(made)
    stage = HighLevelStage(SceneStore(Folder(str(tmp_path / "run/crops"))), made)
    before = stage.build().state_dict()
    newest = max((tmp_path / "run/checkpoints").glob("*.safetensors"))
    after = {name.removeprefix("model."): t for name, t in load_file(newest).items() if name.startswith("model.")}
    assert before.keys() == after.keys()
    for name in ("head.0.weight", "head.0.bias", "encoder.text_features"):
        assert torch.equal(after[name], before[name]), name
    for name in ("encoder.visual.bn1.running_mean", "encoder.visual.conv1.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_recipe_of_the_paper_is_the_authors_settings() -> None:
    made = PretrainHighOptions(source="s", output="o", recipe="paper")
    assert (made.frozen_head, made.normalisation, made.positional_embedding) == (True, "train", True)
    assert (made.precision, made.crop, made.batch, made.images_a_group, made.epochs) == ("fp32", 224, 128, 4, 15)
    assert (made.learning_rate, made.final_learning_rate, made.warmup_epochs) == (1e-6, None, 2.5)
    assert (made.weight_decay, made.temperature, made.projection_size) == (0, 0.5, 128)
    given = PretrainHighOptions(source="s", output="o", recipe="paper", batch_norm="eval", precision="bf16")
    assert (given.normalisation, given.precision) == ("eval", "bf16")
    assert PretrainHighOptions(source="s", output="o").normalisation == "eval"


def test_positional_embedding_is_trained_and_left_out_of_the_result(options, tmp_path: Path) -> None:
    made = options(tmp_path / "run", epochs=1, warmup_epochs=0.0, positional_embedding=True)
    record = run(made)
    assert record.settings["positional_embedding"] is True
    stage = HighLevelStage(SceneStore(Folder(str(tmp_path / "run/crops"))), made)
    before = stage.build().state_dict()["encoder." + POSITIONS]
    newest = max((tmp_path / "run/checkpoints").glob("*.safetensors"))
    assert not torch.equal(load_file(newest)["model.encoder." + POSITIONS], before)
    assert POSITIONS not in tower(tmp_path / "run")
    encoder = HighLevelEncoder.from_state(
        json.loads((tmp_path / "run/high_level.json").read_text()), tower(tmp_path / "run")
    )
    assert encoder(torch.rand(1, 3, 40, 90)).isfinite().all()


def test_positional_embedding_is_for_crops_of_clips_own_size(options, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crops of 64 pixels, not of --crop 96"):
        run(options(tmp_path / "run", crop=96, positional_embedding=True))


def test_ratings_are_watched_and_change_nothing(options, tmp_path: Path) -> None:
    rated = make_lake(tmp_path / "rated", 22)
    rows = [f"{file.name},{index % 7}" for index, file in enumerate(sorted(rated.iterdir()))]
    (tmp_path / "rated.csv").write_text("image,mos\n" + "\n".join(rows))
    record = run(options(tmp_path / "watched", ratings=str(tmp_path / "rated.csv"), ratings_images=str(rated)))
    assert all(-1 <= epoch["probe_srocc"] <= 1 for epoch in record.epochs)
    run(options(tmp_path / "unwatched"))
    assert losses(tmp_path / "watched") == pytest.approx(losses(tmp_path / "unwatched"), abs=1e-6)


def test_efficientnet_lite0_learns_from_the_zero_shot_scores_of_a_bundle(
    lake: Path, tmp_path: Path, warm_process: None
) -> None:
    teacher = full_bundle()
    save_bundle(replace(teacher, low=None, pristine=None, regressor=None), str(tmp_path / "teacher"))
    made = PretrainHighOptions(
        **{**SETTINGS, "epochs": 1, "architecture": "efficientnet_lite0"},
        pseudo_labels=str(tmp_path / "teacher"),
        source=str(lake),
        output=str(tmp_path / "run"),
    )
    record = run(made)
    assert record.settings["pretrained"] is None
    stage = HighLevelStage(SceneStore(Folder(str(tmp_path / "run/crops"))), made)
    files = [file for file in sorted(lake.iterdir()) if file.name not in ("0003a.jpg", "empty.jpg")]
    scorer = Scorer(load_bundle(str(tmp_path / "teacher")), device="cpu", precision="fp32")
    for index, score in enumerate(scorer.score([file.read_bytes() for file in files])):
        _, label = stage.example(epoch=0, index=index)
        assert label.item() == pytest.approx(score.score_high, abs=1e-6)  # of the whole photograph, without ratings

    build(ModelBuildOptions(high=str(tmp_path / "run"), output=str(tmp_path / "tuned")))
    tuned, plain = load_bundle(str(tmp_path / "tuned")).high, load_semantic_encoder()
    moved = [name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, tuned.state_dict()[name])]
    assert moved
    assert not any("running" in name for name in moved)
    assert run(made) == record


@pytest.mark.parametrize(
    ("cores", "gpus", "device", "requested", "expected"),
    [
        (16, 1, "auto", None, 4),
        (128, 2, "cuda", None, 4),
        (2, 1, "auto", None, 2),
        (16, 1, "auto", 8, 8),
        (16, 2, "auto", 6, 3),
        (16, 1, "auto", 1, 1),
        (16, 1, "cpu", None, 0),
        (16, 0, "auto", None, 0),
    ],
)
def test_a_few_processes_label_on_a_gpu(
    cores: int, gpus: int, device: str, requested: int | None, expected: int
) -> None:
    nodes = [Node(cores, gpus, 2**38)]
    found = LabelledCropMaker.per_gpu(nodes, device, requested)
    assert found == expected
    if found:
        count = plan_workers(nodes=nodes, device="cuda", requested=requested, per_gpu=found).count
        assert count == requested or count == gpus * found


def test_pseudo_labels_need_a_zero_shot_score(lake: Path, tmp_path: Path) -> None:
    save_bundle(Bundle("plain", load_semantic_encoder()), str(tmp_path / "plain"))
    settings = {"source": str(lake), "output": str(tmp_path / "run"), "architecture": "efficientnet_lite0"}
    with pytest.raises(UserError, match="no zero-shot score"):
        run(PretrainHighOptions(**settings, pseudo_labels=str(tmp_path / "plain")))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_run_goes_on_exactly(options, architecture: str, lake: Path, tmp_path: Path) -> None:
    epochs = 12
    run(options(tmp_path / "whole", epochs=epochs))
    options(tmp_path / "killed")
    command = ["pretrain", "high", lake, "--output", tmp_path / "killed", "--architecture", architecture]
    command += ["--pretrained", "None", "--crop", "64", "--batch", str(BATCH), "--learning-rate", "1e-4"]
    command += ["--warmup-epochs", "1.0", "--epochs", str(epochs), "--precision", "fp32", "--device", "cpu"]
    command += ["--num-workers", "0", "--checkpoint-steps", "1"]
    process = grepr(*command)
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed/checkpoints/step=000000003.safetensors").exists():
        assert time.monotonic() < deadline, "no checkpoint was written in time"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/run.json").exists()
    code, out, err = run_here(*command)
    assert code == 0, err
    assert "going on from step" in err
    assert f"Weights: {tmp_path}/killed/high_level.safetensors" in out
    assert losses(tmp_path / "killed", epochs) == pytest.approx(losses(tmp_path / "whole", epochs), abs=1e-6)
    for name, tensor in tower(tmp_path / "whole").items():
        torch.testing.assert_close(tower(tmp_path / "killed")[name], tensor, rtol=0, atol=1e-6)


def test_same_command_again_needs_neither_weights_nor_photographs(options, tmp_path: Path) -> None:
    made = options(tmp_path / "run", epochs=1)
    first = run(made)
    assert run(made) == first


def test_other_weights_in_the_same_output_are_refused(options, architecture: str, tmp_path: Path) -> None:
    made = options(tmp_path / "run", epochs=1)
    run(made)
    other = PretrainHighOptions(**{**vars(made), "architecture": "RN50", "pretrained": "openai"})
    with pytest.raises(UserError, match="holds weights made otherwise"):
        run(other)


@pytest.mark.parametrize(
    ("architecture", "pretrained"), [("RN50", "nowhere.pt"), ("ViT-B-32", "openai"), ("RN50", None), ("RN49", "openai")]
)
def test_weights_that_cannot_be_had(architecture: str, pretrained: str | None, lake: Path, tmp_path: Path) -> None:
    made = PretrainHighOptions(
        source=str(lake), output=str(tmp_path / "run"), architecture=architecture, pretrained=pretrained
    )
    with pytest.raises(UserError, match=f"--architecture {architecture} --pretrained {pretrained}"):
        run(made)
    # A better try may use the same output.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "--group-size"),
        ({"group_size": 65}, "--group-size"),
        ({"batch": 3}, "--group-size"),
        ({"crop": 16}, "--crop"),
        ({"temperature": 0.0}, "--temperature"),
        ({"projection_size": 0}, "--projection-size"),
        ({"ratings": "rated.csv"}, "--ratings-images"),
        ({"architecture": "efficientnet_lite0"}, "--pseudo-labels"),
        ({"pseudo_labels": "base"}, "--pseudo-labels"),
    ],
)
def test_options_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainHighOptions(source="photos", output="run", **changes)


def test_groups_are_a_32nd_of_the_batch_unless_told_otherwise() -> None:
    sizes = [PretrainHighOptions(source="s", output="o", batch=batch).images_a_group for batch in (128, 256, 16)]
    assert sizes == [4, 8, 2]
    assert PretrainHighOptions(source="s", output="o", group_size=7).images_a_group == 7


def test_small_photographs_are_taken_as_scoring_takes_them() -> None:
    assert CropMaker.least_side == 32
