"""``grepr score`` on a folder of the photographs, beside the scorer alone. Only this needs Ray."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.report import Row
from benchmarks.gpu.steps import NotHere, Setting, Step

TABLE = "grepr score"


class Whole:
    """The measurements.

    Args:
        setting: What is measured on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def steps(self) -> list[Step]:
        """Gives a run a number of processes a GPU."""
        counts = (1, 2) if self._setting.on_gpu else (None,)
        return [
            Step(TABLE, f"{count} processes a GPU", 60, lambda given, count=count: [self.run(count, given)], least=30)
            for count in counts
        ]

    def run(self, processes: int | None, seconds: float) -> Row:
        """Scores so many photographs as take about half of the time.

        Args:
            processes: A GPU; None on the CPU.
            seconds: For the run, start of Ray included.

        Returns:
            Speeds, and the ratio to the scorer alone.
        """
        if importlib.util.find_spec("ray") is None:
            raise NotHere("ray is not installed")
        setting = self._setting
        kind = next(iter(setting.kinds))
        alone = setting.measured.get(f"scorer {kind} disk")
        images = max(len(setting.kinds[kind]), int((alone or 0.0) * seconds / 2))
        number = len(list(setting.folder.glob("lake-*")))
        lake, output = setting.folder / f"lake-{number}", setting.folder / f"scores-{number}"
        _fill(lake, setting.kinds[kind], images)
        options = ["--device", setting.device.type, "--precision", setting.precisions[0]]
        if processes is not None:
            options += ["--processes-per-gpu", str(processes)]
        if setting.max_pixels is not None:
            options += ["--max-pixels", str(setting.max_pixels)]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "grepr", "score", str(lake), str(output), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=max(240.0, 2 * seconds),
        )
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"grepr score ended with exit code {done.returncode}: {done.stderr[-2000:]}")
        record = json.loads((output / "run.json").read_text(encoding="utf-8"))
        speed = record["images_per_second"]
        return {
            "photographs": kind,
            "processes a GPU": processes,
            "images": images,
            "with its start, images/s": images / took,
            "without, images/s": speed,
            "scorer alone, images/s": alone,
            "ratio": speed / alone if alone and speed else None,
        }


def _fill(lake: Path, photographs: list[Path], count: int) -> None:
    """Makes a folder of hard links, in which photographs repeat."""
    lake.mkdir()
    for i in range(count):
        os.link(photographs[i % len(photographs)], lake / f"{i:06d}{photographs[i % len(photographs)].suffix}")
