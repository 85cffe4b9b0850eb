import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.decoding.transfer import HostTransfer
from grepr_core.decoding.view import AtMost
from grepr_core.encoders.fused_cpu import can_fuse
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.precision import Precision
from grepr_core.regression.regressor import Regressor
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.scorer import Scorer
from grepr_core.zero_shot.axis import QualityAxis
from grepr_core.zero_shot.scores import high_level_score, low_level_distance, low_level_score
from tests.grepr_core.models import full_bundle, telling_bundle, to_tensor
from tests.lake import jpeg, photo

#: Largest difference that grouping may make, as a fraction of the scale: rounding in another order.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}


def sixty_photos() -> list[bytes]:
    sizes = [(96, 96), (160, 120), (120, 160), (201, 133), (64, 300)]
    return [jpeg(photo(i, sizes[i % len(sizes)]), quality=30 + i) for i in range(60)]


def photos_for(precision: Precision) -> list[bytes]:
    """Sixty, or eight where the CPU has no bfloat16, the worst and the best among them: to emulate it takes seconds."""
    photos = sixty_photos()
    if precision == "fp32" or can_fuse(torch.bfloat16):
        return photos
    return [photos[i] for i in (0, 9, 13, 20, 33, 42, 47, 59)]


def values(scores: list[ImageScore], name: str = "score") -> np.ndarray:
    assert all(score.status == Status.SCORED for score in scores)
    return np.array([getattr(score, name) for score in scores])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["grepr-lite", "full"])
def test_scores_do_not_depend_on_grouping(model: str, precision: Precision):
    photos = photos_for(precision)
    bundle = full_bundle() if model == "full" else load_bundle(model)
    alone = Scorer(bundle, precision=precision, device="cpu", max_pixels=160 * 120)
    # As on a GPU: photographs of one size go through the network together.
    grouped = Scorer(bundle, precision=precision, device="cpu", max_pixels=160 * 120, batch_pixels=6 * 160 * 120)
    expected = values([alone.score([content])[0] for content in photos])
    order = random.Random(0).sample(range(len(photos)), len(photos))
    shuffled = values(grouped.score([photos[i] for i in order]))
    assert np.ptp(expected) > 0.05  # the photographs do differ
    for scores in (values(alone.score(photos)), values(grouped.score(photos)), shuffled[np.argsort(order)]):
        np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE[precision])


def test_bf16_scores_stay_near_fp32():
    photos = photos_for("bf16")
    bundle = load_bundle("grepr-lite")
    options = {"device": "cpu", "max_pixels": 160 * 120}
    fp32, bf16 = (values(Scorer(bundle, precision=p, **options).score(photos)) for p in ("fp32", "bf16"))
    assert np.abs(fp32 - bf16).mean() < 0.02
    assert np.corrcoef(fp32, bf16)[0, 1] > 0.99


def test_every_part_is_what_the_method_says():
    bundle = full_bundle()
    content = jpeg(photo(1, (250, 200)))
    (score,) = Scorer(bundle, precision="fp32", device="cpu", zero_shot=True).score([content])
    image = to_tensor(decode(content).rgb)
    with torch.inference_mode():
        high, low = bundle.high(image[None]), bundle.low.eval()(image[None])
        good, bad = bundle.high.quality_cosines(high)[0].tolist()
        distance = low_level_distance(bundle.low, image, bundle.pristine)
    joined = torch.cat([high, low], 1).numpy()
    np.testing.assert_allclose(score.features, joined[0], atol=1e-4)
    assert score.score == pytest.approx(bundle.regressor.predict(joined)[0], abs=1e-4)
    assert score.score_high == pytest.approx(high_level_score(good, bad), abs=1e-5)
    assert score.score_low == pytest.approx(low_level_score(distance), abs=1e-4)
    assert (score.width, score.height, score.scored_pixels, score.bytes) == (250, 200, 50_000, len(content))
    assert score.phash == perceptual_hash(decode(content).rgb)


