"""Arithmetic that networks compute in, by name; apart from PyTorch, which a command need not load to speak of it."""

from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
