"""FSIMc between all versions of a scene: ``fsim_matrix`` beside a call of ``piq.fsim`` for every pair.

Both run in float32 on the same versions and take turns within one run, since machines are noisy; what is printed is the
median of the ratios. One thread is the default, for preparation runs one process a core.

Example: python -m benchmarks.similarity --sides 384,512 --rounds 7
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import combinations

import numpy as np
import piq
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from grepr_core.pretraining.distortions import distort
from grepr_core.pretraining.similarity import fsim_matrix

#: Of the original, which makes nine versions with it.
DISTORTED = [(kind, level) for kind in ("gaussian_blur", "gaussian_noise", "jpeg", "low_contrast") for level in (2, 4)]


def make_versions(side: int) -> Tensor:
    photo = Image.fromarray(skimage.data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    original = np.asarray(photo)
    versions = [original, *(distort(original, kind, level, seed=0) for kind, level in DISTORTED)]
    return torch.from_numpy(np.stack(versions)).permute(0, 3, 1, 2).float().contiguous() / 255


def each_pair(versions: Tensor) -> Tensor:
    matrix = torch.eye(len(versions))
    for i, j in combinations(range(len(versions)), 2):
        matrix[i, j] = matrix[j, i] = piq.fsim(versions[i : i + 1], versions[j : j + 1], data_range=1.0)
    return matrix


def seconds(compare: Callable[[Tensor], Tensor], versions: Tensor) -> float:
    began = time.perf_counter()
    compare(versions)
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="384,512", help="sides of the square images, with commas between")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"9 versions, 36 pairs, float32, {options.threads} threads, median of {options.rounds} rounds in turn\n")
    print("| image | piq, s a scene | fsim_matrix, s a scene | times as fast (range) | largest difference |")
    print("|---|---|---|---|---|")
    for side in map(int, options.sides.split(",")):
        versions = make_versions(side)
        difference = (fsim_matrix(versions) - each_pair(versions)).abs().max().item()  # and a warm-up of both
        theirs, ours = [], []
        for _ in range(options.rounds):
            theirs.append(seconds(each_pair, versions))
            ours.append(seconds(fsim_matrix, versions))
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        print(
            f"| {side} x {side} | {statistics.median(theirs):.2f} | {statistics.median(ours):.3f} "
            f"| {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {difference:.0e} |"
        )


if __name__ == "__main__":
    main()
