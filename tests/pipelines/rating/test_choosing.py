"""Which photos are not chosen to be rated: blank pictures, near-copies of others, what cannot be read."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.images import Limits, decode
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.rating.choosing import choose_photos, is_blank
from pipelines.rating.label_pool import Pool
from tests.lake import jpeg, photo

RNG = np.random.default_rng(0)
LIMITS = Limits()


def flat(*levels: float, noise: float = 0, size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A picture of one colour, with the noise of a sensor."""
    return (np.array(levels) + RNG.normal(0, noise, (*size, 3))).clip(0, 255).astype(np.uint8)


def sloping(by: int) -> np.ndarray:
    return (flat(190, 190, 180) + np.linspace(0, by, 640).astype(np.uint8)[None, :, None]).astype(np.uint8)


def moon() -> np.ndarray:
    """A small bright disc in the black."""
    y, x = np.mgrid[:480, :640]
    return np.where((np.hypot(y - 100, x - 500) < 8)[..., None], np.uint8(230), flat(4, 4, 6, noise=2))


def fog() -> np.ndarray:
    """A photograph of which a tenth of the contrast is left, in light grey."""
    return (205 + 0.1 * np.asarray(photo(2, (300, 200)))).astype(np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [flat(0, 0, 0), flat(255, 255, 255), flat(200, 30, 40), flat(9, 8, 12, noise=10), flat(128, 128, 128, noise=4)],
)
def test_a_picture_of_one_colour_is_blank(rgb: np.ndarray):
    assert is_blank(rgb)
    compressed = decode(jpeg(Image.fromarray(rgb), quality=60))
    assert is_blank(compressed.rgb)


def test_a_wall_is_blank_and_a_slope_of_light_is_not():
    assert is_blank(sloping(10))
    assert not is_blank(sloping(40))


