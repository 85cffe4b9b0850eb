"""``grepr model build``: parts put together, scored with and fitted on."""

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.decoding.view import Lattice
from grepr_core.encoders.high_level import load_open_clip
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from grepr_core.scoring.scorer import Scorer
from grepr_core.zero_shot.gaussian import corrected_distance, patch_statistics
from grepr_core.zero_shot.patches import patch_batches
from grepr_core.zero_shot.scores import high_level_score, low_level_score
from jobs.cli import main
from pipelines.models import evaluate, fit, quality_axis
from pipelines.models.bundles import build
from pipelines.models.quality_axis import SPREAD, LowLevelScorer, make_axis
from pipelines.options import EvaluateOptions, FitOptions, ModelBuildOptions, ScoreOptions
from pipelines.scoring import score
from tests.grepr_core.models import full_bundle, telling_bundle, to_tensor
from tests.lake import check_invariants, jpeg, photo
from tests.published import SMALL_CLIP, Published, publish


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A fitted bundle with a low-level encoder and its pristine statistics."""
    path = str(tmp_path_factory.mktemp("models") / "lite")
    save_bundle(full_bundle(), path)
    return path


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in five degrees of noise, rated by how little of it there is."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("rated")
    rows = []
    for i in range(40):
        noisy = distort(np.asarray(photo(i, (96, 96))), "gaussian_noise", i % 5 + 1, seed=i)
        (folder / f"{i}.jpg").write_bytes(jpeg(Image.fromarray(noisy), quality=95))
        rows.append({"image": f"{i}.jpg", "mos": 5 - i % 5})
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_one_command_puts_clip_beside_a_low_level_encoder(
    published: Published, lite: str, rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jobs.cli._mute_libraries", lambda: None)
    model = str(tmp_path / "grepr-clip")
    command = ["model", "build", "--low", lite, "--high", f"open_clip:{SMALL_CLIP}"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--pretrained", str(published.clip), "--output", model])
    assert ended.value.code == 0

    bundle, source = load_bundle(model), load_bundle(lite)
    assert (bundle.name, bundle.regressor, bundle.scale) == ("grepr-clip", None, (0, 2))
    assert (bundle.distance, bundle.precision, bundle.view) == ("corrected", "auto", source.view)
    assert bundle.card["low_level"] == {"from": "full", "model_id": source.model_id}
    assert bundle.card["high_level"] == {"from": "open_clip", "architecture": SMALL_CLIP, "pretrained": "clip.pt"}

    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / f"photos/{i}.jpg").write_bytes(jpeg(photo(i, (200, 150))))
    score.run(
        ScoreOptions(
            source=str(tmp_path / "photos"), output=str(tmp_path / "out"), model=model, precision="fp32", workers=1
        )
    )
    clip = load_open_clip(SMALL_CLIP, str(published.clip))
    for row in check_invariants(tmp_path / "out").to_pylist():
        image = to_tensor(np.asarray(_decoded(Path(row["uri"]))))
        with torch.inference_mode():
            good, bad = clip.quality_cosines(clip(image[None]))[0].tolist()
            distance = corrected_distance(patch_statistics(source.low.eval(), patch_batches(image)), source.pristine)
        assert row["score_high"] == pytest.approx(high_level_score(good, bad), abs=1e-5)
        assert row["score_low"] == pytest.approx(low_level_score(distance), abs=1e-4)
        assert row["score"] == pytest.approx(row["score_high"] + row["score_low"], abs=1e-6)

    fit.run(
        FitOptions(
            ratings=f"{rated}/ratings.csv", images=str(rated), model=model, output=str(tmp_path / "fitted"), workers=1
        )
    )
    fitted = load_bundle(str(tmp_path / "fitted"))
    assert fitted.regressor.coefficients.shape == (64 + 128,)
    assert fitted.scale == (1, 5)


def _decoded(path: Path) -> np.ndarray:
    from grepr_core.decoding.images import decode

    return decode(path.read_bytes()).rgb


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_a_bundle_without_a_score_is_for_fitting(rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = str(tmp_path / "lite0")
    with caplog.at_level("INFO", "pipelines"):
        build(ModelBuildOptions(high="efficientnet_lite0", output=model, max_pixels=40_000))
    assert f"grepr fit RATINGS.csv --images FOLDER --model {model}" in caplog.text
    bundle = load_bundle(model)
    assert not bundle.has_score
    assert isinstance(bundle.high, SemanticEncoder)
    assert bundle.view == Lattice.of_area(40_000)
    (features_only,) = Scorer(bundle, device="cpu").score([(rated / "0.jpg").read_bytes()])
    assert features_only.score is features_only.error is None
    assert features_only.features.shape == (SemanticEncoder.feature_size,)

    with pytest.raises(UserError, match=f"grepr fit RATINGS.csv --images FOLDER --model {model}"):
        score.run(ScoreOptions(source=str(rated), output=str(tmp_path / "out"), model=model))
    assert not (tmp_path / "out").exists()

    common = {"ratings": f"{rated}/ratings.csv", "images": str(rated), "model": model}
    evaluation = evaluate.run(EvaluateOptions(**common, workers=1, labels="20", splits=2))
    assert evaluation.as_it_is == []
    assert evaluation.few_labels[0].srocc.median > 0.5
    result = fit.run(FitOptions(**common, workers=1, output=str(tmp_path / "fitted"), max_pixels=30_000))
    # There was nothing to start from.
    assert "as it is" not in fit.to_text(result)
    assert (fit.to_json(result)["base_as_it_is"], fit.to_json(result)["started_from"]) == (None, None)
    fitted = load_bundle(str(tmp_path / "fitted"))
    assert fitted.has_score
    assert fitted.view == Lattice.of_area(30_000)  # what it was fitted at
    contents = [(rated / f"{i}.jpg").read_bytes() for i in (0, 4)]
    good, bad = (result.score for result in Scorer(fitted, device="cpu").score(contents))
    assert good > bad


def pretrained_low(folder: Path) -> LowLevelEncoder:
    encoder = LowLevelEncoder(seed=5).eval()
    folder.mkdir()
    save_file(encoder.state_dict(), folder / "low_level.safetensors")
    return encoder


def test_the_probes_of_an_encoder_come_with_it(tmp_path: Path):
    save_bundle(telling_bundle(), str(tmp_path / "telling"))
    built = build(ModelBuildOptions(high=str(tmp_path / "telling"), output=str(tmp_path / "built")))
    assert built.reasons is not None
    assert build(ModelBuildOptions(high="efficientnet_lite0", output=str(tmp_path / "bare"))).reasons is None


@pytest.mark.slow
def test_pristine_statistics_are_those_of_the_photographs(tmp_path: Path):
    encoder = pretrained_low(tmp_path / "run")
    (tmp_path / "pristine").mkdir()
    # A photograph of one patch has that patch chosen.
    for i in range(260):
        photo(i, (96, 96)).save(tmp_path / f"pristine/{i:03d}.png")
    (tmp_path / "pristine/broken.jpg").write_bytes(b"\xff\xd8\xff")
    options = ModelBuildOptions(
        low=str(tmp_path / "run"), pristine=str(tmp_path / "pristine"), output=str(tmp_path / "model")
    )
    build(options)
    bundle = load_bundle(options.output)
    assert bundle.has_score
    assert bundle.card["pristine_photographs"] == 260
    pixels = torch.stack([to_tensor(np.asarray(photo(i, (96, 96)))) for i in range(260)])
    with torch.inference_mode():
        features = encoder(pixels).double().numpy()
    assert bundle.pristine.count == 260
    np.testing.assert_allclose(bundle.pristine.mean, features.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(bundle.pristine.covariance, np.cov(features, rowvar=False), atol=1e-6)


def test_too_few_pristine_patches_are_refused(tmp_path: Path):
    pretrained_low(tmp_path / "run")
    (tmp_path / "pristine").mkdir()
    options = ModelBuildOptions(
        low=str(tmp_path / "run"), pristine=str(tmp_path / "pristine"), output=str(tmp_path / "model")
    )
    for i, found in enumerate((0, 1)):
        photo(i, (96 if found else 90, 96)).save(tmp_path / f"pristine/{i}.png")
        with pytest.raises(
            UserError, match=f"{i + 1} photographs? gave {found} sharp and colourful patch(es)?; at least"
        ):
            build(options)
    assert not (tmp_path / "model").exists()


def test_runs_of_both_stages_make_a_bundle(published: Published, tmp_path: Path):
    pretrained_low(tmp_path / "low")
    clip = load_open_clip(SMALL_CLIP, str(published.clip))
    (tmp_path / "high").mkdir()
    save_file(clip.state_dict(), tmp_path / "high/high_level.safetensors")
    options = ModelBuildOptions(
        low=str(tmp_path / "low"), high=str(tmp_path / "high"), output=str(tmp_path / "model"), name="mine"
    )
    with pytest.raises(UserError, match=r"high_level\.json is missing"):
        build(options)
    (tmp_path / "high/high_level.json").write_text(json.dumps(clip.config()))
    bundle = build(options)
    assert bundle.name == "mine"
    assert bundle.pristine is None
    with pytest.raises(UserError, match="holds a model bundle already"):
        build(options)
    # The same parts make the same model.
    again = build(ModelBuildOptions(low=options.low, high=options.high, output=str(tmp_path / "again"), name="mine"))
    assert again.model_id == bundle.model_id
    pixels = to_tensor(np.asarray(photo(0)))[None]
    with torch.inference_mode():
        assert torch.equal(load_bundle(options.output).high(pixels), clip(pixels))

    save_file({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "low/low_level.safetensors")
    with pytest.raises(UserError, match=r"(?s)low_level\.safetensors does not fit .*Missing"):
        build(ModelBuildOptions(low=options.low, output=str(tmp_path / "wrong")))


def test_a_low_level_encoder_may_keep_its_features_to_itself(lite: str, tmp_path: Path):
    options = {"low": lite, "high": "efficientnet_lite0", "low_features": "none"}
    build(ModelBuildOptions(**options, output=str(tmp_path / "model")))
    bundle = load_bundle(str(tmp_path / "model"))
    assert bundle.feature_blocks == SemanticEncoder.feature_blocks
    assert bundle.low is not None
    assert bundle.has_score
    with pytest.raises(UserError, match="--low-features head"):
        build(ModelBuildOptions(low=lite, low_features="none", output=str(tmp_path / "nothing")))


@pytest.fixture
def few_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an axis of few photographs and few kinds of distortion, in little time."""
    monkeypatch.setattr(quality_axis, "LEAST_CLEAN", 3)
    monkeypatch.setattr(quality_axis, "LEAST_UNRATED", 4)
    monkeypatch.setattr(quality_axis, "KINDS", ("resized_jpeg",))


