"""A step of training, on a device without data: whatever would read from it, or wait for it, is noticed."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.pretraining.batch_norm import MOMENTUM
from grepr_core.pretraining.group_contrast import GroupContrast
from grepr_core.pretraining.losses import quality_aware_contrastive_loss
from grepr_core.pretraining.step import Batch, TrainingStep, as_images, high_level_loss, low_level_loss
from tests.grepr_core.models import TOWER
from tests.grepr_core.waits import Waits


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    # It does not know the device.
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_kwargs: contextlib.nullcontext())
    return Waits()


def scenes() -> Batch:
    return torch.zeros(2, 2, 3, 3, 32, 32, dtype=torch.uint8), torch.eye(3).expand(2, 3, 3)


def crops() -> Batch:
    return (torch.zeros(8, 3, 32, 32, dtype=torch.uint8),)


def group_contrast(**options: Any) -> GroupContrast:
    return GroupContrast(HighLevelEncoder(TOWER), group_size=2, **options).to("meta")


@contextlib.contextmanager
def two_workers() -> Iterator[None]:
    """Makes this process one of two, of which the other is imagined."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("separate_views", [False, True])
def test_a_step_of_the_first_stage_never_waits(waits: Waits, separate_views: bool):
    loss = partial(low_level_loss, temperature=0.5, separate_views=separate_views)
    step = TrainingStep(LowLevelEncoder().train().to("meta"), loss, dtype=torch.float32)
    with waits:
        assert step([scenes(), scenes()], 1e-3).is_meta
    assert waits.seen == []


def test_separate_views_are_normalised_each_by_its_own_statistics():
    views = torch.randint(256, (2, 2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views[:, 1] //= 4  # Darker, so that statistics of both together are others.
    similarity = torch.full((2, 3, 3), 0.5).diagonal_scatter(torch.ones(2, 3), dim1=1, dim2=2)

    def encoder() -> LowLevelEncoder:
        return LowLevelEncoder().train().to(memory_format=torch.channels_last)

    def loss(separate_views: bool) -> Tensor:
        return low_level_loss(encoder(), (views, similarity), temperature=0.5, separate_views=separate_views)

    # As the authors' training has it: the anchors of all scenes first, then the augmented views.
    reference = encoder()
    anchors, augmented = (reference(as_images(views[:, view].flatten(0, 1))).unflatten(0, (2, 3)) for view in range(2))
    expected = quality_aware_contrastive_loss(anchors, augmented, similarity, temperature=0.5)
    torch.testing.assert_close(loss(separate_views=True), expected)
    assert abs(loss(separate_views=False) - expected) > 1e-3


def test_running_statistics_take_in_both_views_where_they_are_separate():
    views = torch.randint(256, (2, 2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = LowLevelEncoder().train()
    loss = partial(low_level_loss, temperature=0.5, separate_views=True)
    TrainingStep(model, loss, dtype=torch.float32)([(views, torch.ones(2, 3, 3))], 1e-3)
    maps = LowLevelEncoder().encoder.conv1(as_images(views.flatten(0, 2)))
    # Both views have as many pixels, so the mean over both is that of their means.
    torch.testing.assert_close(model.encoder.bn1.running_mean, MOMENTUM * maps.mean(dim=(0, 2, 3)))
    assert model.encoder.bn1.num_batches_tracked == 1


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_a_step_of_the_second_stage_waits_only_where_workers_divide_the_groups(waits: Waits, batch_norm: str):
    step = TrainingStep(group_contrast(batch_norm=batch_norm), high_level_loss, dtype=torch.float32)
    with waits:
        step([crops()], 1e-3)
    assert waits.seen == []
    with two_workers():
        model = group_contrast(batch_norm=batch_norm)
        model._share = 8  # At the first batch of all, workers tell each other how many images they have.
        step = TrainingStep(model, high_level_loss, dtype=torch.float32)
        with waits:
            step([crops()], 1e-3)
    assert waits.seen == ["nonzero"]
