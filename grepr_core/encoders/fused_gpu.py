"""Networks on a GPU with activations and sums beside their convolutions, by kernels of their own.

PyTorch adds a convolution's bias, activates, pads and takes statistics in kernels of their own each, which together
move more memory than the convolutions do: of grepr-lite in bfloat16 some 700 MB a photograph of 512 x 512 pixels by
count, 257 with the kernels used here, of which the convolutions alone are 169. ``torch.compile`` would do likewise, but
for each of many shapes anew, and brings PyTorch's compiler into every process.

A pointwise convolution is a matrix product that adds the bias itself; a depthwise one activates what it reads and what
it writes; all else is one pass after its convolution.
"""

import functools
import logging

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grepr_core.encoders.efficientnet_lite0 import InvertedResidual, same_padding
from grepr_core.encoders.fusion import Activation, FusedConvolution, Fusion, fold_batch_norm
from grepr_core.encoders.resnet18 import BasicBlock, ResNet18
from grepr_core.encoders.statistics import MapStatistics

try:
    from grepr_core.encoders import gpu_kernels as kernels
except ImportError:
    _HAS_TRITON = False
else:
    _HAS_TRITON = True

log = logging.getLogger(__name__)

_CEILINGS: dict[Activation, float | None] = {"none": None, "relu": float("inf"), "relu6": 6.0}
#: Largest difference where the kernels work, by what they compute in.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@functools.cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Tells whether the kernels can be built here and compute what they should; says so where not.

    Args:
        device: A GPU.
        dtype: ``torch.float32`` or ``torch.bfloat16``.
    """
    if not _HAS_TRITON:
        log.warning("PyTorch came without Triton, so there are no kernels for %s; pip install triton", device)
        return False
    try:
        difference = _difference(device, dtype)
    except Exception as error:  # a driver, a compiler or a GPU that Triton cannot work with
        why = f"cannot be built: {type(error).__name__}: {error}"
    else:
        if difference < _ROUNDING[dtype]:
            return True
        why = f"are off by {difference:.2g}"
    log.warning("kernels for %s %s; scores are the same without them, and take longer", device, why)
    return False


def _difference(device: torch.device, dtype: torch.dtype) -> float:
    """Gives how far a small network with the kernels is from itself on the CPU, by the scale of its values."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = nn.Sequential(
            InvertedResidual(16, 40, kernel=5, stride=2, expansion=6),
            InvertedResidual(40, 40, kernel=3, stride=1, expansion=6),
            BasicBlock(40, 40),
            MapStatistics(),
        ).eval()
        maps = torch.randn(2, 16, 45, 77)
    fold_batch_norm(network)
    with torch.inference_mode():
        expected = network(maps)
        network.to(device, dtype).to(memory_format=torch.channels_last)
        fuse(network)
        found = network(maps.to(device, dtype).contiguous(memory_format=torch.channels_last)).cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def fuse(module: nn.Module) -> None:
    """Replaces convolutions, blocks and statistics within a network, in place; see :meth:`Fusion.fuse`.

    Args:
        module: In evaluation mode, batch normalisation folded, on a GPU, channels-last, where :func:`can_fuse`.
    """
    _KERNELS.fuse(module)


class Convolution(FusedConvolution):
    """A convolution and what follows it; one of single positions is a matrix product."""

    def __init__(self, convolution: nn.Module, activation: Activation = "none") -> None:
        super().__init__(convolution, activation)
        shape = (list(self.weight.shape[2:]), self.padding, *self.geometry)
        self._pointwise = shape == ([1, 1], [0, 0], [1, 1], [1, 1], 1)

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """See :meth:`FusedConvolution.forward`."""
        if not self._pointwise or self.bias is None:
            result = F.conv2d(self.padded(maps), self.weight, None, self.geometry[0], self.padding, *self.geometry[1:])
            return self._finished(result, self.bias, added)
        positions = maps.permute(0, 2, 3, 1)
        product = torch.addmm(self.bias, positions.flatten(0, 2), self.weight.flatten(1).t())
        return self._finished(product.view(*positions.shape[:3], -1).permute(0, 3, 1, 2), None, added)

    def _finished(self, maps: Tensor, bias: Tensor | None, added: Tensor | None) -> Tensor:
        if bias is None and added is None and self.activation == "none":
            return maps
        # The kernels take for granted what convolutions give as a rule.
        maps = maps.contiguous(memory_format=torch.channels_last)
        added = added if added is None else added.contiguous(memory_format=torch.channels_last)
        return kernels.finish(maps, bias, added, _CEILINGS[self.activation])


class _InvertedResidual(nn.Module):
    """EfficientNet-Lite's blocks: the activation of the expansion is left to the depthwise convolution."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        expansion = next(block.expansion.children(), None)
        self.expansion = Convolution(expansion) if expansion is not None else nn.Identity()
        depthwise = block.depthwise[0]
        assert isinstance(depthwise, nn.Conv2d)
        self.weight = depthwise.weight[:, 0].permute(1, 2, 0).contiguous()
        assert depthwise.bias is not None, "of the batch normalisation that was folded"
        self.bias = depthwise.bias
        self.stride = depthwise.stride[0]
        self.projection = Convolution(block.projection[0])
        self.has_skip = block.has_skip

    def forward(self, maps: Tensor) -> Tensor:
        wide = self.expansion(maps)
        kernel = self.weight.shape[0]
        # At a stride of 1 SAME pads evenly.
        above, left = (same_padding(length, kernel, self.stride)[0] for length in wide.shape[2:])
        size = (-(-wide.shape[2] // self.stride), -(-wide.shape[3] // self.stride))
        deep = kernels.depthwise(wide, self.weight, self.bias, stride=self.stride, before=(above, left), size=size)
        result: Tensor = self.projection(deep)
        return result.add_(maps) if self.has_skip else result


class _FinishedPool(nn.MaxPool2d):
    """A maximum over positions, then bias and ReLU: the order makes no difference, and a quarter of them is left."""

    def __init__(self, pool: nn.MaxPool2d, bias: Tensor) -> None:
        super().__init__(pool.kernel_size, pool.stride, pool.padding)
        self.bias = bias

    def forward(self, maps: Tensor) -> Tensor:
        return kernels.finish(super().forward(maps), self.bias, None, _CEILINGS["relu"])


class _MapStatistics(nn.Module):
    def __init__(self, _: MapStatistics) -> None:
        super().__init__()

    def forward(self, maps: Tensor) -> Tensor:
        return kernels.mean_and_deviation(maps)


def _fused_resnet(network: ResNet18) -> ResNet18:
    assert network.conv1.bias is not None
    network.maxpool = _FinishedPool(network.maxpool, network.conv1.bias)
    network.conv1.bias = None
    network.relu = nn.Identity()  # type: ignore[assignment]
    for stage in network.stages:
        _KERNELS.fuse(stage)
    return network


_KERNELS = Fusion(
    Convolution, {InvertedResidual: _InvertedResidual, ResNet18: _fused_resnet, MapStatistics: _MapStatistics}
)
