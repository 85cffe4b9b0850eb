"""Arithmetic that networks compute in, by name; apart from PyTorch, which a command need not load to speak of it."""

from pathlib import Path
from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]

#: Where Linux tells what a CPU can do, and the words for bfloat16 of Intel, AMD and ARM.
CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def has_bf16(device: str) -> bool:
    """Tells whether this machine multiplies bfloat16 natively: emulated it is slower than float32.

    Args:
        device: ``cpu`` or ``cuda``. For the CPU, PyTorch is only loaded where Linux does not tell.

    Returns:
        Whether it does; false where there is no such device.
    """
    if device == "cpu" and CPU_INFO.exists():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        return not _BF16_FLAGS.isdisjoint(flags.lower().split())
    import torch  # noqa: PLC0415

    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(flag) for flag in _BF16_FLAGS)
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
