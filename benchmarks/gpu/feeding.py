"""The scorer fed from memory and from disk: how fast it is, by threads and processes, and what the GPU waits for."""

import itertools
import multiprocessing as mp
import os
import statistics
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self

import torch

from benchmarks.gpu.photographs import LARGE
from benchmarks.gpu.report import Row
from benchmarks.gpu.steps import THREADS, NotHere, Setting, Step
from grepr_core.bundles.bundle import load_bundle
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.scorer import Scorer

TABLE, SYNCHRONISATIONS_TABLE = "scorer", "synchronisations"
PROCESSES = (2, 4)
#: Seconds that processes may take to start, to load the model and to end.
START = 90
#: The operation that PyTorch warns of is named by the place that it was called from.
WARNING = "synchronizing CUDA operation"


@dataclass(frozen=True)
class Fed:
    """What a scorer did while it was fed.

    Attributes:
        images: That it scored.
        seconds: That it took.
        cpu: Seconds of CPU of its process.
        steps: Seconds by step, see :class:`Scorer`; decoding is summed over threads.
        gibibytes: Most memory of the GPU that its process held.
    """

    images: int
    seconds: float
    cpu: float
    steps: dict[str, float]
    gibibytes: float


class Feeding:
    """The measurements.

    Args:
        setting: What is measured on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._precision = setting.precisions[0]

    def first_steps(self) -> list[Step]:
        """Gives speeds with as many threads as there are by default."""
        return [
            *(
                self._step(kind, source, THREADS, 1, wants=9 if kind == LARGE else 7)
                for kind in self._setting.kinds
                for source in ("memory", "disk")
            ),
            *(
                self._step(next(iter(self._setting.kinds)), "disk", threads, processes, wants=22, least=18)
                for processes, threads in self._processes()
            ),
        ]

    def more_steps(self) -> list[Step]:
        """Gives speeds by threads, of the other kinds by processes, with patches; and the synchronisations."""
        square, *others = self._setting.kinds
        cores = len(os.sched_getaffinity(0))
        threads = () if self._setting.quick else sorted({1, 4, cores} - {THREADS})
        processes = () if self._setting.quick else [self._processes()[0]]
        return [
            Step(SYNCHRONISATIONS_TABLE, "in the middle of a run", 3, lambda _: self.synchronisations()),
            *(self._step(square, "memory", count, 1, wants=5) for count in threads),
            *(self._step(kind, "disk", t, n, wants=22, least=18) for kind in others for n, t in processes),
            Step(TABLE, "with zero-shot patches", 6, lambda given: [self.zero_shot(given)]),
        ]

    def speed(self, kind: str, source: str, threads: int, processes: int, seconds: float) -> Row:
        """Feeds the scorers of some processes."""
        setting = self._setting
        contents = contents_of(setting.kinds[kind], source)
        with Utilisation(setting.on_gpu) as utilisation:
            if processes == 1:
                runs = [feed(self._scorer(threads), contents, seconds)]
            else:
                runs = self._in_processes(setting.kinds[kind], source, threads, processes, max(0.0, seconds - 12))
        speed = sum(run.images / run.seconds for run in runs)
        if processes == 1:
            setting.measured[f"scorer {kind} {source}"] = max(
                speed, setting.measured.get(f"scorer {kind} {source}", 0.0)
            )
        named = {"photographs": kind, "from": source, "processes": processes, "threads": threads}
        return named | self._cells(speed, runs, utilisation)

    def zero_shot(self, seconds: float) -> Row:
        """Feeds a scorer that encodes patches too."""
        kind = next(iter(self._setting.kinds))
        contents = contents_of(self._setting.kinds[kind][:16], "memory")
        with Utilisation(self._setting.on_gpu) as utilisation:
            run = feed(self._scorer(THREADS, zero_shot=True), contents, seconds)
        speed = run.images / run.seconds
        named = {"photographs": f"{kind}, zero-shot", "from": "memory", "processes": 1, "threads": THREADS}
        return named | self._cells(speed, [run], utilisation)

    def synchronisations(self) -> Iterator[Row]:
        """Counts what makes the processor wait for the GPU once all shapes have been seen."""
        if not self._setting.on_gpu:
            raise NotHere("only a GPU is waited for")
        contents = [content for kind in self._setting.contents.values() for content in kind[:128]]
        scorer = self._scorer(THREADS)
        for _ in range(2):  # after which all shapes are recorded
            scorer.score(contents)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            counts = synchronisations_of(lambda: scorer.score(contents))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        yield {"where": "anywhere", "images": len(contents), "seen": sum(counts.values())}
        for place, count in counts.most_common():
            yield {"where": place, "images": len(contents), "seen": count}

    def _step(self, kind: str, source: str, threads: int, processes: int, *, wants: float, least: float = 0.5) -> Step:
        name = f"{kind} from {source}, {processes} processes of {threads} threads"
        return Step(TABLE, name, wants, lambda given: [self.speed(kind, source, threads, processes, given)], least)

    def _processes(self) -> list[tuple[int, int]]:
        """Processes a GPU, and the threads of each where all cores are shared among them."""
        cores = len(os.sched_getaffinity(0))
        return [(count, max(1, cores // count)) for count in (PROCESSES[:1] if self._setting.quick else PROCESSES)]

    def _scorer(self, threads: int, *, zero_shot: bool = False) -> Scorer:
        return self._setting.scorer(self._precision, decode_threads=threads, zero_shot=zero_shot)

    def _in_processes(
        self, paths: Sequence[Path], source: str, threads: int, processes: int, seconds: float
    ) -> list[Fed]:
        setting = self._setting
        context = mp.get_context("spawn")
        together = context.Barrier(processes, timeout=START)
        work = Work(setting.device.type, self._precision, threads, setting.max_pixels, list(paths), source, seconds)
        with ProcessPoolExecutor(processes, context, initializer=_share, initargs=(together,)) as pool:
            # Each waits for the others, so that none takes the work of two.
            futures = [pool.submit(_feed_together, work) for _ in range(processes)]
            return [future.result(timeout=seconds + 2 * START) for future in futures]

    def _cells(self, speed: float, runs: Sequence[Fed], utilisation: "Utilisation") -> Row:
        forward = self._setting.measured.get(f"forward {self._precision}")
        return {
            "images/s": speed,
            "of forward alone": speed / forward if forward else None,
            "GPU busy": utilisation.mean,
            "cores used": sum(run.cpu / run.seconds for run in runs),
            "an image takes": {
                step: f"{1e3 * sum(run.steps[step] for run in runs) / sum(run.images for run in runs):.3g} ms"
                for step in runs[0].steps
            },
            "GiB": sum(run.gibibytes for run in runs),
        }


@dataclass(frozen=True)
class Work:
    """What a process is to do."""

    device: str
    precision: Precision
    threads: int
    max_pixels: int | None
    paths: list[Path]
    source: str
    seconds: float


class Utilisation:
    """How busy a GPU is while the context is open, as ``nvidia-smi`` sees it.

    Args:
        on_gpu: Whether there is one.

    Attributes:
        mean: Share of the time in which the GPU computed anything; None where that is not known.
    """

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._asked: subprocess.Popen[str] | None = None
        self.mean: float | None = None

    def __enter__(self) -> Self:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        query = ["nvidia-smi", f"--id={first}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        query += ["--loop-ms=200"]
        if self._on_gpu:
            try:
                self._asked = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
            except OSError:
                return self
        return self

    def __exit__(self, *error: object) -> None:
        if self._asked is None:
            return
        self._asked.terminate()
        told = [int(line) for line in self._asked.communicate()[0].split() if line.isdigit()]
        # While processes start and shapes are seen for the first time it idles; the second half is the measurement.
        if told:
            self.mean = statistics.mean(told[len(told) // 2 :]) / 100


def contents_of(paths: Sequence[Path], source: str) -> list[Callable[[], bytes]]:
    """Gives what reads each photograph: from memory, or from disk, which is to say the system's cache."""
    if source == "disk":
        return [path.read_bytes for path in paths]
    return [partial(bytes, path.read_bytes()) for path in paths]