@pytest.mark.parametrize("rgb", [moon(), fog(), np.asarray(photo(0)) // 8, 223 + np.asarray(photo(1)) // 8])
def test_night_fog_and_snow_are_not(rgb: np.ndarray):
    assert not is_blank(rgb)


def test_no_photograph_that_shows_anything_is_blank(photos: Path):
    """The one in five thousand that is blank is black to the eye; it is not in this part."""
    blank = [path.name for path in sorted((photos / "rated").iterdir())[::6] if is_blank(decode(path.read_bytes()).rgb)]
    assert blank == []


class Lake:
    """Photos on disk in a pool; features are such that every photo would teach as much as any other."""

    def __init__(self, folder: Path, pictures: list[bytes], *, hashed: bool) -> None:
        self.bundle: Bundle = load_bundle("grepr-lite")
        for i, content in enumerate(pictures):
            (folder / f"{i:03d}.jpg").write_bytes(content)
        entries = [Entry(str(folder / f"{i:03d}.jpg")) for i in range(len(pictures))]
        features = RNG.normal(size=(len(pictures), sum(self.bundle.feature_blocks))).astype(np.float32)
        phashes = [perceptual_hash(decode(content).rgb) if hashed else None for content in pictures]
        self.pool = Pool(str(folder), entries, features, None, phashes)
        self.reader = ImageReader(limits=LIMITS, timeout=5)

    def choose(self, count: int, rated: Sequence[int | Entry] = ()) -> tuple[list[int], str]:
        """Chooses where some are rated: rows, or photos that are not in the pool."""
        entries = [photo if isinstance(photo, Entry) else self.pool.entries[photo] for photo in rated]
        rows, left_out = choose_photos(
            self.pool, count, bundle=self.bundle, rated=entries, reader=self.reader, limits=LIMITS
        )
        assert len(set(rows)) == len(rows)
        return rows, str(left_out)


def different(n: int) -> list[bytes]:
    """Photographs no two of which are near-copies."""
    found: dict[str, bytes] = {}
    for seed in range(10 * n):
        content = jpeg(photo(seed, (128, 96)))
        phash = int(perceptual_hash(decode(content).rgb), 16)
        if all((phash ^ int(other, 16)).bit_count() > 12 for other in found):
            found[f"{phash:016x}"] = content
        if len(found) == n:
            return list(found.values())
    raise AssertionError("too few")


def copies_of(content: bytes) -> list[bytes]:
    """One encoded anew, one scaled down, one with noise."""
    image = Image.open(io.BytesIO(content))
    noisy = Image.fromarray(distort(np.asarray(image), "gaussian_noise", 1, seed=0))
    return [jpeg(image, quality=40), jpeg(image.resize((96, 72))), jpeg(noisy)]


@pytest.mark.parametrize("hashed", [True, False])
def test_blank_pictures_and_near_copies_are_left_out(tmp_path: Path, hashed: bool):
    originals = different(24)
    blank = [jpeg(Image.fromarray(flat(*rgb))) for rgb in [(0, 0, 0), (255, 255, 255), (30, 90, 200)]]
    lake = Lake(tmp_path, [*originals, *copies_of(originals[0]), *copies_of(originals[1]), *blank], hashed=hashed)
    rows, left_out = lake.choose(33)
    assert len(rows) == 24
    scenes = [row if row < 24 else (row - 24) // 3 for row in rows]
    assert sorted(scenes) == list(range(24))
    assert left_out == "3 blank pictures, 6 near-copies of others"
    # Of what is rated already no copies are chosen either.
    rest, _ = lake.choose(30, rated=(24, *range(2, 14)))
    assert sorted(scene if scene < 24 else (scene - 24) // 3 for scene in rest) == [1, *range(14, 24)]
    # A smaller choice is the beginning of a larger one.
    assert lake.choose(10)[0] == rows[:10]


def test_with_too_few_others_near_copies_are_rated_too(tmp_path: Path):
    originals = different(8)
    pictures = [*originals, *(copy for original in originals for copy in copies_of(original))]
    lake = Lake(tmp_path, [*pictures, jpeg(Image.fromarray(flat(0, 0, 0)))], hashed=True)
    rows, left_out = lake.choose(30)
    assert len(rows) == 20  # what a fit needs
    assert sorted(row if row < 8 else (row - 8) // 3 for row in rows[:8]) == list(range(8))
    assert left_out == "1 blank picture, 12 near-copies of others"
    assert len(lake.choose(12)[0]) == 12


def elsewhere(folder: Path, pictures: list[bytes]) -> list[Entry]:
    """Photos that are in no pool."""
    folder.mkdir()
    for i, content in enumerate(pictures):
        (folder / f"{i}.jpg").write_bytes(content)
    return [Entry(str(folder / f"{i}.jpg")) for i in range(len(pictures))]


@pytest.mark.parametrize("hashed", [True, False])
def test_copies_of_rated_photos_that_left_the_pool_are_left_out(tmp_path: Path, hashed: bool):
    originals = different(24)
    copies = [copy for original in originals[:6] for copy in copies_of(original)]
    lake = Lake(tmp_path, [*originals[6:], *copies], hashed=hashed)
    rows, left_out = lake.choose(30, rated=elsewhere(tmp_path / "rated", originals[:6]))
    assert sorted(rows) == list(range(18))
    assert left_out == "18 near-copies of others"


def test_rated_photos_that_left_the_pool_count_for_a_fit(tmp_path: Path):
    originals = different(20)
    lake = Lake(tmp_path, [copy for original in originals for copy in copies_of(original)], hashed=True)
    rated = elsewhere(tmp_path / "rated", originals)
    assert lake.choose(10, rated) == ([], "60 near-copies of others")
    # With 17 rated, three scenes are left, and a fit lacks no more; with 15 and the copies of these alone, it lacks 5.
    assert sorted(row // 3 for row in lake.choose(10, rated[:17])[0]) == [17, 18, 19]
    few = Lake(tmp_path, [copy for original in originals[:15] for copy in copies_of(original)], hashed=True)
    assert len(few.choose(10, rated[:15])[0]) == 5


def test_rated_photos_that_can_no_longer_be_read_are_no_hindrance(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lake = Lake(tmp_path, different(12), hashed=False)
    gone = [Entry(str(tmp_path / f"gone-{i}.jpg")) for i in range(8)]
    rows, left_out = lake.choose(12, rated=gone)
    assert (sorted(rows), left_out) == (list(range(12)), "")
    assert "8 chosen photos can no longer be read" in caplog.text


def test_what_can_no_longer_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lake = Lake(tmp_path, different(12), hashed=True)
    for gone in (2, 5):
        (tmp_path / f"{gone:03d}.jpg").unlink()
    with caplog.at_level(logging.INFO):
        rows, left_out = lake.choose(12)
    assert sorted(rows) == [row for row in range(12) if row not in (2, 5)]
    assert left_out == "2 that cannot be read"
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="photos that were scored can no longer be read"):
        lake.choose(12)
