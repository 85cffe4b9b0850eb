"""The floor of scoring on this machine: operations and bytes counted, both rates measured, and the time it takes.

Operations are those of the convolutions and linear layers. Bytes are what they read and write at least once: inputs,
outputs and weights. The floor of a step is the larger of operations and bytes over the rates measured here: that of a
3 x 3 convolution of 64 channels in the cache, which has nothing to wait for, and that of copying 256 MB. One thread,
since grepr runs one process a core, and its CPU time, so that other load disturbs less.

The floor of the zero-shot score takes every patch for itself. Overlapping patches share work only where the zeros
around a patch do not reach: by count 88 % of the first convolution's positions, and 63, 50, 39 and 29 % of those in
the first stage's four. As each position lies in four patches, sharing them would save at most 9 % of the operations,
and cost strips with halos around every patch; so it is not done.

Example: python benchmarks/floor.py --rounds 7
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Photo, decode
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.statistics import MapStatistics
from grepr_core.zero_shot.patches import patch_batches
from tests.lake import jpeg

CPU = torch.device("cpu")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def count(encoder: nn.Module, run: Callable[[nn.Module], object], width: int) -> tuple[float, float]:
    """Gives GMAC and MB of the convolutions and linear layers of a run."""
    operations = octets = 0

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations, octets
        operations += output.numel() * layer.weight[0].numel()
        octets += (inputs[0].numel() + output.numel() + layer.weight.numel()) * width

    layers = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    run(encoder)
    for handle in handles:
        handle.remove()
    return operations / 1e9, octets / 1e6


def milliseconds(run: Callable[[], object], rounds: int) -> float:
    run()
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        run()
        times.append(1000 * (time.thread_time() - began))
    return statistics.median(times)


def rates(dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Gives GMAC/s of a convolution and GB/s, read and written, of a copy."""
    maps = torch.rand(1, 64, 56, 56).to(dtype).to(memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3).to(dtype).to(memory_format=torch.channels_last)
    convolution = min(milliseconds(lambda: F.conv2d(maps, weight, padding=1), 10) for _ in range(rounds))
    source, target = torch.zeros(2**26), torch.zeros(2**26)
    copy = min(milliseconds(lambda: target.copy_(source), 1) for _ in range(rounds))
    return 64 * 64 * 9 * 56 * 56 / convolution / 1e6, 2 * source.nbytes / copy / 1e6


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", help="by default a photograph of 512 x 512 is taken")
    parser.add_argument("--precision", choices=TYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = TYPES[options.precision]
    bundle = load_bundle("grepr-lite")
    assert bundle.high is not None
    assert bundle.low is not None
    content = Path(options.photo).read_bytes() if options.photo else jpeg(Image.fromarray(skimage.data.astronaut()))
    photo = decode(content, view=bundle.view)
    assert isinstance(photo, Photo), photo
    images = torch.from_numpy(photo.rgb)[None].permute(0, 3, 1, 2).float() / 255

    def encode_patches(encoder: nn.Module) -> None:
        for batch in patch_batches(images[0]):
            encoder(batch)

    compute, copy = rates(dtype, options.rounds)
    print(f"{options.precision}, one thread: {compute:.0f} GMAC/s, {copy:.1f} GB/s\n")
    print("| step | GMAC | MB | floor, ms | measured, ms | floor / measured |\n|---|---|---|---|---|---|")
    decoding = milliseconds(lambda: decode(content, view=bundle.view), options.rounds)
    print(f"| decode | | | | {decoding:.1f} | |")
    steps: dict[str, tuple[nn.Module, Callable[[nn.Module], object]]] = {
        "EfficientNet-Lite0": (bundle.high, lambda encoder: encoder(images)),
        "low level, first stage": (bundle.low, lambda encoder: encoder.encode_frames(images)),
        "low level, zero-shot patches": (bundle.low, encode_patches),
    }
    for name, (encoder, run) in steps.items():
        operations, megabytes = count(encoder, run, dtype.itemsize)
        floor = max(operations / compute * 1000, megabytes / copy)
        prepared = optimise_for_inference(encoder, CPU, dtype)
        measured = milliseconds(lambda run=run, prepared=prepared: run(prepared), options.rounds)
        print(
            f"| {name} | {operations:.2f} | {megabytes:.0f} | {floor:.1f} | {measured:.1f} | {floor / measured:.2f} |"
        )
    shapes = [(16, 256), (24, 128), (40, 64), (80, 32), (112, 32), (192, 16), (320, 16), (1280, 16), (64, 128)]
    maps = [torch.rand(1, c, s, s).to(dtype).to(memory_format=torch.channels_last) for c, s in shapes]
    megabytes = sum(m.nbytes for m in maps) / 1e6
    measured = milliseconds(lambda: [MapStatistics()(m) for m in maps], options.rounds)
    print(f"| of both: statistics of maps | | {megabytes:.0f} | {megabytes / copy:.1f} | {measured:.1f} | |")


if __name__ == "__main__":
    main()