def feed(
    scorer: Scorer, contents: Sequence[Callable[[], bytes]], seconds: float, together: Barrier | None = None
) -> Fed:
    """Scores photographs over and over until the time is over, one at least.

    Args:
        scorer: Fed with all of them once before the clock starts, so that it has seen every shape.
        contents: What reads each of them.
        seconds: For which it is fed.
        together: Where processes wait for each other before the clock starts.

    Returns:
        What it did.
    """
    fed = 0

    def until(end: float) -> Iterator[bytes]:
        nonlocal fed
        for content in itertools.cycle(contents):
            if fed and time.perf_counter() >= end:
                return
            fed += 1
            yield content()

    scorer.score(content() for content in contents)
    before = dict(scorer.seconds)
    if together is not None:
        together.wait()
    cpu, began = time.process_time(), time.perf_counter()
    scorer.score(until(began + seconds))
    took = time.perf_counter() - began
    return Fed(
        fed,
        took,
        time.process_time() - cpu,
        {step: scorer.seconds[step] - before.get(step, 0.0) for step in ("read", "decode", "model")},
        torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_initialized() else 0.0,
    )


def synchronisations_of(run: Callable[[], object]) -> Counter[str]:
    """Counts the warnings of synchronisations in a call, by the place that they come from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught if WARNING in str(warning.message)
    )


_together: Barrier | None = None


def _share(together: Barrier) -> None:
    global _together  # noqa: PLW0603 - the only way into a process of a pool
    _together = together


def _feed_together(work: Work) -> Fed:
    torch.set_num_threads(1)
    scorer = Scorer(
        load_bundle("grepr-lite"),
        device=work.device,
        precision=work.precision,
        decode_threads=work.threads,
        max_pixels=work.max_pixels,
        zero_shot=False,
    )
    return feed(scorer, contents_of(work.paths, work.source), work.seconds, _together)
