"""The whole way of a model, by a user's commands: pretrain, build, fit, score, evaluate; on real photographs."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from grepr_core.bundles.bundle import load_bundle
from grepr_core.encoders.low_level import LowLevelEncoder
from tests.lake import check_invariants, run_here

pytestmark = [pytest.mark.slow, pytest.mark.photos, pytest.mark.timeout(600), pytest.mark.usefixtures("warm_process")]

UNRATED, RATED, TESTED = 24, 60, 20


def grepr(*arguments: str | Path) -> str:
    code, out, err = run_here(*arguments)
    assert code == 0, err
    return out


def test_from_photographs_to_scores_with_a_model_of_ones_own(photos: Path, tmp_path: Path):
    lake = tmp_path / "lake"
    lake.mkdir()
    for photo in sorted((photos / "unrated").iterdir())[:UNRATED]:
        shutil.copy(photo, lake)
    table = pd.read_csv(photos / "rated.csv").groupby("split").head(RATED)
    table = table[(table["split"] == "train") | (table.groupby("split").cumcount() < TESTED)]
    table.to_csv(tmp_path / "ratings.csv", index=False)

    scenes = ("--kinds", "2", "--levels", "1", "--scene-side", "128", "--validation-scenes", "4")
    training = ("--grid", "2", "--cell", "32", "--batch", "4", "--micro-batch", "2", "--epochs", "2")
    out = grepr("pretrain", "low", lake, "--output", tmp_path / "run", *scenes, *training)
    assert "2 epochs, 10 steps" in out
    trained = load_file(tmp_path / "run/low_level.safetensors")
    assert not torch.equal(trained["head.0.weight"], LowLevelEncoder(0).head[0].weight)

    build = ("--high", "efficientnet_lite0", "--low-features", "stages", "--half", "--max-pixels", "65536")
    grepr("model", "build", "--low", tmp_path / "run", *build, "--output", tmp_path / "base")
    ratings = (tmp_path / "ratings.csv", "--images", photos / "rated")
    out = grepr("fit", *ratings, "--model", tmp_path / "base", "--output", tmp_path / "mine")
    assert "cross-validated" in out
    bundle = load_bundle(str(tmp_path / "mine"))
    torch.testing.assert_close(bundle.low.state_dict()["head.0.weight"], trained["head.0.weight"], rtol=1e-3, atol=1e-4)

    grepr("score", lake, tmp_path / "scores", "--model", tmp_path / "mine")
    scores = check_invariants(tmp_path / "scores").to_pandas()
    assert len(scores) == UNRATED
    assert (scores["status"] == "scored").all()
    assert scores["score"].nunique() == UNRATED
    assert (scores["score_lower"] < scores["score_upper"]).all()

    out = grepr("evaluate", *ratings, "--model", tmp_path / "mine", "--labels", "30", "--splits", "3", "--json")
    evaluation = json.loads(out)
    assert evaluation["test_images"] == TESTED
    [own] = [row for row in evaluation["as_it_is"] if row["what"] == "the bundle's regressor"]
    assert own["srocc"] > 0.2  # by chance 0 +- 0.23; with all ratings .7
