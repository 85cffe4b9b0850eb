import math

import pytest
import torch
from torch import Tensor

from grepr_core.pretraining.losses import (
    group_contrastive_loss,
    quality_aware_contrastive_loss,
    select_groups,
    similarity_weight,
)


def ramp(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float64).view(shape)


def scenes() -> tuple[Tensor, Tensor, Tensor]:
    """Anchors and augmented views of 2 scenes with 9 versions, and the similarity of the versions."""
    t, i = ramp(2, 9, 16), ramp(9)
    similarity = torch.exp(-(i[:, None] - i).abs() / 4).repeat(2, 1, 1)
    return torch.sin(1.3 * t), torch.cos(0.7 * t), similarity


def groups() -> tuple[Tensor, Tensor]:
    t = ramp(4, 16)
    return torch.sin(0.9 * t), torch.cos(0.31 * t)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("similarity", "weight"),
    [
        (0.0, 0.0),
        (0.25, 0.11764705882352944),
        (0.5, 0.4),
        (0.75, 0.72),
        (0.9, 0.8950276243093922),
        (0.95, 0.9487516425755584),
        (1.0, 1.0),
    ],
)
def test_similarity_weight(similarity, weight):
    assert similarity_weight(torch.tensor(similarity, dtype=torch.float64)).item() == pytest.approx(weight)


def test_published_values_of_the_quality_aware_loss():
    inside = quality_aware_contrastive_loss(*scenes())
    outside = quality_aware_contrastive_loss(*scenes(), weighting="outside")
    assert inside.item() == pytest.approx(1.5451100582122193, rel=1e-9)
    assert outside.item() == pytest.approx(2.0667807233708277, rel=1e-9)


def test_quality_aware_loss_as_its_formula_says():
    anchors, augmented, _ = (noise(2, 3, 5, seed=seed) for seed in range(3))
    similarity = torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    terms = []
    for b in range(2):
        e = [[math.exp(torch.cosine_similarity(x, y, dim=0).item() / 0.2) for y in augmented[b]] for x in anchors[b]]
        alpha = (2 - 2 / (1 + similarity[b] ** 2)).tolist()
        for k in range(3):
            row = sum(alpha[k][j] * e[k][j] for j in range(3)) / sum(e[k])
            column = sum(alpha[i][k] * e[i][k] for i in range(3)) / sum(e[i][k] for i in range(3))
            terms += [-math.log(row), -math.log(column)]
    loss = quality_aware_contrastive_loss(anchors, augmented, similarity, temperature=0.2)
    assert loss.item() == pytest.approx(2 * sum(terms) / len(terms))


def test_scenes_do_not_see_each_other():
    anchors, augmented, similarity = scenes()
    each = [
        quality_aware_contrastive_loss(anchors[b : b + 1], augmented[b : b + 1], similarity[b : b + 1])
        for b in range(2)
    ]
    assert quality_aware_contrastive_loss(anchors, augmented, similarity).item() == pytest.approx(sum(each).item() / 2)


def test_equal_versions_make_no_loss():
    anchors, augmented, similarity = scenes()
    loss = quality_aware_contrastive_loss(anchors, augmented, torch.ones_like(similarity))
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_unlike_versions_leave_plain_contrast():
    anchors, augmented, _ = scenes()
    cosines = torch.nn.functional.normalize(anchors, dim=-1) @ torch.nn.functional.normalize(augmented, dim=-1).mT
    labels = torch.arange(9).expand(2, 9)
    expected = sum(torch.nn.functional.cross_entropy(c / 0.5, labels) for c in (cosines, cosines.mT))
    loss = quality_aware_contrastive_loss(anchors, augmented, torch.eye(9).expand(2, 9, 9))
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_quality_aware_loss_is_stable(temperature):
    anchors, augmented, similarity = (x.float().requires_grad_() for x in scenes())
    loss = quality_aware_contrastive_loss(anchors, augmented, similarity, temperature=temperature)
    loss.backward()
    assert loss.isfinite()
    assert anchors.grad.isfinite().all()
    assert anchors.grad.abs().max() > 0


@pytest.mark.parametrize("weighting", ["inside", "outside"])
def test_gradient_of_the_quality_aware_loss(weighting):
    anchors, augmented = noise(2, 3, 4).requires_grad_(), noise(2, 3, 4, seed=1).requires_grad_()
    similarity = scenes()[2][:, :3, :3]
    assert torch.autograd.gradcheck(
        lambda a, b: quality_aware_contrastive_loss(a, b, similarity, weighting=weighting), (anchors, augmented)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_neither_loss(dtype):
    anchors, augmented, similarity = (x.to(dtype) for x in scenes())
    low, high = (x.to(dtype) for x in groups())
    expected = (
        quality_aware_contrastive_loss(anchors, augmented, similarity),
        group_contrastive_loss(low, high),
    )
    with torch.autocast("cpu", torch.bfloat16):
        actual = (
            quality_aware_contrastive_loss(anchors, augmented, similarity),
            group_contrastive_loss(low, high),
        )
    for loss, reference in zip(actual, expected, strict=True):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)


def test_shapes_that_do_not_fit_are_refused():
    anchors, augmented, similarity = scenes()
    for bad in ((anchors, augmented[:, :8], similarity), (anchors, augmented, similarity[:1])):
        with pytest.raises(ValueError, match="shapes do not fit"):
            quality_aware_contrastive_loss(*bad)


def test_published_value_of_the_group_loss():
    assert group_contrastive_loss(*groups()).item() == pytest.approx(2.140389677007846, rel=1e-9)


def test_group_loss_is_symmetric_and_blind_to_order_and_length():
    low, high = groups()
    loss = group_contrastive_loss(low, high)
    torch.testing.assert_close(group_contrastive_loss(high, low), loss)
    torch.testing.assert_close(group_contrastive_loss(3 * low.flip(0), high), loss)


def test_group_loss_falls_as_groups_part():
    low, high = noise(4, 16), noise(4, 16, seed=1)
    apart = torch.zeros(16, dtype=torch.float64).index_fill(0, torch.tensor([0]), 5.0)
    assert group_contrastive_loss(low - apart, high + apart) < group_contrastive_loss(low, high) - 0.5


def test_gradient_of_the_group_loss():
    low, high = noise(2, 4).requires_grad_(), noise(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(group_contrastive_loss, (low, high))


def test_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        group_contrastive_loss(torch.rand(1, 8), torch.rand(4, 8))


def test_groups_are_the_extremes():
    scores = torch.tensor([0.5, 0.1, 0.9, 0.4, 0.2, 0.8, 0.3])
    low, high = select_groups(scores, 2)
    assert low.tolist() == [1, 4]
    assert high.tolist() == [5, 2]


@pytest.mark.parametrize("group_size", [0, 1, 4])
def test_groups_too_small_or_overlapping_are_refused(group_size):
    with pytest.raises(ValueError, match="cannot be had from 7 images"):
        select_groups(torch.rand(7), group_size)