def folder_of(photos: int, path: Path, side: int = 96) -> str:
    path.mkdir()
    for i in range(photos):
        photo(i, (side, side)).save(path / f"{i}.png")
    return str(path)


@pytest.mark.usefixtures("few_suffice")
def test_clean_and_unrated_photographs_give_a_high_level_score_without_clip(lite: str, tmp_path: Path):
    options = {"high": "efficientnet_lite0", "max_pixels": 96 * 96, "unrated": folder_of(5, tmp_path / "unrated")}
    options["pristine"] = folder_of(3, tmp_path / "clean", side=80)
    (tmp_path / "clean/broken.jpg").write_bytes(b"\xff\xd8\xff")
    with mock.patch.object(quality_axis, "distort", wraps=distort) as distorted:
        bundle = build(ModelBuildOptions(**options, output=str(tmp_path / "model")))
    # Enlarged they would not be clean.
    assert [call.args[0].shape for call in distorted.call_args_list] == [(80, 80, 3)] * 3
    assert bundle.has_score
    assert bundle.scale == (0, 1)
    assert bundle.card["quality_axis_from"] == {"pristine_photographs": 3, "unrated_photographs": 5}
    assert bundle.axis.slope == 1
    good = [jpeg(photo(i, (96, 96)), quality=95) for i in range(3)]
    bad = [jpeg(photo(i, (96, 96)).resize((16, 16)).resize((96, 96)), quality=10) for i in range(3)]
    unrated = [(tmp_path / f"unrated/{i}.png").read_bytes() for i in range(5)]
    scores = Scorer(bundle, device="cpu", precision="fp32").score([*good, *bad, *unrated])
    assert np.mean([s.score_high for s in scores[:3]]) > np.mean([s.score_high for s in scores[3:6]])
    features = np.stack([s.features for s in scores[6:]])[:, : SemanticEncoder.feature_size]
    assert bundle.axis.position(features).std() == pytest.approx(1, rel=1e-3)
    # It comes along with the encoder, and the same photographs make the same.
    other = build(ModelBuildOptions(high=str(tmp_path / "model"), output=str(tmp_path / "other")))
    np.testing.assert_array_equal(other.axis.direction, bundle.axis.direction)
    low = LowLevelScorer(load_bundle(lite).low, load_bundle(lite).pristine, "corrected")
    axis, _ = make_axis(bundle.high, options["pristine"], options["unrated"], bundle.view, low)
    np.testing.assert_array_equal(axis.direction, bundle.axis.direction)
    # Beside the score of the low level it varies so many times as much.
    both = replace(bundle, low=low.encoder, pristine=low.pristine, axis=axis)
    results = Scorer(both, device="cpu", precision="fp32").score(unrated)
    assert np.std([s.score_high for s in results]) == pytest.approx(
        SPREAD * np.std([s.score_low for s in results]), rel=0.05
    )
    with pytest.raises(UserError, match="4 are needed"):
        build(ModelBuildOptions(**{**options, "unrated": options["pristine"]}, output=str(tmp_path / "few")))


