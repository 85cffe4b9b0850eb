"""What a device is asked for by a batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.scoring.networks import Networks
from tests.grepr_core.models import full_bundle
from tests.grepr_core.waits import Waits

CPU = torch.device("cpu")


@pytest.fixture(params=["grepr-lite", "full"])
def bundle(request: pytest.FixtureRequest) -> Iterator[Bundle]:
    return full_bundle() if request.param == "full" else load_bundle(request.param)


def pixels(images: int) -> Tensor:
    return torch.randint(0, 256, (images, 96, 96, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


@pytest.mark.parametrize("zero_shot", [False, True])
def test_a_batch_is_started_without_waiting_for_the_device(bundle: Bundle, zero_shot: bool):
    meta = torch.device("meta")
    networks = Networks(bundle, meta, torch.float32, zero_shot=zero_shot and bundle.pristine is not None, features=True)
    images = pixels(2).to(meta)
    with Waits() as waits:
        assert networks.encode(images).features.is_meta
    assert waits.seen == []


def test_cosines_are_of_text_features_in_float32_whatever_the_tower_computes_in():
    high = full_bundle().high
    prepared = optimise_for_inference(high, CPU, torch.bfloat16)
    assert prepared.visual.conv1.weight.dtype == torch.bfloat16
    features = torch.randn(3, 32)
    assert torch.equal(prepared.quality_cosines(features), high.quality_cosines(features))


def test_colours_are_normalised_in_float32():
    high = full_bundle().high
    prepared = optimise_for_inference(high, CPU, torch.bfloat16)
    assert torch.equal(prepared.mean, high.mean)
    assert torch.equal(prepared.std, high.std)
    assert "mean" not in high.state_dict()
