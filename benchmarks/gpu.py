"""Scoring on a GPU by the built-in bundle: whether its scores are the CPU's, how fast it is, and what bounds it.

scores     scores on the GPU beside those of the CPU in float32, those of a JPEG decoder on the GPU included
model      the encoders alone, on photographs that lie decoded on the GPU, by precision and batch
scorer     encoded bytes to scores by decoding threads, beside decoding alone: the slower of the two is the bound
zero-shot  the same with the low-level zero-shot score, whose patches cost more than all else
pixels     those of the JPEG decoder on the GPU beside Pillow's, and its own while the GPU computes something else
large      photographs of 12 megapixels, enlarged copies of the first ones, decoded by Pillow and on the GPU

Speeds are medians of rounds after one to warm up, the GPU waited for at both ends of each. Photographs that are not
512 x 512 are left out, and the rest repeated where there are too few.

Example: python -m benchmarks.gpu ~/Pictures --threads 1,4,16 --json gpu.json
"""

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.gpu_decode import DeviceDecoder
from grepr_core.decoding.images import Limits, Photo, decode
from grepr_core.decoding.view import AtMost
from grepr_core.encoders.inference import optimise_for_inference, resolve_dtype
from grepr_core.encoders.precision import Precision
from grepr_core.regression.metrics import srocc
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.scorer import Scorer

SIDE = 512
LARGE = (4000, 3000)
TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Photographs that lie on the GPU while the encoders are timed.
POOL = 256
#: Within this share of the slower one, two speeds count as equal.
NEAR = 0.85

Table = list[dict[str, object]]


