"""What a card can do at most with a network: operations and bytes that are counted, and rates that are measured.

Every convolution and every matrix product reads its inputs and weights and writes its result once. All else (bias,
activations, sums, normalisation, pooling, statistics) counts as done on the way, so that nothing is faster than this
without computing something else. Each takes the longer of the two, its operations or its bytes, one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu.steps import Setting
from grepr_core.bundles.bundle import Bundle
from grepr_core.scoring.networks import Networks

#: Side of the matrices and bytes of the copy that rates are measured with, on a GPU and on a CPU.
MATRIX, COPY = {"cuda": 8192, "cpu": 512}, {"cuda": 2**30, "cpu": 2**26}


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product.

    Attributes:
        operations: Multiplications and additions, two a MAC.
        bytes: Read and written.
    """

    operations: int
    bytes: int


@dataclass(frozen=True)
class Rates:
    """What a card does in a second.

    Attributes:
        operations: Of large matrix products.
        bytes: Read and written by a large copy, both counted.
    """

    operations: float
    bytes: float


#: Of NVIDIA's data sheet: dense bfloat16, GDDR6.
L4 = Rates(121e12, 300e9)


def count_layers(run: Callable[[], object]) -> list[Layer]:
    """Counts what is computed in a call.

    Args:
        run: Computes on any device; the ``meta`` device takes no time.

    Returns:
        Its convolutions and matrix products, in the order in which they run.
    """
    with torch.inference_mode(), _Counter() as counter:
        run()
    return counter.layers


def layers_of(bundle: Bundle, dtype: torch.dtype, shape: Sequence[int]) -> list[Layer]:
    """Counts the forward pass of a bundle without zero-shot patches.

    Args:
        bundle: The model.
        dtype: What it computes in.
        shape: N, height and width of the images.

    Returns:
        Its layers.
    """
    count, height, width = shape
    networks = Networks(bundle, torch.device("meta"), dtype, zero_shot=False, features=True)
    images = torch.empty(count, height, width, 3, dtype=torch.uint8, device="meta").permute(0, 3, 1, 2)
    return count_layers(lambda: networks.encode(images))


def least_seconds(layers: Sequence[Layer], rates: Rates) -> float:
    """Gives the time below which a card does not compute some layers."""
    return sum(max(layer.operations / rates.operations, layer.bytes / rates.bytes) for layer in layers)


def measured_rates(setting: Setting, dtype: torch.dtype, seconds: float) -> Rates:
    """Measures what the card reaches.

    Args:
        setting: With the device.
        dtype: Of the matrices.
        seconds: For both measurements.

    Returns:
        The rates.
    """
    side, size = MATRIX[setting.device.type], COPY[setting.device.type]
    matrix = torch.rand(side, side, device=setting.device).to(dtype)
    product = torch.empty_like(matrix)
    source = torch.zeros(size, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    multiply = setting.seconds_of(lambda: torch.mm(matrix, matrix, out=product), seconds / 2)
    copy = setting.seconds_of(lambda: target.copy_(source), seconds / 2)
    return Rates(2 * side**3 / multiply, 2 * size / copy)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operations = flop_registry.get(func._overloadpacket)
        if operations is None:
            # Attention is made of matrix products where the device has no kernel of its own.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if operations is not None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.layers.append(Layer(operations(*args, **kwargs, out_val=out), moved))
        return out
