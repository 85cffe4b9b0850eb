import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.bundles.bundle_files import BundleFiles, BundleHeader, built_in_bundles
from grepr_core.decoding.view import FULL_SIZE, AtMost
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.errors import UserError
from grepr_core.regression.regressor import Regressor
from grepr_core.scoring.scorer import Scorer
from grepr_core.zero_shot.axis import QualityAxis
from tests.grepr_core.models import full_bundle, telling_bundle
from tests.lake import jpeg, photo


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return replace(full_bundle(), view=AtMost(123_456), scale=(1.0, 5.0), card={"description": "für den Test"})


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(bundle, str(tmp_path / "model"))
    return tmp_path / "model"


def test_a_bundle_scores_the_same_after_saving_and_loading(bundle: Bundle, saved: Path):
    again = load_bundle(str(saved))
    assert (again.name, again.view, again.scale, again.card) == ("full", bundle.view, (1.0, 5.0), bundle.card)
    contents = [jpeg(photo(i)) for i in range(3)]
    before, after = (Scorer(b, device="cpu", precision="fp32").score(contents) for b in (bundle, again))
    for one, other in zip(before, after, strict=True):
        assert (one.score, one.score_low, one.score_high) == (other.score, other.score_low, other.score_high)
        np.testing.assert_array_equal(one.features, other.features)


@pytest.mark.parametrize("parts", ["regressor", "pristine", "high", None])
def test_the_files_alone_tell_what_the_model_tells(parts: str | None, bundle: Bundle, tmp_path: Path):
    others = {part: None for part in ("regressor", "pristine", "high") if part != parts}
    model = save_bundle(replace(bundle, precision="fp32", **others), str(tmp_path / "model"))
    files = BundleFiles.read(str(tmp_path / "model"))
    assert files.has_score == model.has_score == (parts is not None)
    assert files.header == BundleHeader(**{name: getattr(model, name) for name in vars(files.header)})


def test_half_weights_take_half_the_room_and_score_nearly_alike(bundle: Bundle, saved: Path, tmp_path: Path):
    save_bundle(replace(bundle, half_weights=True), str(tmp_path / "half"))
    half = load_bundle(str(tmp_path / "half"))
    assert half.half_weights
    assert half.low.head[0].weight.dtype == torch.float32
    assert (tmp_path / "half/low.safetensors").stat().st_size < 0.51 * (saved / "low.safetensors").stat().st_size
    [whole], [rounded] = (Scorer(b, device="cpu", precision="fp32").score([jpeg(photo(0))]) for b in (bundle, half))
    assert rounded.score == pytest.approx(whole.score, abs=0.01)
    # What was rounded once is not changed by saving it again.
    assert save_bundle(half, str(tmp_path / "again")).model_id == half.model_id


def test_a_bundle_keeps_what_its_low_level_features_are(tmp_path: Path):
    low = LowLevelEncoder(seed=1, frame_features="stages").eval()
    regressor = Regressor(np.zeros(1920), np.ones(1920), np.full(1920, 1e-3), 0.5, 1.0)
    bundle = save_bundle(Bundle("stages", low=low, regressor=regressor), str(tmp_path / "stages"))
    again = load_bundle(str(tmp_path / "stages"))
    assert again.feature_blocks == bundle.feature_blocks == (128, 256, 512, 1024)
    [score] = Scorer(again, device="cpu").score([jpeg(photo(0))])
    assert score.features.shape == (1920,)


def test_a_bundle_keeps_its_quality_axis(bundle: Bundle, tmp_path: Path):
    high = load_bundle("grepr-lite").high
    axis = QualityAxis(np.arange(high.feature_size) / 1e6, 0.25, slope=0.04)
    save_bundle(Bundle("axis", high, axis=axis), str(tmp_path / "axis"))
    again = load_bundle(str(tmp_path / "axis"))
    assert again.has_score
    assert again.has_score_high
    np.testing.assert_array_equal(again.axis.direction, axis.direction)
    assert (again.axis.origin, again.axis.slope) == (0.25, 0.04)
    files = BundleFiles.read(str(tmp_path / "axis"))
    assert files.has_score
    assert files.card()["quality_axis"]
    for other in (replace(axis, direction=np.zeros(3)), axis):
        with pytest.raises(ValueError, match="quality axis"):
            Bundle("axis", high if other is not axis else bundle.high, axis=other)


def test_a_bundle_keeps_what_tells_the_reasons(tmp_path: Path):
    bundle = save_bundle(telling_bundle(), str(tmp_path / "telling"))
    again = load_bundle(str(tmp_path / "telling"))
    np.testing.assert_array_equal(again.reasons.weights, bundle.reasons.weights)
    np.testing.assert_array_equal(again.reasons.offsets, bundle.reasons.offsets)
    assert BundleFiles.read(str(tmp_path / "telling")).card()["reasons"]
    # Another model is one that differs in them, though its scores are the same.
    without = save_bundle(replace(bundle, reasons=None), str(tmp_path / "silent"))
    assert without.model_id != bundle.model_id
    assert load_bundle(str(tmp_path / "silent")).reasons is None


def test_reasons_are_for_the_encoder_that_they_were_learned_from(bundle: Bundle):
    with pytest.raises(ValueError, match="EfficientNet-Lite0"):
        replace(bundle, reasons=telling_bundle().reasons)


