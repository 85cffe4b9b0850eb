"""Ways to run the encoders on this machine, side by side: layout, folding of batch normalisation, precision, batch.

Example: python -m benchmarks.encoders --threads 1
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from grepr_core.encoders.inference import optimise_for_inference, resolve_dtype
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import load_semantic_encoder

CPU = torch.device("cpu")


def variants(encoder: nn.Module) -> dict[str, tuple[nn.Module, torch.memory_format]]:
    return {
        "fp32, contiguous, as trained": (encoder, torch.contiguous_format),
        "fp32, channels-last, folded": (optimise_for_inference(encoder, CPU, torch.float32), torch.channels_last),
        "bf16, channels-last, folded": (optimise_for_inference(encoder, CPU, torch.bfloat16), torch.channels_last),
    }


def seconds(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    began = time.perf_counter()
    run(images)
    return (time.perf_counter() - began) / len(images)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.side} x {options.side}, {options.threads} threads, median of {options.rounds} rounds in turn")
    print(f"chosen here by --precision auto: {resolve_dtype('auto', CPU)}\n")
    print("| encoder | way | batch | ms an image | times as fast as the first |\n|---|---|---|---|---|")
    encoders = {"EfficientNet-Lite0": load_semantic_encoder(), "low level": LowLevelEncoder().eval()}
    for name, encoder in encoders.items():
        ways = [(way, batch) for way in variants(encoder) for batch in (1, 4)]
        times: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
        prepared = variants(encoder)
        for warm_up in range(options.rounds + 1):
            for way, batch in ways:
                run, layout = prepared[way]
                images = torch.rand(batch, 3, options.side, options.side).to(memory_format=layout)
                elapsed = seconds(run, images)
                if warm_up:
                    times[way, batch].append(elapsed)
        first = times[ways[0]]
        for way, batch in ways:
            ratio = statistics.median(a / b for a, b in zip(first, times[way, batch], strict=True))
            print(f"| {name} | {way} | {batch} | {1000 * statistics.median(times[way, batch]):.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