@dataclass(frozen=True)
class Setting:
    """What is measured on.

    Attributes:
        bundle: The model.
        device: ``cuda``, or ``cpu`` to try the program itself.
        contents: Files of photographs of 512 x 512.
        few: How many of them are scored with the zero-shot score, and how many large ones there are.
        many: Photographs of a round of whole scoring.
        threads: Numbers of decoding threads.
        batches: Numbers of photographs encoded together.
        rounds: Of every measurement.
    """

    bundle: Bundle
    device: str
    contents: Sequence[bytes]
    few: int
    many: int
    threads: Sequence[int]
    batches: Sequence[int]
    rounds: int

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def scorer(self, precision: Precision = "bf16", *, threads: int = 1, **options: bool | int) -> Scorer:
        options.setdefault("zero_shot", False)
        return Scorer(self.bundle, device=self.device, precision=precision, decode_threads=threads, **options)

    def repeated(self, count: int) -> list[bytes]:
        return list(itertools.islice(itertools.cycle(self.contents), count))

    def rate(self, run: Callable[[], object], images: int) -> float:
        """Gives the images a second of a run."""
        return images / self.seconds(run)

    def seconds(self, run: Callable[[], object]) -> float:
        times = []
        for number in range(self.rounds + 1):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            if number:
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def machine() -> dict[str, object]:
    """Says what is measured on."""
    facts: dict[str, object] = {"torch": torch.__version__, "cores": os.cpu_count()}
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        facts["card"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def values(scores: Sequence[ImageScore], name: str = "score") -> NDArray[np.float64]:
    return np.array([getattr(score, name) for score in scores])


def agreement(way: str, found: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, object]:
    difference = np.abs(found - expected)
    return {
        "scores": way,
        "photos": len(found),
        "largest difference": float(difference.max()),
        "mean": float(difference.mean()),
        "SROCC": srocc(found, expected),
    }


def scores(setting: Setting) -> Table:
    """Compares the GPU's scores with those of the CPU in float32, and those of its decoder with Pillow's."""
    threads = max(setting.threads)
    on_cpu = {
        precision: values(
            Scorer(setting.bundle, device="cpu", precision=precision, zero_shot=False).score(setting.contents)
        )
        for precision, dtype in TYPES.items()
        # Emulated, bfloat16 would take minutes.
        if dtype in (torch.float32, resolve_dtype("auto", torch.device("cpu")))
    }
    expected = on_cpu.pop("fp32")
    rows = [agreement(f"CPU, {precision}", found, expected) for precision, found in on_cpu.items()]
    pillow = {}
    for precision in TYPES:
        pillow[precision] = values(setting.scorer(precision, threads=threads).score(setting.contents))
        rows.append(agreement(f"GPU, {precision}", pillow[precision], expected))
        alone = values(setting.scorer(precision, threads=threads, batch_pixels=1).score(setting.contents))
        rows.append(agreement(f"GPU, {precision}, one by one", alone, expected))
        rows.append(agreement(f"GPU, {precision}, one by one beside batches", alone, pillow[precision]))
    few = setting.contents[: setting.few]
    cpu = Scorer(setting.bundle, device="cpu", precision="fp32").score(few)
    for precision in TYPES:
        found = setting.scorer(precision, threads=threads, zero_shot=True).score(few)
        rows.append(agreement(f"GPU, {precision}, zero-shot", values(found, "score_low"), values(cpu, "score_low")))
    if setting.on_gpu:
        for precision in TYPES:
            nvidia = setting.scorer(precision, threads=threads, gpu_decode=True).score(setting.contents)
            rows.append(agreement(f"GPU decode beside Pillow, {precision}", values(nvidia), pillow[precision]))
    return rows


def pixels(setting: Setting) -> Table:
    """Compares the pixels of the GPU's decoder with Pillow's, and with its own while the GPU is busy."""
    decoder = DeviceDecoder(torch.device(setting.device), limits=Limits(), view=setting.bundle.view)
    quiet: list[Tensor | None] = []
    means, largest = [], []
    for content in setting.contents:
        ours, pillow = decoder.decode(content), decode(content, view=setting.bundle.view)
        setting.wait()
        quiet.append(None if ours is None else ours.rgb.cpu())
        if ours is not None and isinstance(pillow, Photo):
            difference = np.abs(ours.rgb.cpu().numpy().astype(int) - pillow.rgb)
            means.append(float(difference.mean()))
            largest.append(int(difference.max()))
    return [
        {
            "photos": len(setting.contents),
            "left to Pillow": len(setting.contents) - len(means),
            "mean difference, levels": statistics.mean(means),
            "median of largest": statistics.median(largest),
            "largest": max(largest),
            "other pixels while busy": sum(changed_while_busy(setting, decoder, quiet) for _ in range(setting.rounds)),
        }
    ]


def changed_while_busy(setting: Setting, decoder: DeviceDecoder, quiet: Sequence[Tensor | None]) -> int:
    """Counts photographs that several threads decode to other pixels while the GPU computes something else."""
    side = 8192 if setting.on_gpu else 1
    work = torch.rand(16 * side, side, device=setting.device)
    with ThreadPoolExecutor(max(setting.threads)) as pool:
        found = [pool.submit(decoder.decode, content) for content in setting.contents]
        for _ in range(20):
            work[:side] @ work[side : 2 * side]
            work.relu()
        photos = [future.result() for future in found]
    setting.wait()
    return sum(
        photo is not None and expected is not None and not torch.equal(photo.rgb.cpu(), expected)
        for photo, expected in zip(photos, quiet, strict=True)
    )


@torch.inference_mode()
def model(setting: Setting) -> Table:
    """Times the encoders on decoded photographs on the device."""
    device = torch.device(setting.device)
    decoded = [decode(content) for content in setting.repeated(max(POOL if setting.on_gpu else 1, *setting.batches))]
    pool = torch.from_numpy(np.stack([photo.rgb for photo in decoded if isinstance(photo, Photo)])).to(device)
    high, low = setting.bundle.high, setting.bundle.low
    assert high is not None
    assert low is not None
    rows: Table = []
    for precision, dtype in TYPES.items():
        if setting.on_gpu and precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # as the scorer has it
        semantic, low_level = (
            optimise_for_inference(high, device, dtype),
            optimise_for_inference(low, device, dtype),
        )
        parts: dict[str, Callable[[Tensor], object]] = {
            "high level": semantic,
            "low level": low_level.encode_frames,
            "both": lambda images, high=semantic, low=low_level: (high(images), low.encode_frames(images)),
        }
        for batch in setting.batches:
            if setting.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            images = max(batch, len(pool) // batch * batch)
            speeds = {
                name: setting.rate(lambda part=part, batch=batch: run_batches(part, pool, batch), images)
                for name, part in parts.items()
            }
            memory = torch.cuda.max_memory_allocated() / 2**30 if setting.on_gpu else None
            rows.append({"precision": precision, "batch": batch, **per_second(speeds), "GiB": memory})
    return rows


def run_batches(encode: Callable[[Tensor], object], pool: Tensor, batch: int) -> None:
    for start in range(0, len(pool) - batch + 1, batch):
        encode(pool[start : start + batch].permute(0, 3, 1, 2).float().div_(255))


def per_second(speeds: dict[str, float]) -> dict[str, object]:
    return {f"{name}, images/s": speed for name, speed in speeds.items()}


def scorer(setting: Setting) -> Table:
    """Times whole scoring, decoding by Pillow or on the GPU, beside decoding alone."""
    return [
        row
        for threads in setting.threads
        for row in whole(setting, setting.repeated(setting.many), threads, {"threads": threads})
    ]


def large(setting: Setting) -> Table:
    """Times whole scoring of photographs of a camera's size."""
    with ThreadPoolExecutor(max(setting.threads)) as threads:
        contents = list(threads.map(enlarged, setting.contents[: setting.few]))
    megabytes = sum(map(len, contents)) / len(contents) / 1e6
    threads_of = {"threads": max(setting.threads), "MB a file": megabytes}
    rows = whole(setting, contents, max(setting.threads), threads_of)
    if setting.on_gpu:
        by_pillow, on_gpu = (
            values(setting.scorer(threads=max(setting.threads), gpu_decode=choice).score(contents))
            for choice in (False, True)
        )
        rows.append(agreement("GPU decode beside Pillow", on_gpu, by_pillow))
    return rows


def enlarged(content: bytes) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(content)).convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def whole(setting: Setting, contents: Sequence[bytes], threads: int, named: dict[str, object]) -> Table:
    with ThreadPoolExecutor(threads) as pool:
        decoding = setting.rate(
            lambda: list(pool.map(lambda content: decode(content, view=AtMost(SIDE * SIDE)), contents)),
            len(contents),
        )
    rows = []
    for gpu_decode in (False, True) if setting.on_gpu else (False,):
        ready = setting.scorer(threads=threads, gpu_decode=gpu_decode)
        speed = setting.rate(lambda ready=ready: ready.score(contents), len(contents))
        rows.append(
            {
                **named,
                "decoder": "GPU" if gpu_decode else "Pillow",
                "images": len(contents),
                "Pillow alone, images/s": decoding,
                "whole, images/s": speed,
                "bound": "decoding" if not gpu_decode and speed > NEAR * decoding else "another",
                # Of all rounds; decoding is summed over its threads, the model's time is that of its thread.
                "seconds": dict(ready.seconds),
            }
        )
    return rows


def zero_shot(setting: Setting) -> Table:
    """Times whole scoring with the low-level zero-shot score."""
    contents = setting.repeated(4 * setting.few)
    rows: Table = []
    for precision in TYPES:
        ready = setting.scorer(precision, threads=max(setting.threads), zero_shot=True)
        speed = setting.rate(lambda ready=ready: ready.score(contents), len(contents))
        rows.append(
            {"precision": precision, "images": len(contents), "images/s": speed, "seconds": dict(ready.seconds)}
        )
    return rows


PARTS: dict[str, Callable[[Setting], Table]] = {
    "scores": scores,
    "pixels": pixels,
    "model": model,
    "scorer": scorer,
    "zero-shot": zero_shot,
    "large": large,
}


def markdown(rows: Table) -> str:
    """Makes tables of rows; rows with other columns begin another one."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines.append(f"| {' | '.join(map(cell, row.values()))} |")
    return "\n".join(lines)


def cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def photographs(folder: Path, count: int) -> list[bytes]:
    """Reads photographs of 512 x 512."""

    def read() -> Iterator[bytes]:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in {".jpg", ".jpeg"}:
                content = path.read_bytes()
                if Image.open(io.BytesIO(content)).size == (SIDE, SIDE):
                    yield content

    return list(itertools.islice(read(), count))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEG files")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--photographs", type=int, default=300, help="read at most, and compared")
    parser.add_argument("--few", type=int, default=32, help="photographs with zero-shot scores, and large ones")
    parser.add_argument("--many", type=int, default=2400, help="photographs of a round of whole scoring")
    parser.add_argument("--threads", default="1,4,16", help="that decode, with commas between")
    parser.add_argument("--batches", default="1,8,32,64,128", help="with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the tables")
    return parser


def setting_of(options: argparse.Namespace) -> Setting:
    return Setting(
        bundle=load_bundle("grepr-lite"),
        device=options.device,
        contents=photographs(options.photos, options.photographs),
        few=options.few,
        many=options.many,
        threads=[int(number) for number in options.threads.split(",")],
        batches=[int(number) for number in options.batches.split(",")],
        rounds=options.rounds,
    )


def main() -> None:
    options = arguments().parse_args()
    setting = setting_of(options)
    found: dict[str, object] = {"machine": machine()}
    print(cell(found["machine"]))
    for name in options.only.split(","):
        rows = PARTS[name](setting)
        found[name] = rows
        print(f"\n{name}\n{markdown(rows)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
