"""Speed of ``grepr score`` beside other ways to score the same photos: one table of ratios.

Starting processes and Ray and loading models is left out on all sides; the module of each way says how.

bare      one process a core that decodes and runs the model, without Ray
authors   the zero-shot score of both paths as the method's authors compute it; CLIP has random weights here
ray-data  Ray Data's read_images and map_batches, as one would write it at first
pyiqa     NIQE from pyiqa's command line; skipped where it is not installed
s3        grepr itself, reading the photos from an S3 server on this machine

Example: python -m benchmarks.compare --photos ~/Pictures --only bare
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import authors_way, plain_ray_data
from benchmarks.bare_loop import bare_loop
from benchmarks.ceiling import auto_precision, gmacs, grepr_gmacs, matrix_gmacs_per_second
from benchmarks.grepr_score import grepr_score
from benchmarks.photos import lay_out_photos
from benchmarks.pyiqa_cli import find_pyiqa, pyiqa_cli
from benchmarks.s3_lake import s3_lake
from benchmarks.side_by_side import Row, Run, largest_difference, table, take_turns
from benchmarks.zero_shot_bundle import save_zero_shot_bundle
from pipelines.session import available_cores

COMPARISONS = ("bare", "authors", "ray-data", "pyiqa", "s3")
#: Ways that take about a second for a photo get every tenth.
SLOW_SHARE = 10
#: Names of grepr's own ways.
GREPR, ZERO_SHOT, ZERO_SHOT_FP32, FROM_S3 = "grepr", "grepr, zero-shot", "grepr, zero-shot, fp32", "grepr, from S3"
AUTHORS, BARE, PYIQA = "the authors' way", "bare loop", "pyiqa niqe"


class Comparison:
    """What takes turns on one set of photos, and the rows that come of it."""

    def __init__(self, photos: Sequence[Path], few: Sequence[Path], cores: int) -> None:
        self.photos = photos
        self.few = few
        self.cores = cores
        self.precision = auto_precision()
        self.ways: dict[str, Callable[[], Run]] = {}
        self.rows: list[Row] = []

    def grepr(self, source: str | None = None) -> Run:
        done = grepr_score(source or str(self.photos[0].parent), len(self.photos), self.cores)
        return Run(done.images_per_second, done.scores)

    def grepr_zero_shot(self, bundle: str, precision: str) -> Run:
        source = str(self.few[0].parent)
        done = grepr_score(source, len(self.few), self.cores, model=bundle, precision=precision)
        return Run(done.images_per_second, done.scores)

    def authors(self, bundle: str) -> Run:
        return _program(authors_way.__file__, bundle, self.few[0].parent)

    def plain_ray_data(self, precision: str) -> Run:
        with tempfile.TemporaryDirectory() as output:
            options = ("--precision", precision, "--cores", self.cores)
            return _program(plain_ray_data.__file__, self.photos[0].parent, output, *options)

    def add_bare(self) -> None:
        self.ways |= {BARE: lambda: Run(bare_loop(self.photos, self.cores)), GREPR: self.grepr}
        self.rows.append(Row("grepr / bare loop of decode + forward, no Ray", GREPR, BARE, "≥ 0.95"))

    def add_authors(self, temporary: Path) -> None:
        bundle = str(temporary / "bundle")
        save_zero_shot_bundle(Path(bundle))
        self.ways |= {
            AUTHORS: partial(self.authors, bundle),
            ZERO_SHOT: partial(self.grepr_zero_shot, bundle, "auto"),
            ZERO_SHOT_FP32: partial(self.grepr_zero_shot, bundle, "fp32"),
        }
        title = "grepr zero-shot, {} / the authors' way, fp32, CLIP RN50 of random weights"
        self.rows.append(Row(title.format(self.precision), ZERO_SHOT, AUTHORS, "≥ 10"))
        if self.precision != "fp32":
            self.rows.append(Row(title.format("fp32"), ZERO_SHOT_FP32, AUTHORS))

    def add_ray_data(self) -> None:
        for precision in dict.fromkeys((self.precision, "fp32")):
            way = _plain_name(precision)
            self.ways |= {way: partial(self.plain_ray_data, precision), GREPR: self.grepr}
            self.rows.append(Row(f"grepr, {self.precision} / {way}", GREPR, way, "≥ 2"))

    def add_pyiqa(self, command: str) -> None:
        self.ways |= {
            PYIQA: lambda: Run(pyiqa_cli(command, self.few[0].parent, len(self.few))),
            GREPR: self.grepr,
        }
        self.rows.append(Row(f"grepr / {PYIQA}, from the command line", GREPR, PYIQA))

    def add_s3(self, url: str) -> None:
        self.ways |= {FROM_S3: partial(self.grepr, url), GREPR: self.grepr}
        self.rows.append(Row("grepr from S3, whose server runs on the same cores / from the disk", FROM_S3, GREPR))


def notes_on_authors(comparison: Comparison, runs: dict[str, list[Run]], bundle: str) -> list[str]:
    """Says whether both do the same job, and what the processor allows."""
    theirs, photo = runs[AUTHORS][-1], comparison.few[0]
    exact, fast = (largest_difference(runs[way][-1], theirs) for way in (ZERO_SHOT_FP32, ZERO_SHOT))
    with torch.no_grad():
        work = gmacs(lambda: authors_way.AuthorsWay(bundle).scores([photo]))
    own_work = grepr_gmacs(bundle, photo)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {
        name: matrix_gmacs_per_second(dtypes[name], comparison.cores)
        for name in dict.fromkeys(("fp32", comparison.precision))
    }
    most = rates[comparison.precision] / own_work / theirs.images_per_second
    products = ", ".join(f"{rate:.0f} in {name}" for name, rate in rates.items())
    return [
        f"Zero-shot scores differ from the authors' way by {exact:.0e} at most in fp32, by {fast:.0e} in "
        f"{comparison.precision}.",
        f"A photo takes {work:.1f} GMACs the authors' way, at {work * theirs.images_per_second:.0f} GMACs/s, and "
        f"{own_work:.1f} here, at {own_work * runs[ZERO_SHOT][-1].images_per_second:.0f}. Large matrix products run at "
        f"{products} on these {comparison.cores} cores. At that rate grepr would be {most:.1f} times as fast.",
    ]


def notes_on_ray_data(runs: dict[str, list[Run]]) -> list[str]:
    """Says whether both do the same job."""
    ours = runs[GREPR][-1]
    plain = [name for name in runs if name in {_plain_name("fp32"), _plain_name("bf16")}]
    differences = ", ".join(f"{largest_difference(runs[name][-1], ours):.0e} ({name})" for name in plain)
    return [f"Scores differ from grepr's by at most {differences}."]


def _plain_name(precision: str) -> str:
    return f"plain Ray Data, {precision}"


def _program(path: str, *arguments: object) -> Run:
    """Runs a program that prints its speed and scores."""
    command = [sys.executable, path, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{path} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Run(**result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", help="local folder of RGB photos; by default some of 512 x 512 are made")
    parser.add_argument("--images", type=int, default=160, help="photos at most; slow ways take every tenth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=COMPARISONS, help="may be given several times")
    parser.add_argument("--pyiqa", help="pyiqa's command, where it is not beside this Python or on the path")
    options = parser.parse_args()
    wanted = options.only or COMPARISONS
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        photos = lay_out_photos(temporary / "photos", options.photos, options.images)
        few = lay_out_photos(temporary / "few", str(temporary / "photos"), max(1, len(photos) // SLOW_SHARE))
        comparison = Comparison(photos, few, available_cores())
        skipped = []
        if "bare" in wanted:
            comparison.add_bare()
        if "authors" in wanted:
            comparison.add_authors(temporary)
        if "ray-data" in wanted:
            comparison.add_ray_data()
        if "pyiqa" in wanted:
            if (command := find_pyiqa(options.pyiqa)) is None:
                skipped.append("pyiqa is not installed, so it is left out; benchmarks/pyiqa_cli.py says how to.")
            else:
                comparison.add_pyiqa(command)
        if "s3" in wanted:
            comparison.add_s3(stack.enter_context(s3_lake(photos, temporary)))
        runs = take_turns(comparison.ways, options.rounds)
        notes = skipped
        if "authors" in wanted:
            notes += notes_on_authors(comparison, runs, str(temporary / "bundle"))
        if "ray-data" in wanted:
            notes += notes_on_ray_data(runs)
    print(
        f"{len(photos)} photos, {len(few)} of them for the slow ways; {comparison.cores} cores; median of "
        f"{options.rounds} rounds in turn\n"
    )
    print(table(comparison.rows, runs))
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
