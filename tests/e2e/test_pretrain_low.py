"""The command ``grepr pretrain low`` as a user runs it; with a Ray of its own where it is interrupted."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.storage import Folder
from pipelines.pretraining.training_log import read_history
from tests.lake import grepr, make_lake, run_here

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray", "one_thread")]

EPOCHS = 3
ARGUMENTS = (
    *("--kinds", "2", "--levels", "2", "--scene-side", "96", "--grid", "1", "--precision", "fp32"),
    *("--batch", "4", "--micro-batch", "2", "--epochs", str(EPOCHS), "--validation-scenes", "3"),
    *("--checkpoint-steps", "1"),
)


def losses(run: Path) -> np.ndarray:
    return np.array([row["loss"] for epoch in range(EPOCHS) for row in read_history(Folder(str(run)), epoch)])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("lake") / "photos", 23)


@pytest.fixture(scope="module")
def undisturbed(lake: Path, one_ray: None, one_thread: None) -> Path:
    run = lake.parent / "undisturbed"
    code, out, err = run_here("pretrain", "low", lake, "--output", run, *ARGUMENTS)
    assert code == 0, err
    assert "3 epochs, 15 steps: loss" in out
    assert "order accuracy" in out
    assert "epoch 3/3: loss" in err
    assert "images/s" in err
    return run


def test_a_run_leaves_weights_and_a_record(undisturbed: Path):
    LowLevelEncoder().load_state_dict(load_file(undisturbed / "low_level.safetensors"))
    record = json.loads((undisturbed / "run.json").read_text())
    assert len(record["epochs"]) == EPOCHS
    assert record["settings"]["stage"] == "low"
    assert len(losses(undisturbed)) == 15


def test_a_run_that_is_interrupted_goes_on_with_two_workers(lake: Path, undisturbed: Path, tmp_path: Path):
    run = tmp_path / "run"
    for prepared in ("manifest", "scenes"):
        shutil.copytree(undisturbed / prepared, run / prepared)
    command = ("pretrain", "low", lake, "--output", run, *ARGUMENTS)
    process = grepr(*command)
    deadline = time.monotonic() + 200
    # Two are kept: the second tells that training is under way.
    while len(list((run / "checkpoints").glob("step=*"))) < 2:
        assert time.monotonic() < deadline, "no checkpoint was written in time"
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert not (run / "run.json").exists()
    assert process.returncode == 130
    assert "the same command again" in err
    assert "Traceback" not in err

    code, _, err = run_here(*command, "--num-workers", "2")
    assert code == 0, err
    assert "going on from step" in err
    assert "epoch 3/3: loss" in err
    np.testing.assert_allclose(losses(run), losses(undisturbed), rtol=0, atol=1e-4)


def test_the_same_command_on_a_finished_run_does_nothing(lake: Path, undisturbed: Path):
    before = (undisturbed / "low_level.safetensors").stat().st_mtime_ns
    code, out, err = run_here("pretrain", "low", lake, "--output", undisturbed, *ARGUMENTS)
    assert code == 0
    assert "finished already" in err
    assert "15 steps" in out
    assert (undisturbed / "low_level.safetensors").stat().st_mtime_ns == before


def test_other_options_on_the_same_output_are_refused(lake: Path, undisturbed: Path):
    code, _, err = run_here("pretrain", "low", lake, "--output", undisturbed, *ARGUMENTS, "--temperature", "0.4")
    assert code == 2
    assert "--temperature: then 0.5, now 0.4" in err