def test_features_that_nobody_wants_are_left_out():
    content = sixty_photos()[:2]
    for bundle in (full_bundle(regressor=False), replace(full_bundle(regressor=False), high=None)):
        with_features = Scorer(bundle, precision="fp32", device="cpu").score(content)
        without = Scorer(bundle, precision="fp32", device="cpu", features=False).score(content)
        np.testing.assert_array_equal(values(without), values(with_features))
        assert all(score.features is None for score in without)
        assert all(score.features is not None for score in with_features)
    fitted = Scorer(full_bundle(), precision="fp32", device="cpu", features=False).score(content)
    assert all(score.score is not None for score in fitted)


def test_without_a_regressor_the_zero_shot_scores_are_added():
    content = [jpeg(photo(1, (250, 200)))]
    (both,) = Scorer(full_bundle(regressor=False), precision="fp32", device="cpu").score(content)
    assert both.score == pytest.approx(both.score_low + both.score_high)
    low_only = replace(full_bundle(regressor=False), high=None)
    (low,) = Scorer(low_only, precision="fp32", device="cpu").score(content)
    assert low.score == pytest.approx(both.score_low, abs=1e-6)
    assert low.score_high is None


def test_intervals_lie_around_the_score():
    for score in Scorer(load_bundle("grepr-lite"), device="cpu", max_pixels=160 * 120).score(sixty_photos()[:5]):
        assert score.score_lower < score.score < score.score_upper
    (uncalibrated,) = Scorer(full_bundle(), device="cpu").score(sixty_photos()[:1])
    assert uncalibrated.score_lower is uncalibrated.score_upper is None


@pytest.mark.parametrize("regressor", [True, False])
def test_what_ails_a_photograph_is_told_with_its_score(regressor: bool):
    scorer = Scorer(telling_bundle(regressor=regressor), device="cpu", max_pixels=64 * 64, features=False)
    told, failed = scorer.score([sixty_photos()[0], b""])
    assert told.severities["noise"] == 0.75
    assert told.severities["blur"] == 0.25
    assert sum(told.severities.values()) == 1
    assert (told.not_photo, told.reason) == (False, "noise")
    assert failed.severities is failed.not_photo is failed.reason is None
    (untold,) = Scorer(full_bundle(), device="cpu").score(sixty_photos()[:1])
    assert untold.severities is untold.not_photo is untold.reason is None


def test_failures_keep_their_place():
    photos = sixty_photos()[:4]
    missing = Failure(Status.MISSING, "no such file")
    scores = Scorer(load_bundle("grepr-lite"), device="cpu", max_pixels=160 * 120).score(
        [photos[0], b"", photos[1], missing, photos[2]]
    )
    assert [score.status for score in scores] == ["scored", "unreadable", "scored", "missing", "scored"]
    for score in scores:
        assert (score.score is None) != (score.error is None)
    assert scores[1].bytes == 0
    assert scores[3].bytes is None


def test_large_images_are_scaled_and_say_so():
    big = jpeg(photo(0, (440, 290)).resize((1760, 1160)))
    bundle = load_bundle("grepr-lite")
    (score,) = Scorer(bundle, device="cpu", zero_shot=False).score([big])
    assert (score.width, score.height) == (1760, 1160)
    assert score.scored_pixels == 640 * 416
    (smaller,) = Scorer(bundle, device="cpu", max_pixels=10_000).score([big])
    assert smaller.scored_pixels == 128 * 64


def test_every_photo_is_seen_at_one_area():
    sharp = photo(0, (512, 512))
    contents = [jpeg(sharp.resize((side, side), Image.Resampling.LANCZOS), quality=98) for side in (512, 256, 96)]
    contents.append(jpeg(Image.new("RGB", (3_000, 40), "green")))  # a panorama beyond the lattice
    *scores, panorama = Scorer(load_bundle("grepr-lite"), device="cpu", zero_shot=False).score(contents)
    assert [score.scored_pixels for score in scores] == [512 * 512] * 3
    assert [(score.width, score.height) for score in scores] == [(512, 512), (256, 256), (96, 96)]
    assert scores[0].score > scores[1].score > scores[2].score
    widths = [score.score_upper - score.score_lower for score in scores]
    assert widths[0] < widths[1] < widths[2]
    assert panorama.scored_pixels == 896 * 288


def test_bundles_of_the_first_format_enlarge_nothing():
    small = jpeg(photo(0, (160, 120)))
    (score,) = Scorer(replace(load_bundle("grepr-lite"), view=AtMost(262_144)), device="cpu", zero_shot=False).score(
        [small]
    )
    assert score.scored_pixels == 160 * 120