def test_parts_that_cannot_be_had(tmp_path: Path, published: Published):
    semantic = Bundle("semantic", high=load_bundle("grepr-lite").high)
    save_bundle(semantic, str(tmp_path / "semantic"))
    save_bundle(Bundle("low", low=LowLevelEncoder()), str(tmp_path / "low"))
    for options, message in (
        ({"low": str(tmp_path / "nowhere")}, r"--low .*nowhere: no model bundle there.*low_level\.safetensors"),
        ({"high": str(tmp_path / "nowhere")}, r"--high .*nowhere: no model bundle there.*high_level\.safetensors"),
        ({"low": str(tmp_path / "semantic")}, "this model has no low-level encoder"),
        ({"high": str(tmp_path / "low")}, "this model has no high-level encoder"),
        ({"high": f"open_clip:{SMALL_CLIP}"}, "needs `pretrained` weights"),
        (
            {"high": f"open_clip:{SMALL_CLIP}", "pretrained": str(published.clip), "unrated": "u", "pristine": "p"},
            "leave --unrated out",
        ),
        ({"high": "open_clip:RN49", "pretrained": "openai"}, "no architecture 'RN49'"),
    ):
        with pytest.raises(UserError, match=message):
            build(ModelBuildOptions(**options, output=str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--low, --high or both"),
        ({"high": "efficientnet_lite0", "pristine": "p"}, "name one with --low"),
        ({"high": "efficientnet_lite0", "unrated": "u"}, "--unrated goes with"),
        ({"low": "l", "pristine": "p", "unrated": "u"}, "--unrated goes with"),
        ({"low": "l", "pretrained": "openai"}, "--pretrained goes with"),
        ({"low": "l", "max_pixels": 9}, "--max-pixels"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        ModelBuildOptions(output="model", **options)
