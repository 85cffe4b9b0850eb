"""``grepr demo``: a small lake of sample photos and their distorted versions, scored, with a report."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from grepr_core.pretraining.distortions import distort
from grepr_core.storage import Folder
from pipelines.options import DemoOptions, ReportOptions, ScoreOptions
from pipelines.reporting.report import run as write_report
from pipelines.scoring.run_record import RunRecord
from pipelines.scoring.score import run as score
from pipelines.scoring.score_table import read_scores

log = logging.getLogger(__name__)

#: Photographs that ship with scikit-image, in the public domain or CC0 (see its data/README.txt).
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
KINDS = ("gaussian_blur", "gaussian_noise", "jpeg", "low_light")
LEVELS = (1, 3, 5)


@dataclass(frozen=True)
class DemoResult:
    """The scored lake.

    Attributes:
        record: Of the scoring run.
        scores: Score by file name, best first.
        ordered: Pairs of an original and one of its distorted versions of which the original scores higher.
        pairs: Number of such pairs.
    """

    record: RunRecord
    scores: dict[str, float]
    ordered: int
    pairs: int


def run(options: DemoOptions) -> DemoResult:
    """Makes the lake in ``output/photos``, unless it is there, scores it into ``output/scores``, and reports.

    Args:
        options: Of the command.

    Returns:
        Scores, and how often they put an original above its distorted version.
    """
    root = Path(options.output)
    photos = root / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for name, pixels in _lake():
        if not (photos / name).exists():
            Image.fromarray(pixels).save(photos / name)
    record = score(ScoreOptions(source=str(photos), output=str(root)))
    write_report(ReportOptions(scores=str(root), title="A small lake of sample photos"))
    table = read_scores(Folder(str(root)), ["uri", "score"])
    scores = {Path(row["uri"]).name: row["score"] for row in table.to_pylist()}
    pairs = [(scores[f"{photo}.png"], scores[_name(photo, kind, level)]) for photo, kind, level in _versions()]
    ordered = sum(original > distorted for original, distorted in pairs)
    return DemoResult(record, dict(sorted(scores.items(), key=lambda item: -item[1])), ordered, len(pairs))


def _versions() -> Iterator[tuple[str, str, int]]:
    return itertools.product(PHOTOS, KINDS, LEVELS)


def _name(photo: str, kind: str, level: int) -> str:
    return f"{photo}-{kind}-{level}.png"


def _lake() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    originals = {photo: getattr(skimage.data, photo)() for photo in PHOTOS}
    for photo, pixels in originals.items():
        yield f"{photo}.png", pixels
    for photo, kind, level in _versions():
        yield _name(photo, kind, level), distort(originals[photo], kind, level, seed=0)