def test_what_scaling_leaves_too_thin_is_refused():
    thin = jpeg(Image.new("RGB", (20_000, 40), "green"))
    (score,) = Scorer(full_bundle(), device="cpu", max_pixels=250_000).score([thin])
    assert score.status == Status.TOO_SMALL
    assert (score.width, score.height) == (20_000, 40)
    assert "needs 32 a side" in score.error
    (tiny,) = Scorer(full_bundle(), device="cpu", limits=Limits(min_side=1)).score([jpeg(Image.new("RGB", (9, 9)))])
    assert tiny.status == Status.TOO_SMALL


def test_limits_are_those_given():
    content = jpeg(photo(0, (160, 120)))
    scorer = Scorer(load_bundle("grepr-lite"), device="cpu", max_pixels=160 * 120, limits=Limits(min_side=121))
    assert scorer.score([content])[0].status == Status.TOO_SMALL


def test_nothing_waits_decoded_on_the_cpu():
    scorer = Scorer(load_bundle("grepr-lite"), device="cpu", max_pixels=160 * 120)
    taken = run_through = 0
    encode = scorer._encode

    def counting():
        nonlocal taken
        for content in sixty_photos():
            taken += 1
            yield content

    def watched(photos: list[Photo]):
        nonlocal run_through
        run_through += len(photos)
        assert taken == run_through
        return encode(photos)

    scorer._encode = watched
    assert len(scorer.score(counting())) == run_through == 60


def test_a_score_that_is_no_number_is_a_failure():
    bundle = full_bundle()
    broken = replace(bundle, regressor=replace(bundle.regressor, intercept=float("nan")))
    (score,) = Scorer(broken, device="cpu").score([jpeg(photo(0))])
    assert score.status == Status.CRASHED
    assert score.score is None
    assert "finite" in score.error


