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
import os
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
from benchmarks.ceiling import auto_precision, gmacs, matrix_gmacs_per_second
from benchmarks.grepr_score import grepr_score
from benchmarks.photos import lay_out_photos
from benchmarks.pyiqa_cli import find_pyiqa, pyiqa_cli
from benchmarks.s3_lake import s3_lake
from benchmarks.side_by_side import Row, Run, largest_difference, table, take_turns
from benchmarks.zero_shot_bundle import save_zero_shot_bundle
from pipelines.running.cores import available_cores

COMPARISONS = ("bare", "authors", "ray-data", "pyiqa", "s3")
#: Plain Ray Data gets half of the photos, ways that take about a second for each a sixteenth.
HALF, FEW = 2, 16
#: Names of grepr's own ways.
GREPR, ZERO_SHOT, FROM_S3 = "grepr", "grepr, zero-shot", "grepr, from S3"
#: Names of the others.
AUTHORS, BARE, PLAIN, PYIQA = "the authors' way", "bare loop", "plain Ray Data", "pyiqa niqe"


class Comparison:
    """What takes turns on one set of photos, and the rows that come of it."""

    def __init__(self, photos: Sequence[Path], half: Sequence[Path], few: Sequence[Path], cores: int) -> None:
        self.photos = photos
        self.half = half
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
            return _program(plain_ray_data.__file__, self.half[0].parent, output, *options)

    def add_bare(self) -> None:
        self.ways |= {BARE: lambda: Run(bare_loop(self.photos, self.cores)), GREPR: self.grepr}
        self.rows.append(Row("grepr / bare loop of decode + forward, no Ray", GREPR, BARE, "≥ 0.95"))

    def add_authors(self, temporary: Path) -> None:
        bundle = str(temporary / "bundle")
        save_zero_shot_bundle(Path(bundle))
        self.ways |= {
            AUTHORS: partial(self.authors, bundle),
            ZERO_SHOT: partial(self.grepr_zero_shot, bundle, "auto"),
        }
        title = f"grepr zero-shot, {self.precision} / the authors' way, fp32; CLIP RN50 of random weights"
        self.rows.append(Row(title, ZERO_SHOT, AUTHORS, "≥ 10"))

    def add_ray_data(self) -> None:
        self.ways |= {PLAIN: partial(self.plain_ray_data, self.precision), GREPR: self.grepr}
        self.rows.append(Row(f"grepr / {PLAIN}, both {self.precision}", GREPR, PLAIN, "≥ 2"))

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
    exact = comparison.grepr_zero_shot(bundle, "fp32")
    exactly, closely = (largest_difference(run, theirs) for run in (exact, runs[ZERO_SHOT][-1]))
    with torch.no_grad():
        work = gmacs(lambda: authors_way.AuthorsWay(bundle).scores([photo]))
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {
        name: matrix_gmacs_per_second(dtypes[name], comparison.cores)
        for name in dict.fromkeys(("fp32", comparison.precision))
    }
    most = rates[comparison.precision] / work / theirs.images_per_second
    products = ", ".join(f"{rate:.0f} in {name}" for name, rate in rates.items())
    return [
        f"Zero-shot scores differ from the authors' way by at most {exactly:.0e} in fp32 (at "
        f"{exact.images_per_second:.2f} images/s in one run), by {closely:.0e} in {comparison.precision}.",
        f"A photo takes {work:.1f} GMACs either way, at {work * theirs.images_per_second:.0f} GMACs/s the authors' and "
        f"{work * runs[ZERO_SHOT][-1].images_per_second:.0f} here. Large matrix products run at {products} on these "
        f"{comparison.cores} cores. At that rate grepr would be {most:.1f} times as fast.",
    ]


def notes_on_ray_data(comparison: Comparison, runs: dict[str, list[Run]]) -> list[str]:
    """Says whether both do the same job, and what plain Ray Data does in float32."""
    plain = runs[PLAIN][-1]
    ours = runs[GREPR][-1].scores
    difference = largest_difference(plain, Run(0, {name: ours[name] for name in plain.scores}))
    exact = comparison.plain_ray_data("fp32")
    return [
        f"Scores of plain Ray Data differ from grepr's by at most {difference:.0e} in {comparison.precision}. In fp32 "
        f"it scored {exact.images_per_second:.2f} images/s in one run."
    ]


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
    parser.add_argument("--images", type=int, default=256, help="photos at most; slow ways take fewer of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=COMPARISONS, help="may be given several times")
    parser.add_argument("--pyiqa", help="pyiqa's command, where it is not beside this Python or on the path")
    options = parser.parse_args()
    wanted = options.only or COMPARISONS
    # Ray lowers the priority of its processes, which would lose to whatever else the machine does; other ways do not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        photos = lay_out_photos(temporary / "photos", options.photos, options.images)
        half, few = (
            lay_out_photos(temporary / f"a-{share}th", str(temporary / "photos"), max(1, len(photos) // share))
            for share in (HALF, FEW)
        )
        comparison = Comparison(photos, half, few, available_cores())
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
            notes += notes_on_ray_data(comparison, runs)
    print(
        f"{len(photos)} photos, {len(half)} of them for plain Ray Data, {len(few)} for zero-shot scores and pyiqa; "
        f"{comparison.cores} cores; median of {options.rounds} rounds in turn\n"
    )
    print(table(comparison.rows, runs))
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