def test_a_tuned_encoder_comes_with_its_weights(tmp_path: Path):
    tuned = SemanticEncoder(tuned=True).eval()
    save_bundle(Bundle("tuned", tuned), str(tmp_path / "tuned"))
    save_bundle(Bundle("half", tuned, half_weights=True), str(tmp_path / "half"))
    save_bundle(Bundle("plain", load_bundle("grepr-lite").high), str(tmp_path / "plain"))
    again = load_bundle(str(tmp_path / "tuned")).high
    assert again.tuned
    assert all(torch.equal(tensor, tuned.state_dict()[name]) for name, tensor in again.state_dict().items())
    half = load_bundle(str(tmp_path / "half"))
    assert all(p.dtype == torch.float32 for p in half.high.parameters())
    assert save_bundle(half, str(tmp_path / "once more")).model_id == half.model_id
    assert (tmp_path / "half/high.safetensors").stat().st_size < 10 * 2**20
    assert not (tmp_path / "plain/high.safetensors").exists()


def test_checksums_are_those_of_the_usual_tool(saved: Path):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=saved, check=True, capture_output=True)
    assert {path.suffix for path in saved.iterdir()} <= {".json", ".safetensors", ""}


def test_model_id_follows_the_content(bundle: Bundle, saved: Path, tmp_path: Path):
    model_id = load_bundle(str(saved)).model_id
    assert len(model_id) == 16
    assert save_bundle(bundle, str(tmp_path / "same")).model_id == model_id
    other = replace(bundle, regressor=replace(bundle.regressor, intercept=0.25))
    assert save_bundle(other, str(tmp_path / "other")).model_id != model_id


@pytest.mark.parametrize("name", ["config.json", "low.safetensors", "regressor.safetensors"])
def test_a_damaged_file_is_named(saved: Path, name: str):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} differs from its checksum"):
        load_bundle(str(saved))


def test_a_missing_file_is_named(saved: Path):
    (saved / "high.safetensors").unlink()
    with pytest.raises(UserError, match=r"high\.safetensors is missing"):
        load_bundle(str(saved))


def test_files_outside_are_never_read(saved: Path):
    with (saved / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  ../secret\n")
    with pytest.raises(UserError, match="outside"):
        load_bundle(str(saved))


def rewrite(saved: Path, **changes: object) -> None:
    import hashlib

    config = json.loads((saved / "config.json").read_text())
    content = json.dumps({**config, **changes}).encode()
    (saved / "config.json").write_bytes(content)
    lines = (saved / "SHA256SUMS").read_text().splitlines()
    lines = [line for line in lines if not line.endswith("config.json")]
    (saved / "SHA256SUMS").write_text("\n".join([f"{hashlib.sha256(content).hexdigest()}  config.json", *lines]) + "\n")


def test_a_newer_format_is_refused(saved: Path):
    rewrite(saved, format_version=99)
    with pytest.raises(UserError, match="update grepr"):
        load_bundle(str(saved))


def test_an_unknown_encoder_is_refused(saved: Path):
    rewrite(saved, high={"kind": "telepathy"})
    with pytest.raises(UserError, match="telepathy"):
        load_bundle(str(saved))


def test_what_is_no_bundle_is_an_error_that_names_the_built_in_ones(tmp_path: Path):
    with pytest.raises(UserError, match="grepr-lite"):
        load_bundle(str(tmp_path))


def test_a_bundle_is_not_overwritten(bundle: Bundle, saved: Path):
    with pytest.raises(UserError, match="holds a model bundle already"):
        save_bundle(bundle, str(saved))


def test_a_bundle_on_another_file_system(bundle: Bundle):
    saved = save_bundle(bundle, "memory://models/full")
    assert load_bundle("memory://models/full").model_id == saved.model_id


def test_a_bundle_must_have_features():
    for low in (None, LowLevelEncoder(frame_features="none")):
        with pytest.raises(ValueError, match="encoder"):
            Bundle("nothing", low=low)


def test_a_bundle_knows_whether_it_has_a_score(bundle: Bundle):
    assert bundle.has_score
    assert replace(bundle, regressor=None, high=None).has_score
    assert replace(bundle, regressor=None, pristine=None).has_score
    assert not replace(bundle, regressor=None, high=None, pristine=None).has_score
    assert not replace(bundle, regressor=None, low=None, high=load_bundle("grepr-lite").high).has_score


def test_how_scores_are_defined_is_kept(bundle: Bundle, tmp_path: Path):
    official = replace(bundle, distance="mvg", precision="fp32", view=FULL_SIZE)
    save_bundle(official, str(tmp_path / "official"))
    again = load_bundle(str(tmp_path / "official"))
    assert (again.distance, again.precision, again.view) == ("mvg", "fp32", FULL_SIZE)
    assert again.resolve_precision("bf16") == "fp32"
    assert bundle.resolve_precision("bf16") == "bf16"


def test_older_bundles_mean_what_they_meant(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    del config["precision"], config["pristine"]["distance"], config["view"]
    config |= {"format_version": 1, "max_pixels": 5_000}
    (saved / "config.json").write_text(json.dumps(config))
    rewrite(saved)
    again = load_bundle(str(saved))
    assert (again.distance, again.precision, again.view) == ("corrected", "auto", AtMost(5_000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"precision": "fp8"}, "fp8"), ({"pristine": {"patches": 9, "distance": "cosine"}}, "cosine")],
)
def test_unknown_ways_of_scoring_are_refused(saved: Path, changes: dict[str, object], message: str):
    rewrite(saved, **changes)
    with pytest.raises(UserError, match=message):
        load_bundle(str(saved))


def test_encoders_come_back_ready_for_use(saved: Path):
    loaded = load_bundle(str(saved))
    for encoder in (loaded.high, loaded.low):
        assert not encoder.training
        assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())


def test_the_built_in_bundle():
    assert "grepr-lite" in built_in_bundles()
    card = BundleFiles.read("grepr-lite").card()
    assert card["training"]["ratings"] == 5300
    assert {"description", "limits", "ratings_from", "evaluation"} <= card.keys()