def test_a_process_that_scores_waits_for_no_compiler(tmp_path: Path):
    """PyTorch's takes 3 s of CPU time to import, and comes along with torchvision, timm and open_clip."""
    (tmp_path / "photo.jpg").write_bytes(jpeg(photo(0)))
    program = f"""
import sys
from pathlib import Path
from grepr_core.bundles.bundle import load_bundle
from grepr_core.scoring.scorer import Scorer
[result] = Scorer(load_bundle("grepr-lite"), device="cpu").score([Path({str(tmp_path / "photo.jpg")!r}).read_bytes()])
assert result.score is not None
assert not {{"torch._dynamo", "torchvision", "timm", "open_clip"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.photos
def test_real_photographs_get_the_scores_of_the_training_run(photos: Path):
    """The shipped bundle must rank real photographs nearly as people do."""
    import pandas as pd
    from scipy.stats import spearmanr

    ratings = pd.read_csv(photos / "rated.csv")
    ratings = ratings[ratings["split"] == "val"].head(100)
    contents = [(photos / "rated" / name).read_bytes() for name in ratings["image"]]
    bundle = load_bundle("grepr-lite")
    # Without any rating too, which takes four times as long.
    first = Scorer(bundle, device="cpu", zero_shot=True).score(contents[:40])
    assert spearmanr([score.score_low for score in first], ratings["mos"][:40]).statistic > 0.3
    others = Scorer(bundle, device="cpu").score(contents[40:])
    assert spearmanr(values([*first, *others]), ratings["mos"]).statistic > 0.65


def test_the_low_level_zero_shot_score_can_be_left_out_where_a_regressor_scores():
    contents = [jpeg(photo(0))]
    bundle = full_bundle()
    [whole] = Scorer(bundle, device="cpu", precision="fp32", zero_shot=True).score(contents)
    [without] = Scorer(bundle, device="cpu", precision="fp32").score(contents)
    assert whole.score_low is not None
    assert without.score_low is None
    assert without.score == whole.score
    [needed] = Scorer(full_bundle(regressor=False), device="cpu", precision="fp32", zero_shot=False).score(contents)
    assert needed.score == pytest.approx(needed.score_low + needed.score_high)


def test_a_low_level_encoder_without_features_is_there_for_its_zero_shot_score_only(monkeypatch: pytest.MonkeyPatch):
    full = full_bundle()
    ridge = Regressor(np.zeros(32), np.ones(32), np.full(32, 0.1), 0.5, 1.0)
    low = LowLevelEncoder(seed=2, frame_features="none").eval()
    bundle = replace(full, low=low, regressor=ridge)
    contents = [jpeg(photo(0))]
    [whole] = Scorer(bundle, device="cpu", precision="fp32").score(contents)
    [expected] = Scorer(full, device="cpu", precision="fp32").score(contents)
    assert whole.features.shape == (32,)
    assert whole.score_low == pytest.approx(expected.score_low, abs=1e-6)
    monkeypatch.delattr(LowLevelEncoder, "forward")
    monkeypatch.delattr(LowLevelEncoder, "encode_frames")
    [without] = Scorer(bundle, device="cpu", precision="fp32", zero_shot=False).score(contents)
    assert without.score == whole.score
    assert without.score_low is None


def semantic_bundle(*, low: bool = False) -> Bundle:
    """EfficientNet-Lite0 with an axis, and nothing that is fitted."""
    high = load_bundle("grepr-lite").high
    axis = QualityAxis(np.linspace(-1e-3, 1e-3, high.feature_size), -0.5, slope=2.0)
    full = full_bundle()
    encoder = LowLevelEncoder(seed=2, frame_features="none").eval()
    return Bundle("axis", high, encoder if low else None, full.pristine if low else None, axis=axis, view=full.view)


def test_an_axis_gives_a_high_level_score_at_no_cost_without_clip():
    contents = [jpeg(photo(i)) for i in range(2)]
    bundle = semantic_bundle()
    size = bundle.high.feature_size
    for score in Scorer(bundle, device="cpu", precision="fp32", zero_shot=False).score(contents):
        assert score.score == score.score_high == pytest.approx(bundle.axis.score(score.features[None, :size])[0])
        assert score.score_low is None
    ridge = Regressor(np.zeros(size + 1), np.ones(size + 1), np.full(size + 1, 1e-3), 0.5, 1.0)
    for score in Scorer(replace(bundle, regressor=ridge), device="cpu", precision="fp32").score(contents):
        assert score.score == pytest.approx(ridge.predict(score.features[None])[0])
        assert score.score_high is not None


def test_the_position_on_the_axis_is_among_the_features():
    bundle = semantic_bundle()
    scorer = Scorer(bundle, device="cpu", precision="fp32")
    [score] = scorer.score([jpeg(photo(0))])
    size = bundle.high.feature_size
    assert scorer.feature_size == len(score.features) == size + 1
    assert bundle.feature_blocks == (*bundle.high.feature_blocks, 1)
    assert bundle.block_variances == (*(1,) * len(bundle.high.feature_blocks), 0.25)
    assert replace(bundle, axis=None).block_variances == (1,) * len(bundle.high.feature_blocks)
    np.testing.assert_allclose(score.features[size:], bundle.axis.position(score.features[None, :size])[0], rtol=1e-6)


def test_both_paths_are_added_without_clip_too():
    content = [jpeg(photo(0))]
    [both] = Scorer(semantic_bundle(low=True), device="cpu", precision="fp32", features=False).score(content)
    assert both.score == pytest.approx(both.score_low + both.score_high)


def test_batches_under_way_are_bounded_and_keep_their_places():
    class Distant(HostTransfer):
        """As a GPU: results come when they are waited for."""

        batches_in_flight = 1
        under_way = most = 0

        def download(
            self, tensors: Sequence[torch.Tensor], *, keeping: torch.Tensor
        ) -> Callable[[], list[torch.Tensor]]:
            self.under_way += 1
            self.most = max(self.most, self.under_way)

            def wait() -> list[torch.Tensor]:
                self.under_way -= 1
                return list(tensors)

            return wait

    bundle = replace(full_bundle(), pristine=None)
    photos = [*sixty_photos()[:12], b""]
    scorer = Scorer(bundle, device="cpu", precision="fp32", batch_pixels=2 * 160 * 120)
    expected = scorer.score(photos)
    scorer._transfer = distant = Distant()
    scores = scorer.score(photos)
    assert [score.status for score in scores] == [Status.SCORED] * 12 + [Status.UNREADABLE]
    np.testing.assert_array_equal(values(scores[:12]), values(expected[:12]))
    assert (distant.most, distant.under_way) == (2, 0)
