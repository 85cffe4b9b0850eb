"""The controlled series: how a model's score follows twelve kinds of change, and which severity answers.

Eight photographs, each changed in growing degrees. For every degree the mean change of the score against the photograph
as it is, the severity that rises most on average, and how often a step to the next degree lowers the score.

Example: python -m benchmarks.series rated.csv --images rated/
"""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter, uniform_filter1d

from benchmarks import command_line
from grepr_core.bundles.bundle import load_bundle
from grepr_core.reasons.probes import SEVERITIES
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.scorer import Scorer
from pipelines.lake.sources import uri_to_path
from pipelines.models.rated_features import image_uri, read_ratings

Pixels = NDArray[np.float32]
GAMMA = 2.2


class Change(NamedTuple):
    """A kind of change: of (H, W, 3) float32 sRGB in [0, 1], by growing degrees."""

    apply: Callable[[Pixels, float], Pixels]
    degrees: Sequence[float]


def _blurred(pixels: Pixels, sigma: float) -> Pixels:
    return gaussian_filter(pixels, (sigma, sigma, 0))


def _noisy(pixels: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(0).standard_normal(pixels.shape, np.float32)
    return pixels + np.float32(sigma / 255) * noise


def _jpeg(pixels: Pixels, quality: float) -> Pixels:
    encoded = io.BytesIO()
    _image(pixels).save(encoded, "JPEG", quality=int(quality))
    return _pixels(Image.open(encoded))


def _exposed(pixels: Pixels, gain: float) -> Pixels:
    return (pixels**GAMMA * np.float32(gain)).clip(0, 1) ** np.float32(1 / GAMMA)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = pixels.mean()
    return mean + np.float32(factor) * (pixels - mean)


def _cast(pixels: Pixels, strength: float) -> Pixels:
    return pixels * np.array([1 + strength, 1, 1 - strength], np.float32)


def _upscaled(pixels: Pixels, factor: float) -> Pixels:
    image = _image(pixels)
    small = image.resize([round(side / factor) for side in image.size], Image.Resampling.LANCZOS)
    return _pixels(small.resize(image.size, Image.Resampling.BICUBIC))


def _sharpened(pixels: Pixels, percent: float) -> Pixels:
    return _pixels(_image(pixels).filter(ImageFilter.UnsharpMask(2, int(percent), 0)))


def _inverted(pixels: Pixels, _: float) -> Pixels:
    return _pixels(ImageOps.invert(_image(pixels)))


def _marked(pixels: Pixels, opacity: float) -> Pixels:
    image = _image(pixels)
    mark = Image.new("L", image.size)
    pen = ImageDraw.Draw(mark)
    for top in range(0, image.height, 120):
        for left in range(-60 * (top // 120 % 2), image.width, 240):
            pen.text((left, top), "grepr stock", fill=255, font_size=34)
    share = np.asarray(mark, np.float32)[..., None] / 255 * np.float32(opacity)
    return pixels * (1 - share) + share


def _moved(pixels: Pixels, length: float) -> Pixels:
    return uniform_filter1d(pixels, int(length), axis=1)


CHANGES = {
    "blur, sigma": Change(_blurred, (1, 2, 4, 8)),
    "noise, sigma of 255": Change(_noisy, (5, 10, 20, 40)),
    "JPEG quality": Change(_jpeg, (50, 25, 10, 5)),
    "underexposure, light x": Change(_exposed, (0.5, 0.25, 0.12, 0.06)),
    "overexposure, light x": Change(_exposed, (1.5, 2, 3, 5)),
    "contrast x": Change(_contrast, (0.7, 0.5, 0.3, 0.15)),
    "colour cast": Change(_cast, (0.1, 0.2, 0.35, 0.5)),
    "upscaling x": Change(_upscaled, (1.5, 2, 4, 8)),
    "unsharp mask, %": Change(_sharpened, (50, 100, 200, 400)),
    "inverted colours": Change(_inverted, (1,)),
    "watermark, opacity": Change(_marked, (0.25, 0.5, 1)),
    "motion, pixels": Change(_moved, (5, 9, 17, 33)),
}


def measure(ratings: str, *, images: str, model: str = "grepr-lite", photos: int = 8) -> None:
    """Prints the table.

    Args:
        ratings: CSV with columns image and mos; of its rows with split 'val', where it has any, the best rated are
            changed, evenly drawn from the upper half.
        images: Folder that the ratings' paths start from.
        model: Bundle, by name or folder.
        photos: Number of photographs.
    """
    table = read_ratings(ratings, images)
    table = table[table["split"] == "val"] if "split" in table else table
    upper = table.sort_values("mos").iloc[len(table) // 2 :]
    chosen = upper["image"].iloc[np.linspace(0, len(upper), photos, endpoint=False).astype(int)]
    originals = [_pixels(Image.open(uri_to_path(image_uri(images, image)))) for image in chosen]
    scorer = Scorer(load_bundle(model), device="cpu", precision="fp32", zero_shot=False)

    def scored(versions: Sequence[Pixels]) -> list[ImageScore]:
        return scorer.score(_png(version) for version in versions)

    before = scored(originals)
    print(f"| change of {photos} photographs | mean change of the score | steps down | severity that rises most |")
    print("|---|---|---|---|")
    for name, (apply, degrees) in CHANGES.items():
        series = [before, *(scored([apply(pixels, degree) for pixels in originals]) for degree in degrees)]
        scores = np.array([[score.score for score in step] for step in series], float)
        moved = "; ".join(
            f"{degree:g}: {change:+.3f}"
            for degree, change in zip(degrees, (scores[1:] - scores[0]).mean(1), strict=True)
        )
        down = 100 * (np.diff(scores, axis=0) < 0).mean()
        print(f"| {name} | {moved} | {down:.0f} % | {_answer(series)} |", flush=True)


def _answer(series: Sequence[Sequence[ImageScore]]) -> str:
    """Gives the severity that rises most from the first step to the last, with its mean at each."""
    if series[0][0].severities is None:
        return "not told"
    means = np.array(
        [np.mean([list(score.severities.values()) for score in step if score.severities], axis=0) for step in series]
    )
    most = int((means[-1] - means[0]).argmax())
    none = np.mean([bool(score.not_photo) for score in series[-1]])
    said = f"{SEVERITIES[most]} {' '.join(f'{mean:.2f}' for mean in means[:, most])}"
    return said + (f", not_photo {100 * none:.0f} %" if none else "")


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _png(pixels: Pixels) -> bytes:
    encoded = io.BytesIO()
    _image(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


if __name__ == "__main__":
    command_line.run(measure)
