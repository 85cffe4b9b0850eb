"""How much faster than another way grepr could be at most: arithmetic of an image against the rate of the processor."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from grepr_core.encoders.inference import resolve_dtype

SIDE = 2048


def gmacs(compute: Callable[[], object]) -> float:
    """Counts multiplications with additions, in billions."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops()) / 2e9


def matrix_gmacs_per_second(dtype: torch.dtype, threads: int) -> float:
    """Measures the rate of large matrix products, which convolutions hardly exceed."""
    torch.set_num_threads(threads)
    a, b = torch.rand(2, SIDE, SIDE).to(dtype)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    # The best, which other load on the machine has disturbed least.
    return SIDE**3 / 1e9 / min(times)


def auto_precision() -> str:
    """Gives what ``--precision auto`` means on this machine."""
    return "bf16" if resolve_dtype("auto", torch.device("cpu")) == torch.bfloat16 else "fp32"
