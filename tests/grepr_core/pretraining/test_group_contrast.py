import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.semantic import load_semantic_encoder
from grepr_core.pretraining.group_contrast import GroupContrast, Standardisation, centre_crop
from tests.grepr_core.models import TOWER
from tests.lake import photo
from tests.tiny_clip import crops, tell_apart

GROUP = 2
RATE = 1e-4


def encoder() -> HighLevelEncoder:
    """A tiny encoder, always the same."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(4)
        made = HighLevelEncoder(TOWER)
        made.text_features.copy_(nn.functional.normalize(torch.randn(2, TOWER.feature_size), dim=1))
        mean, std = torch.tensor([TOWER.mean, TOWER.std])[..., None, None]
        tell_apart(made.visual, (crops() - mean) / std)
    return made


def independent_loss(model: GroupContrast, images: Tensor) -> Tensor:
    """The loss as the paper says it, with every image encoded for training."""
    features = model.encoder(images)
    good, bad = model.encoder.text_features
    unit = features / features.norm(dim=1, keepdim=True)
    labels = [1 / (1 + math.exp(-10 * (f @ good - f @ bad).item())) for f in unit]
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    projected = torch.relu(features @ model.head[0].weight.T + model.head[0].bias)
    projected = projected / projected.norm(dim=1, keepdim=True)
    low, high = order[:GROUP], order[-GROUP:]
    losses = []
    for own, other in ((low, high), (high, low)):
        for x in own:
            like = sum(projected[x] @ projected[y] for y in own if y != x) / (GROUP - 1)
            unlike = sum(torch.exp(projected[x] @ projected[y] / 0.5) for y in other)
            losses.append(-torch.log(torch.exp(like / 0.5) / (torch.exp(like / 0.5) + unlike)))
    return sum(losses) / len(losses)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        assert (actual[name] - gradient).norm() < 1e-3 * gradient.norm(), name


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_loss_and_gradient_as_the_paper_says(batch_norm: str) -> None:
    model = GroupContrast(encoder(), group_size=GROUP, batch_norm=batch_norm)
    reference = copy.deepcopy(model)
    step = model(crops())
    step.loss.backward()
    expected = independent_loss(reference, crops())
    expected.backward()
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_equal_gradients(gradients(model), gradients(reference))


def test_pseudo_labels_as_their_formula_says() -> None:
    model = GroupContrast(encoder(), group_size=GROUP)
    with torch.inference_mode():
        features = model.encoder(crops()).double().numpy()
        labels = model(crops()).pseudo_labels
    good, bad = model.encoder.text_features.double().numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = 1 / (1 + np.exp(-10 * (unit @ good - unit @ bad)))
    assert expected.std() > 1e-4
    np.testing.assert_allclose(labels.numpy(), expected, rtol=0, atol=1e-6)


def test_images_between_the_groups_do_not_count() -> None:
    model = GroupContrast(encoder(), group_size=GROUP)
    with torch.inference_mode():
        step = model(crops())
        ends = step.pseudo_labels.argsort()[[0, 1, 2, -2, -1]]
        fewer = model(crops()[ends])
    assert fewer.loss.item() == pytest.approx(step.loss.item(), rel=1e-5)


def optimise(model: GroupContrast, steps: int) -> list[float]:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model(crops(16)).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_training_lowers_the_loss_and_leaves_statistics_and_prompts_as_they_were() -> None:
    model = GroupContrast(encoder(), group_size=GROUP)
    before = copy.deepcopy(model.state_dict())
    losses = optimise(model, 30)
    assert np.mean(losses[-5:]) < losses[0] - 0.05
    after = model.state_dict()
    kept = [name for name in after if "running_" in name or "num_batches" in name or name == "encoder.text_features"]
    assert len(kept) > 10
    assert all(torch.equal(after[name], before[name]) for name in kept)
    for name in ("head.0.weight", "encoder.visual.conv1.weight", "encoder.visual.bn1.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_options_that_reproduce_the_authors() -> None:
    model = GroupContrast(encoder(), group_size=GROUP, train_head=False, batch_norm="train")
    before = copy.deepcopy(model.state_dict())
    optimise(model, 2)
    after = model.state_dict()
    for name in ("head.0.weight", "head.0.bias", "encoder.text_features"):
        assert torch.equal(after[name], before[name]), name
    for name in ("encoder.visual.bn1.running_mean", "encoder.visual.conv1.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_mode_survives_a_round_of_evaluation() -> None:
    for batch_norm, training in (("eval", False), ("train", True)):
        model = GroupContrast(encoder(), group_size=GROUP, batch_norm=batch_norm)
        assert model.eval().encoder.visual.bn1.training is False
        assert model.train().encoder.visual.bn1.training is training
        assert model.training


def test_head_follows_from_the_seed_alone() -> None:
    first = GroupContrast(encoder(), group_size=GROUP, seed=7)
    torch.rand(3)
    same = GroupContrast(encoder(), group_size=GROUP, seed=7)
    other = GroupContrast(encoder(), group_size=GROUP, seed=8)
    assert torch.equal(first.head[0].weight, same.head[0].weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)


def test_gradient_reaches_every_layer_under_autocast() -> None:
    model = GroupContrast(encoder(), group_size=GROUP)
    reference = copy.deepcopy(model)
    reference(crops()).loss.backward()
    # Weights that autocast has rounded for the ranking, without gradient, must not be used again for the groups.
    with torch.autocast("cpu", torch.bfloat16):
        step = model(crops())
    assert step.loss.dtype == step.pseudo_labels.dtype == torch.float32
    step.loss.backward()
    found = gradients(model)
    assert found.keys() == gradients(reference).keys()
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_an_encoder_without_prompts_learns_from_labels_that_it_is_given() -> None:
    images = crops(8)
    images[3] = 0.5  # maps without variance, whose root has no gradient
    lite = load_semantic_encoder()
    standardise = Standardisation(lite, images.split(3))
    with torch.no_grad():
        parts = standardise(lite(images)).split(lite.feature_blocks, dim=1)
    for part in parts:
        assert 0.3 < part.var(dim=0, correction=0).sum() <= 1.001
    model = GroupContrast(lite, group_size=GROUP, standardise=standardise)
    with pytest.raises(ValueError, match="give pseudo-labels"):
        model(images)
    labels = torch.tensor([0.5, 0.1, 0.6, 0.2, 0.9, 0.55, 0.8, 0.57])
    step = model(images, labels)
    assert torch.equal(step.pseudo_labels, labels)
    # Those between do not count, and are not even encoded.
    others = images.clone()
    others[[0, 2, 5, 7]] = float("nan")
    assert model(others, labels).loss.item() == pytest.approx(step.loss.item(), abs=1e-5)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        model(images, labels).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in lite.parameters())
        optimizer.step()
    assert model(images, labels).loss < step.loss - 0.01


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be had from 3 images"):
        GroupContrast(encoder(), group_size=GROUP)(crops(3))


@pytest.mark.parametrize(("width", "height"), [(100, 64), (64, 64), (91, 77)])
def test_crop_is_the_middle_of_the_frame(width: int, height: int) -> None:
    pixels = np.asarray(photo(1, (width, height)))
    crop = centre_crop(pixels, 64)
    assert crop.shape == (64, 64, 3)
    assert crop.flags.c_contiguous
    top, left = (height - 64) // 2, (width - 64) // 2
    assert np.array_equal(crop, pixels[top : top + 64, left : left + 64])


@pytest.mark.parametrize(("width", "height"), [(40, 32), (300, 40), (63, 63)])
def test_small_images_are_enlarged_not_padded(width: int, height: int) -> None:
    ramp = np.broadcast_to(np.linspace(50, 250, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    crop = centre_crop(ramp, 64)
    assert crop.shape == (64, 64, 3)
    assert crop.min() >= 45
    step = np.diff(crop[32, :, 0].astype(float))
    assert step.mean() == pytest.approx(200 / (width - 1) * min(width, height) / 64, rel=0.15)
