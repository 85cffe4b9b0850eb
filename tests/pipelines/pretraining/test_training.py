"""Training on Ray Train, with a stage that takes no time."""

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from grepr_core.encoders.precision import has_bf16
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.options import TrainingOptions
from pipelines.pretraining.training import learning_rate, train
from pipelines.pretraining.training_log import read_history
from pipelines.running import placement
from pipelines.running.cores import available_cores
from tests.pipelines.tiny_stage import OPTIONS, TinyStage

STEPS = 6


def losses(run: Path) -> np.ndarray:
    """The loss of every step, of which each must be told once."""
    rows = [row for epoch in range(OPTIONS.epochs) for row in read_history(Folder(str(run)), epoch)]
    assert [row["step"] for row in rows] == list(range(1, OPTIONS.epochs * STEPS + 1))
    return np.array([row["loss"] for row in rows])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "tiny.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    train(TinyStage(), replace(OPTIONS, output=str(run)))
    return run


def test_a_run_in_this_process_learns_and_tells(undisturbed: Path):
    curve = losses(undisturbed)
    assert curve[-STEPS:].mean() < 0.5 * curve[:STEPS].mean()
    assert int((undisturbed / "writer.txt").read_text()) == os.getpid()
    record = json.loads((undisturbed / "run.json").read_text())
    assert [epoch["step"] for epoch in record["epochs"]] == [STEPS, 2 * STEPS, 3 * STEPS]
    for number, epoch in enumerate(record["epochs"]):
        assert epoch["loss"] == pytest.approx(curve[number * STEPS : (number + 1) * STEPS].mean())
        assert epoch["images_per_second"] > 0
    assert len(list((undisturbed / "checkpoints").iterdir())) == 2


def test_the_same_command_again_does_nothing(undisturbed: Path, caplog: pytest.LogCaptureFixture):
    written = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    with caplog.at_level(logging.INFO):
        record = train(TinyStage(), replace(OPTIONS, output=str(undisturbed)))
    assert "finished already" in caplog.text
    assert len(record.epochs) == OPTIONS.epochs
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == written


def test_other_options_on_the_same_output_are_refused(undisturbed: Path):
    with pytest.raises(UserError, match=r"--learning-rate: then 0\.01, now 0\.02.*another output"):
        train(TinyStage(), replace(OPTIONS, output=str(undisturbed), learning_rate=0.02))
    with pytest.raises(UserError, match="--power: then 2, now 3"):
        train(TinyStage(power=3), replace(OPTIONS, output=str(undisturbed)))


def test_a_run_goes_on_in_the_precision_it_was_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = replace(OPTIONS, output=str(tmp_path), epochs=1, precision="auto")
    train(TinyStage(), options)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["precision"] == ("bf16" if has_bf16("cpu") else "fp32")
    (tmp_path / "run.json").unlink()
    monkeypatch.setattr("pipelines.running.precision.has_bf16", lambda _device: not has_bf16("cpu"))
    assert train(TinyStage(), options).settings == settings


