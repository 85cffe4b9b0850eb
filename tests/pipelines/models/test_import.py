"""The authors' published files: scores by their formulas, computed here anew, and what is refused."""

import copy
import io
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.bundles.published_checkpoints import (
    PristinePatches,
    load_published_high_level,
    load_published_low_level,
)
from grepr_core.decoding.view import FULL_SIZE
from grepr_core.encoders.high_level import load_open_clip
from grepr_core.errors import UserError
from grepr_core.scoring.scorer import Scorer
from pipelines.models.bundles import import_published
from pipelines.options import ModelImportOptions, ScoreOptions
from pipelines.scoring import score
from tests.lake import photo, scores
from tests.published import SMALL_CLIP, Published, publish, resaved


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def imported(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "official"
    import_published(
        ModelImportOptions(
            low=str(published.low),
            high=str(published.high),
            pristine=str(published.pristine),
            clip=SMALL_CLIP,
            pretrained=str(published.clip),
            output=str(output),
        )
    )
    return output


@pytest.fixture(scope="module")
def bundle(imported: Path) -> Bundle:
    return load_bundle(str(imported))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def images() -> list[Image.Image]:
    # Four patches, a remainder on both sides, and one beyond a megapixel, which is not scaled down.
    return [photo(0, (144, 144)), photo(1, (250, 203)), photo(2, (300, 190)).resize((1100, 1000))]


def statistics(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    rows = features.double().numpy()
    return rows.mean(axis=0), np.cov(rows, rowvar=False)


@torch.inference_mode()
def low_distance(published: Published, image: Tensor) -> float:
    """sqrt of (m1 - m2)^T ((C1 + C2) / 2 + 0.001 I)^-1 (m1 - m2) over patches of 96 pixels, 48 apart."""
    patches = image.unfold(1, 96, 48).unfold(2, 96, 48).permute(1, 2, 0, 3, 4).reshape(-1, 3, 96, 96)
    mean, covariance = statistics(published.low_model(patches))
    pristine_mean, pristine_covariance = statistics(published.low_model(torch.from_numpy(published.patches)))
    inverse = np.linalg.inv((covariance + pristine_covariance) / 2 + 0.001 * np.eye(128))
    return float(np.sqrt((mean - pristine_mean) @ inverse @ (mean - pristine_mean)))


@torch.inference_mode()
def high_features(published: Published, image: Tensor) -> Tensor:
    """open_clip's own tower at the image's size, its positional embedding zero everywhere."""
    visual = copy.deepcopy(published.visual)
    positions = (image.shape[1] // 32) * (image.shape[2] // 32) + 1
    width = visual.attnpool.positional_embedding.shape[1]
    visual.attnpool.positional_embedding = nn.Parameter(torch.zeros(positions, width))
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    return visual(((image - mean) / std)[None])[0]


@torch.inference_mode()
def high_score(published: Published, features: Tensor) -> float:
    text = published.clip_model.encode_text(open_clip.SimpleTokenizer()(["A good photo.", "A bad photo."])).double()
    good, bad = (text @ features.double()) / (text.norm(dim=1) * features.double().norm())
    return 1 / (1 + np.exp(10 * (bad.item() - good.item())))


def test_scores_are_those_of_the_published_formulas(published: Published, bundle: Bundle):
    pictures = images()
    results = Scorer(bundle, device="cpu").score([png(picture) for picture in pictures])
    distances = []
    for picture, result in zip(pictures, results, strict=True):
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        distance = low_distance(published, image)
        low = 1 - 1 / (1 + np.exp(-distance / 100))
        features = high_features(published, image)
        high = high_score(published, features)
        assert result.scored_pixels == picture.width * picture.height
        # The score is flat in the distance; this is the distance again.
        assert -100 * np.log(result.score_low / (1 - result.score_low)) == pytest.approx(distance, rel=1e-4)
        assert result.score_low == pytest.approx(low, abs=1e-6)
        assert result.score_high == pytest.approx(high, abs=1e-6)
        assert result.score == pytest.approx(high + low, abs=2e-6)
        with torch.inference_mode():
            joined = torch.cat([features, published.low_model(image[None])[0]]).numpy()
        np.testing.assert_allclose(result.features, joined, rtol=1e-3, atol=1e-3)
        distances.append(distance)
    assert np.ptp(distances) > 0.1
    assert np.ptp([result.score_high for result in results]) > 1e-4


def test_the_bundle_says_how_it_scores(bundle: Bundle):
    assert (bundle.name, bundle.distance, bundle.precision, bundle.view) == ("official", "mvg", "fp32", FULL_SIZE)
    assert bundle.regressor is None
    assert bundle.pristine.count == 150
    assert set(bundle.card["sha256"]) == {"low", "high", "pristine"}
    assert "fp16 on CUDA" in bundle.card["published_figures"]


@pytest.mark.usefixtures("warm_process")
def test_the_command_scores_in_float32_and_says_so(
    imported: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "photos").mkdir()
    contents = [png(picture) for picture in images()[:2]]
    for i, content in enumerate(contents):
        (tmp_path / f"photos/{i}.png").write_bytes(content)
    with caplog.at_level(logging.WARNING, "pipelines"):
        record = score.run(
            ScoreOptions(
                source=str(tmp_path / "photos"), output=str(tmp_path / "out"), model=str(imported), precision="bf16"
            )
        )
    assert "official scores in fp32 always; --precision bf16 is ignored" in caplog.text
    assert record.settings["precision"] == "fp32"
    exact = [result.score for result in Scorer(bundle, device="cpu", precision="fp32").score(contents)]
    np.testing.assert_allclose(scores(tmp_path / "out")["score"].to_numpy(), exact, rtol=0, atol=1e-6)


def test_one_path_alone(published: Published, tmp_path: Path):
    low = import_published(
        ModelImportOptions(low=str(published.low), pristine=str(published.pristine), output=str(tmp_path / "low"))
    )
    high = import_published(
        ModelImportOptions(
            high=str(published.high), clip=SMALL_CLIP, pretrained=str(published.clip), output=str(tmp_path / "high")
        )
    )
    content = [png(photo(0, (144, 144)))]
    (by_low,), (by_high,) = (Scorer(b, device="cpu").score(content) for b in (low, high))
    assert by_low.score == by_low.score_low
    assert by_high.score == by_high.score_high
    with pytest.raises(UserError, match="holds a model bundle already"):
        import_published(
            ModelImportOptions(low=str(published.low), pristine=str(published.pristine), output=str(tmp_path / "low"))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.2.bias"), r"1 missing: head\.2\.bias"),
        (lambda state: state.pop("encoder.resnet18.7.1.bn2.running_var"), r"missing: encoder\.resnet18\.7\.1\.bn2"),
        (lambda state: state.pop("encoder.base_model.conv1.weight"), r"missing: encoder\.base_model\.conv1\.weight"),
        (lambda state: state.update(surplus=torch.zeros(1)), "1 unexpected: surplus"),
        (
            lambda state: state.update({"head.2.bias": torch.zeros(64)}),
            r"of another shape: head\.2\.bias \(64,\) instead of \(128,\)",
        ),
        (
            lambda state: state.update(
                {"encoder.resnet18.4.0.conv1.weight": state["encoder.resnet18.4.0.conv1.weight"] + 1e-3}
            ),
            r"two copies .* differ.*: encoder\.base_model\.layer1\.0\.conv1\.weight$",
        ),
    ],
)
def test_low_level_weights_are_read_strictly(
    published: Published, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
):
    with pytest.raises(UserError, match=message):
        load_published_low_level(resaved(published.low, change, tmp_path / "changed.tar"))


def test_the_unused_parts_may_be_absent(published: Published, tmp_path: Path):
    assert len(published.low_model.state_dict()) == 246

    def drop_classifier(state: dict[str, Tensor]) -> None:
        del state["encoder.base_model.fc.weight"], state["encoder.base_model.fc.bias"]

    low = load_published_low_level(resaved(published.low, drop_classifier, tmp_path / "low.tar"))
    with torch.inference_mode():
        pixels = torch.from_numpy(published.patches[:2])
        torch.testing.assert_close(low(pixels), published.low_model(pixels))
    path = resaved(published.high, lambda s: s.pop("attnpool.positional_embedding"), tmp_path / "high.pth")
    clip = load_open_clip(SMALL_CLIP, str(published.clip))
    high = load_published_high_level(path, clip)
    assert torch.equal(high.visual.conv1.weight, published.visual.conv1.weight)
    assert not torch.equal(high.visual.conv1.weight, clip.visual.conv1.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.1.conv2.weight"), r"1 missing: layer2\.1\.conv2\.weight"),
        (lambda state: state.update({"proj.weight": torch.zeros(2)}), r"1 unexpected: proj\.weight"),
        (lambda state: state.update({"bn1.bias": torch.zeros(3)}), r"bn1\.bias \(3,\) instead of \(8,\)"),
        (lambda state: state.update({"epoch": 3}), "not a state dict"),
    ],
)
def test_high_level_weights_are_read_strictly(
    published: Published, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
):
    clip = load_open_clip(SMALL_CLIP, str(published.clip))
    with pytest.raises(UserError, match=message):
        load_published_high_level(resaved(published.high, change, tmp_path / "changed.pth"), clip)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("part", ["low", "high"])
def test_code_in_a_checkpoint_is_not_run(published: Published, tmp_path: Path, part: str):
    path = tmp_path / "evil"
    checkpoint = torch.load(getattr(published, part), weights_only=True)
    torch.save({**checkpoint, "extra": Touch(tmp_path / "ran")}, path)
    clip = load_open_clip(SMALL_CLIP, str(published.clip))
    read = load_published_low_level if part == "low" else partial(load_published_high_level, clip=clip)
    with pytest.raises(UserError, match=r"evil: not a checkpoint of tensors and plain values alone"):
        read(str(path))
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoints(published: Published, tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: cannot be read: No such file"):
        load_published_low_level(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no \['model'\]\['state_dict'\]"):
        load_published_low_level(str(published.high))
    for name, content in (("empty", b""), ("text", b"hello"), ("cut", published.low.read_bytes()[:10_000])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a"):
            load_published_low_level(str(tmp_path / name))


def test_pristine_patches_come_a_batch_at_a_time(published: Published):
    patches = PristinePatches(str(published.pristine), batch_size=64)
    batches = list(patches)
    assert len(patches) == 150
    assert [len(batch) for batch in batches] == [64, 64, 22]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), published.patches)


@pytest.mark.parametrize(
    ("key", "data", "message"),
    [
        ("patches", np.zeros((3, 3, 96, 96), np.float32), "no dataset 'data'; it has patches"),
        ("data", np.zeros((3, 96, 96, 3), np.float32), r"float32 of shape \(3, 96, 96, 3\)"),
        ("data", np.zeros((3, 3, 96, 96), np.uint8), "is uint8 of shape"),
        ("data", np.full((3, 3, 96, 96), 255, np.float32), r"from 0 on have values outside \[0, 1\]"),
        ("data", np.full((3, 3, 96, 96), np.nan, np.float32), r"from 0 on have values outside \[0, 1\]"),
        ("data", np.zeros((1, 3, 96, 96), np.float32), "1 patches have no covariance"),
    ],
)
def test_other_patches_are_refused(tmp_path: Path, key: str, data: np.ndarray, message: str):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_dataset(key, data=data)
    with pytest.raises(UserError, match=message):
        list(PristinePatches(str(tmp_path / "other.hdf5")))


def test_a_missing_or_damaged_hdf5_file(tmp_path: Path):
    (tmp_path / "text.hdf5").write_text("hello")
    for name in ("nowhere.hdf5", "text.hdf5"):
        with pytest.raises(UserError, match=f"{name}: not a readable HDF5 file"):
            PristinePatches(str(tmp_path / name))


@pytest.mark.parametrize(
    ("clip", "pretrained", "message"),
    [
        (SMALL_CLIP, "text.pt", r"--pretrained .*text\.pt cannot be loaded"),
        (SMALL_CLIP, "/nowhere/RN50.pt", r"--pretrained /nowhere/RN50\.pt cannot be loaded: .*local checkpoint"),
        ("ViT-B-32", "/nowhere/RN50.pt", "not a ModifiedResNet"),
    ],
)
def test_clip_that_cannot_be_had(published: Published, tmp_path: Path, clip: str, pretrained: str, message: str):
    (tmp_path / "text.pt").write_text("hello")
    weights = str(tmp_path / pretrained)  # an absolute path stays what it is
    options = ModelImportOptions(
        high=str(published.high), clip=clip, pretrained=weights, output=str(tmp_path / "official")
    )
    with pytest.raises(UserError, match=message):
        import_published(options)
    assert not (tmp_path / "official").exists()
