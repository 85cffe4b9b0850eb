"""Measurements, the most important first, within a number of minutes."""

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.report import Report, Row
from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.view import View
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.scorer import Scorer

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS = 3
#: That decode beside a GPU, unless their number is what is measured.
THREADS = 16
#: Calls before the clock starts: libraries choose their kernels at the first, CUDA graphs are recorded in the next.
WARM_UP = 3


class NotHere(Exception):  # noqa: N818 - no error: what a measurement needs is not on this machine
    """Says what a measurement would need."""


@dataclass(frozen=True)
class Setting:
    """What is measured on.

    Attributes:
        device: A CUDA device, or the CPU to try the program itself.
        quick: Whether everything is as small as can be.
        bundle: The model.
        kinds: Photographs on disk, by kind.
        folder: For files of measurements.
        precisions: That the device computes in, the one to be fast in first.
        measured: Images a second that later measurements are compared with, by name.
    """

    device: torch.device
    quick: bool
    bundle: Bundle
    kinds: dict[str, list[Path]]
    folder: Path
    precisions: Sequence[Precision]
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def max_pixels(self) -> int | None:
        """Area that photographs are seen at in place of the bundle's."""
        return 160 * 160 if self.quick else None

    @property
    def view(self) -> View:
        return self.bundle.view.at(self.max_pixels) if self.max_pixels else self.bundle.view

    def scorer(self, precision: Precision, **options: Any) -> Scorer:
        """Makes a scorer as ``grepr score`` does, with the device's usual number of decoding threads."""
        usual = {
            "bundle": self.bundle,
            "device": self.device.type,
            "decode_threads": THREADS,
            "zero_shot": False,
            "max_pixels": self.max_pixels,
        }
        return Scorer(**usual | options, precision=precision)

    @cached_property
    def contents(self) -> dict[str, list[bytes]]:
        """The photographs' files, by kind; reading them also puts them into the system's cache."""
        return {kind: [path.read_bytes() for path in paths] for kind, paths in self.kinds.items()}

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds_of(self, run: Callable[[], object], seconds: float) -> float:
        """Times calls that follow each other without a wait between them.

        Args:
            run: What is called.
            seconds: That all rounds together may take, beside warming up.

        Returns:
            Seconds a call, the median of the rounds.
        """
        for _ in range(1 if self.quick else WARM_UP):
            run()
        calls = max(1, int(seconds / ROUNDS / self._time(run, 1)))
        return statistics.median(self._time(run, calls) for _ in range(1 if self.quick else ROUNDS))

    def _time(self, run: Callable[[], object], calls: int) -> float:
        self.wait()
        began = time.perf_counter()
        for _ in range(calls):
            run()
        self.wait()
        return (time.perf_counter() - began) / calls


@dataclass(frozen=True)
class Step:
    """A measurement.

    Attributes:
        table: That its rows belong to.
        name: For the word on what is left out.
        wants: Seconds that it would take.
        run: Takes the seconds that it is given and gives rows.
        least: Seconds below which it cannot be done: processes take time to start.
    """

    table: str
    name: str
    wants: float
    run: Callable[[float], Iterable[Row]]
    least: float = 0.5


def carry_out(steps: Sequence[Step], report: Report, *, seconds: float, quick: bool = False) -> None:
    """Carries out measurements until the time is over.

    Each is given its share of the time that is left, so that one that takes longer shortens all after it. What raises
    an exception is not right, and the others go on.

    Args:
        steps: In the order of their importance.
        report: Takes what they find.
        seconds: For all of them.
        quick: Whether each is to be as short as it can.
    """
    end = time.monotonic() + seconds
    for number, step in enumerate(steps):
        left = end - time.monotonic()
        given = step.wants * min(1.0, left / sum(later.wants for later in steps[number:]))
        if given < step.least and not (quick and left > 0):
            report.leave_out(step.table, step.name, "no time was left for it")
            continue
        try:
            for row in step.run(0.0 if quick else given):
                report.add(step.table, row)
        except NotHere as reason:
            report.leave_out(step.table, step.name, str(reason))
        except Exception as error:
            traceback.print_exc()
            report.fail(step.table, step.name, f"{type(error).__name__}: {error}")
    report.finish()
