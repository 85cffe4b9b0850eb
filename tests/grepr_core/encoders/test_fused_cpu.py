from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from grepr_core.encoders.fused_cpu import Convolution, can_fuse, fuse
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.resnet18 import ResNet18
from grepr_core.encoders.semantic import load_semantic_encoder
from tests.grepr_core.models import full_bundle

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not can_fuse(torch.float32), reason="this PyTorch was built without oneDNN")


def clip_tower() -> nn.Module:
    bundle = full_bundle()
    assert bundle.high is not None
    return bundle.high


def low_level(features: str) -> Callable[[], nn.Module]:
    return lambda: LowLevelEncoder(seed=3, frame_features=features).eval()


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    return encoder.encode_frames(images) if isinstance(encoder, LowLevelEncoder) else encoder(images)


def shuffle_statistics(encoder: nn.Module) -> None:
    """Gives batch normalisation something to do, as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.rand(module.num_features, generator=generator) / 5)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) / 2 + 0.75)


ENCODERS = {
    "efficientnet_lite0": load_semantic_encoder,
    "stages": low_level("stages"),
    "head": low_level("head"),
    "clip": clip_tower,
}


# Even sides, for which SAME pads more after than before, odd ones, and one of each.
@pytest.mark.parametrize("size", [(96, 128), (97, 131), (64, 99), (32, 32), (33, 50)])
@pytest.mark.parametrize("name", ENCODERS)
def test_fused_networks_are_the_same_function(name: str, size: tuple[int, int]):
    encoder = ENCODERS[name]()
    if name != "efficientnet_lite0":
        shuffle_statistics(encoder)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = encode(encoder, images)
        fused = encode(optimise_for_inference(encoder, CPU, torch.float32), images)
    scale = expected.abs().max().item()
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-5 * scale)


def test_nothing_is_left_to_be_done_after_a_convolution():
    for build in ENCODERS.values():
        kinds = {type(module) for module in optimise_for_inference(build(), CPU, torch.float32).modules()}
        assert Convolution in kinds
        assert not kinds & {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6}


def test_activations_elsewhere_stay():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(4, 4), nn.ReLU()).eval().requires_grad_(False)
    images = torch.rand(1, 3, 4, 4)
    expected = network(images)
    fuse(network)
    assert isinstance(network[2], nn.ReLU)
    torch.testing.assert_close(network(images), expected)


def test_the_original_is_left_alone():
    network = ResNet18().eval()
    kinds = [type(module) for module in network.modules()]
    optimise_for_inference(network, CPU, torch.float32)
    assert [type(module) for module in network.modules()] == kinds


@pytest.mark.skipif(not can_fuse(torch.bfloat16), reason="this CPU has no bfloat16 that oneDNN takes")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "stages"])
def test_bfloat16_is_no_further_from_float32_than_without_fusing(name: str, monkeypatch: pytest.MonkeyPatch):
    encoder = ENCODERS[name]()
    images = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = encode(encoder, images)
        fused = encode(optimise_for_inference(encoder, CPU, torch.bfloat16), images)
        monkeypatch.setattr("grepr_core.encoders.fused_cpu.can_fuse", lambda dtype: False)
        plain = encode(optimise_for_inference(encoder, CPU, torch.bfloat16), images)
    assert (fused - exact).norm() < 1.2 * (plain - exact).norm()