def test_a_run_killed_in_the_middle_goes_on_exactly(undisturbed: Path, tmp_path: Path):
    command = [sys.executable, "-m", "tests.pipelines.tiny_stage", str(tmp_path / "run"), str(tmp_path / "mark")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "run/run.json").exists()
    assert len(list((tmp_path / "run/checkpoints").iterdir())) > 0
    assert subprocess.run(command, check=False).returncode == 0
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(undisturbed), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(tmp_path / "run"), weights(undisturbed), rtol=0, atol=1e-6)
    for run in (tmp_path / "run", undisturbed):
        board = EventAccumulator(str(run / "tensorboard")).Reload()
        shown = {event.step: event.value for event in board.Scalars("train/loss")}
        assert len(board.Scalars("train/loss")) == len(shown)
        np.testing.assert_allclose([shown[step] for step in sorted(shown)], losses(undisturbed), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_a_worker_that_dies_is_replaced_and_two_workers_equal_one(undisturbed: Path, tmp_path: Path):
    stage = TinyStage(dies_at=(1, 7), mark=str(tmp_path / "mark"))
    train(stage, replace(OPTIONS, output=str(tmp_path / "run"), num_workers=2))
    assert (tmp_path / "mark").exists()
    assert int((tmp_path / "run/writer.txt").read_text()) != os.getpid()
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(undisturbed), rtol=0, atol=1e-4)
    torch.testing.assert_close(weights(tmp_path / "run"), weights(undisturbed), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("one_ray")
def test_workers_that_cannot_be_had_are_refused(tmp_path: Path):
    options = replace(OPTIONS, output=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"--num-workers 3: the 2 micro-batches of a batch cannot be divided"):
        train(TinyStage(), replace(options, num_workers=3))
    many = available_cores() + 1
    with pytest.raises(UserError, match=rf"--num-workers {many} needs as many CPU cores"):
        train(TinyStage(), replace(options, output=str(tmp_path / "many"), num_workers=many, batch=2 * many))


@ray.remote
class Holder:
    """Holds what it was started with."""


class Release(logging.Handler):
    """Ends the holder of a place as soon as somebody says that it is missed."""

    def __init__(self, holder: ray.actor.ActorHandle) -> None:
        super().__init__()
        self._holder, self.said = holder, ""

    def emit(self, record: logging.LogRecord) -> None:
        if not self.said:
            self.said = record.getMessage()
            ray.kill(self._holder)


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_workers_that_have_no_place_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement, "EVERY", 0.0)
    holder = Holder.options(num_cpus=available_cores()).remote()
    ray.get(holder.__ray_ready__.remote())
    release = Release(holder)
    monkeypatch.setattr(placement.log, "handlers", [release])
    assert train(TinyStage(), replace(OPTIONS, output=str(tmp_path), epochs=1, num_workers=1)).epochs
    assert release.said.startswith("1 of 1 processes wait for a place: each needs ")
    assert "places free now: 0" in release.said


def test_batches_that_cannot_be_made_are_refused_and_can_be_mended(tmp_path: Path):
    options = replace(OPTIONS, output=str(tmp_path / "run"), epochs=1)
    with pytest.raises(UserError, match="26 examples for --batch 28 are too few"):
        train(TinyStage(), replace(options, batch=28))
    with pytest.raises(UserError, match="--batch 5 is no multiple of --micro-batch 2"):
        train(TinyStage(), replace(options, batch=5))
    assert train(TinyStage(), replace(options, batch=6)).epochs[-1]["step"] == 4


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(tmp_path: Path):
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        train(TinyStage(), replace(OPTIONS, output=str(tmp_path / "run"), learning_rate=1e30))
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_on_an_object_store_keeps_its_log_there(undisturbed: Path):
    MemoryFileSystem.store.clear()
    train(TinyStage(), replace(OPTIONS, output="memory://bucket/run"))
    files = {path.rsplit("/", 1)[-1] for path in MemoryFileSystem().find("/bucket/run")}
    assert {"run.json", "tiny.safetensors", "epoch=0002.jsonl"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    MemoryFileSystem.store.clear()


def test_learning_rate_is_pytorchs_warm_up_and_cosine():
    options = TrainingOptions(output="", epochs=4, learning_rate=1e-3, final_learning_rate=1e-5, warmup_epochs=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, end_factor=1.0, total_iters=4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=35, eta_min=1e-5)
    expected = []
    for step in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (warmup if step < 4 else cosine).step()
    # The warm-up's last step has the peak already, and so has the first after it.
    expected = [*expected[:5], *expected[4:-1]]
    assert [learning_rate(step, options, 10) for step in range(40)] == pytest.approx(expected)
    for final in (1e-3, None):
        constant = replace(options, final_learning_rate=final, warmup_epochs=0)
        assert {learning_rate(step, constant, 10) for step in range(40)} == {1e-3}
