"""Networks fused for a GPU are the same function: on a GPU where there is one, or else by Triton's interpreter."""

import copy
import os
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grepr_core.encoders.efficientnet_lite0 import EfficientNetLite0, InvertedResidual, same_padding
from grepr_core.encoders.fusion import fold_batch_norm
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.resnet18 import BasicBlock
from grepr_core.encoders.statistics import MapStatistics
from tests.grepr_core.models import full_bundle

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
        reason="there is neither a GPU nor TRITON_INTERPRET=1",
    ),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module", autouse=True)
def large_programs() -> Iterator[None]:
    """Has few programs do all: the interpreter takes a millisecond an operation, however large."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            from grepr_core.encoders import gpu_kernels

            patch.setattr(gpu_kernels, "ELEMENTS", 4096)
            patch.setattr(gpu_kernels, "COLUMNS", 32)
            patch.setattr(gpu_kernels, "CHANNELS", 256)
        yield


@pytest.fixture
def kernels() -> ModuleType:
    from grepr_core.encoders import gpu_kernels

    return gpu_kernels


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale
    values = values.to(DEVICE, dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    scale = expected.float().abs().max().item()
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=TOLERANCES[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("ceiling", [None, float("inf"), 6.0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_added", [True, False])
def test_what_follows_a_convolution(
    kernels: ModuleType, dtype: torch.dtype, ceiling: float | None, with_bias: bool, with_added: bool
):
    maps, added, bias = (random(*shape, dtype=dtype) for shape in ((2, 40, 9, 7), (2, 40, 9, 7), (40,)))
    expected = maps.float() + with_bias * bias.float()[:, None, None] + with_added * added.float()
    if ceiling is not None:
        expected = expected.clamp(0, ceiling)
    found = kernels.finish(maps, bias if with_bias else None, added if with_added else None, ceiling)
    assert found is maps
    check(found, expected, dtype)


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "dtype"),
    [
        (3, 1, (4, 9), torch.float32),
        (5, 1, (1, 3), torch.float32),
        (3, 2, (6, 5), torch.float32),
        (5, 2, (5, 34), torch.float32),
        (3, 1, (2, 5), torch.bfloat16),
    ],
)
def test_depthwise_convolutions(
    kernels: ModuleType, kernel: int, stride: int, size: tuple[int, int], dtype: torch.dtype
):
    maps, weight, bias = random(2, 24, *size, dtype=dtype), random(24, 1, kernel, kernel, scale=0.3), random(24)
    weight, bias = weight.to(dtype), bias.to(dtype)
    rows, columns = (same_padding(length, kernel, stride) for length in size)
    padded = F.pad(maps.float().clamp(0, 6), (*columns, *rows))
    expected = F.conv2d(padded, weight.float(), bias.float(), stride, groups=24).clamp(0, 6)
    found = kernels.depthwise(
        maps,
        weight[:, 0].permute(1, 2, 0).contiguous(),
        bias,
        stride=stride,
        before=(rows[0], columns[0]),
        size=tuple(expected.shape[2:]),
    )
    check(found, expected, dtype)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 8), (9, 43), (31, 40)])
def test_statistics(kernels: ModuleType, dtype: torch.dtype, size: tuple[int, int]):
    # Far from 0, where sums of squares would cancel.
    maps = random(2, 40, *size, dtype=dtype) + 100
    expected = MapStatistics()(maps.double())
    check(kernels.mean_and_deviation(maps), expected, torch.float32)


def test_what_is_not_a_number_stays_so(kernels: ModuleType):
    maps = random(1, 16, 4, 4)
    maps[0, 3, 2, 2] = torch.nan
    spoilt = kernels.depthwise(maps, random(3, 3, 16).contiguous(), random(16), stride=1, before=(1, 1), size=(4, 4))
    assert spoilt[0, 3].isnan().any()
    assert kernels.finish(maps, None, None, 6.0).isnan().sum() == 1


def fused(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    from grepr_core.encoders import fused_gpu

    module = copy.deepcopy(module).eval().requires_grad_(False)
    fold_batch_norm(module)
    module.to(DEVICE, dtype).to(memory_format=torch.channels_last)
    fused_gpu.fuse(module)
    return module


def shuffled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(torch.rand(norm.num_features, generator=generator) / 5)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) / 2 + 0.75)
            norm.bias.data.copy_(torch.rand(norm.num_features, generator=generator) - 0.5)
    return module.eval()


def low(features: str) -> LowLevelEncoder:
    return shuffled(LowLevelEncoder(seed=3, frame_features=features))


def efficientnet() -> nn.Module:
    """Its blocks of every kind: without expansion, of stride 2, with a skip."""
    network = shuffled(EfficientNetLite0())
    return nn.Sequential(network.stem, *network.stages[:2], MapStatistics())


ENCODERS = {
    "efficientnet_lite0": (efficientnet, lambda encoder, images: encoder(images)),
    "stages": (lambda: low("stages"), lambda encoder, images: encoder.encode_frames(images)),
    "head": (lambda: low("head"), lambda encoder, images: encoder(images)),
    "clip": (lambda: shuffled(full_bundle().high), lambda encoder, images: encoder(images)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_the_same_function(name: str):
    build, encode = ENCODERS[name]
    encoder = build()
    images = torch.rand(1, 3, 33, 32, generator=torch.Generator().manual_seed(1))
    images = images.to(DEVICE).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = encode(copy.deepcopy(encoder).to(DEVICE), images)
        prepared = fused(encoder)
        found = encode(prepared, images)
    check(found, expected, torch.float32)
    left = [type(module) for module in prepared.modules()]
    assert not set(left) & {nn.BatchNorm2d, nn.ReLU6, InvertedResidual, BasicBlock, MapStatistics}
    assert left.count(nn.Conv2d) <= 1  # the first one of ResNet-18, whose pool comes before its bias


def test_kernels_are_tried_before_they_are_used(caplog: pytest.LogCaptureFixture):
    from grepr_core.encoders import fused_gpu

    with mock.patch.object(fused_gpu, "_difference", side_effect=RuntimeError("Failed to find C compiler")):
        assert not fused_gpu.can_fuse.__wrapped__(DEVICE, torch.float32)
    assert "Failed to find C compiler" in caplog.text
    with mock.patch.object(fused_gpu, "_difference", return_value=0.3):
        assert not fused_gpu.can_fuse.__wrapped__(DEVICE, torch.bfloat16)
    assert "off by 0.3" in caplog.text
