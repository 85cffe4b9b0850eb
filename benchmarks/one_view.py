"""Whether a score means the same on every copy of a photograph: smaller, larger, cropped, mirrored and turned ones.

For each kind of copy of the photographs that a model was not fitted on: how much the score changes, on average and in
absolute value, what is left of the rank correlation with the ratings of the originals, and how many of these ratings
the prediction intervals hold.

Example: python -m benchmarks.one_view rated.csv --images rated/
"""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from benchmarks import command_line
from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.regression.metrics import srocc
from grepr_core.scoring.scorer import Scorer
from pipelines.lake.sources import uri_to_path
from pipelines.models.rated_features import (
    RatedFeatures,
    image_uri,
    read_ratings,
    train_rows,
)

#: Longest sides of the smaller copies.
SIDES = (384, 256, 160, 96)
LARGE = (4000, 3000)


def smaller(side: int) -> Callable[[Image.Image], Image.Image]:
    """Gives what makes copies whose longer side has so many pixels."""

    def shrink(photo: Image.Image) -> Image.Image:
        factor = side / max(photo.size)
        size = (round(photo.width * factor), round(photo.height * factor))
        return photo.resize(size, Image.Resampling.LANCZOS)

    return shrink


def _cropped(aspect: float) -> Callable[[Image.Image], Image.Image]:
    def crop(photo: Image.Image) -> Image.Image:
        width, height = min(photo.width, photo.height * aspect), min(photo.height, photo.width / aspect)
        left, upper = (photo.width - width) / 2, (photo.height - height) / 2
        return photo.crop((round(left), round(upper), round(left + width), round(upper + height)))

    return crop


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the photograph itself": lambda photo: photo,
    **{f"{side} wide": smaller(side) for side in SIDES},
    "stretched to 4000 x 3000": lambda photo: photo.resize(LARGE, Image.Resampling.LANCZOS),
    "cropped to 4:3, at 4000 x 3000": lambda photo: _cropped(4 / 3)(photo).resize(LARGE, Image.Resampling.LANCZOS),
    "cropped to 3:2": _cropped(3 / 2),
    "cropped to 16:9": _cropped(16 / 9),
    "cropped to 4:5": _cropped(4 / 5),
    "mirrored": lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 90 degrees": lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
}


def measure(ratings: str, *, images: str, model: str = "grepr-lite", photos: int = 400) -> None:
    """Prints the table.

    Args:
        ratings: CSV with columns image, mos and split; the model is measured where split is not 'train'.
        images: Folder that the ratings' paths start from.
        model: Bundle, by name or folder.
        photos: So many of them, evenly spread.
    """
    table = read_ratings(ratings, images)
    is_train = train_rows(table)
    assert is_train is not None, "the ratings need a column split"
    bundle = load_bundle(model)
    held_out = some(table[~is_train], photos)
    print("| copy | mean change | mean absolute change | SROCC | ratio | ratings held |\n|---|---|---|---|---|---|")
    original: RatedFeatures | None = None
    for kind, change in KINDS.items():
        copies = scored(held_out, images, change, bundle)
        original = original or copies
        assert copies.score is not None
        assert original.score is not None
        moved = copies.score - original.score
        rank, first = srocc(copies.score, copies.mos), srocc(original.score, original.mos)
        print(
            f"| {kind} | {moved.mean():+.4f} | {np.abs(moved).mean():.4f} | {rank:.4f} | {rank / first:.3f} "
            f"| {_held(copies)} |",
            flush=True,
        )


def some(table: pd.DataFrame, photos: int) -> pd.DataFrame:
    """Takes so many rows, evenly spread."""
    rows = np.linspace(0, len(table), min(photos, len(table)), endpoint=False).astype(int)
    return table.iloc[rows].drop(columns="split")


def _held(copies: RatedFeatures) -> str:
    if copies.score_lower is None or copies.score_upper is None:
        return ""
    return f"{100 * np.mean((copies.score_lower <= copies.mos) & (copies.mos <= copies.score_upper)):.1f} %"


def scored(
    table: pd.DataFrame, images: str, change: Callable[[Image.Image], Image.Image], bundle: Bundle
) -> RatedFeatures:
    """Scores changed copies of rated images, which are kept without loss but for the largest."""

    def copies() -> Iterator[bytes]:
        for image in table["image"]:
            with Image.open(uri_to_path(image_uri(images, image))) as photo:
                changed = change(photo.convert("RGB"))
            encoded = io.BytesIO()
            if changed.size == LARGE:
                changed.save(encoded, "JPEG", quality=95, subsampling=0)
            else:
                changed.save(encoded, "PNG", compress_level=1)
            yield encoded.getvalue()

    scores = Scorer(bundle, precision="fp32", zero_shot=False).score(copies())

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(score, name) for score in scores], np.float64)

    names = ("score", "score_lower", "score_upper")
    features = np.stack([score.features for score in scores if score.features is not None])
    return RatedFeatures(
        features,
        table["mos"].to_numpy(),
        bundle.feature_blocks,
        bundle.block_variances,
        None,
        None,
        **{name: column(name) for name in names},
        score_low=None,
        score_high=None,
        start=None,
    )


if __name__ == "__main__":
    command_line.run(measure)
