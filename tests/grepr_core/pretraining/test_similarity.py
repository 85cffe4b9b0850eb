import piq
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grepr_core.pretraining.similarity import fsim, fsim_matrix


def image(height: int, width: int, phase: float) -> Tensor:
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)
    return torch.stack([0.5 + 0.5 * torch.sin(0.11 * x * (c + 1) + 0.07 * y + phase) for c in range(3)])


def versions(height: int, width: int, count: int = 4) -> Tensor:
    """Versions of a scene of random blobs: as it is, then ever more noise, the last one blurred as well."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    size = (height, width)
    scene = sum(F.interpolate(noise(1, 3, n, n), size=size, mode="bicubic")[0] for n in (5, 17, 63)) / 3
    noisy = [(scene + 0.1 * i * (noise(3, *size) - 0.5)).clamp(0, 1) for i in range(count)]
    noisy[-1] = F.avg_pool2d(noisy[-1], 5, stride=1, padding=2)
    return torch.stack(noisy)


@pytest.mark.parametrize(
    ("height", "width", "contrast", "phase", "luma"),
    [
        (128, 160, 0.981576728990187, 0.8478162341173205, 0.9826399361951733),
        (129, 161, 0.9815747329520643, 0.8482458237130491, 0.9826399467702445),
        (512, 640, 0.9771725072137549, 0.7940884430530885, 0.9780143783436704),
    ],
)
def test_published_values(height, width, contrast, phase, luma):
    reference = image(height, width, 0)
    flatter = 0.8 * reference + 0.1
    assert fsim(reference, flatter).item() == pytest.approx(contrast, rel=1e-9)
    assert fsim(reference, image(height, width, 0.5)).item() == pytest.approx(phase, rel=1e-9)
    assert fsim(reference, flatter, chromatic=False).item() == pytest.approx(luma, rel=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 64), (410, 390)])
@pytest.mark.parametrize("chromatic", [True, False])
def test_each_pair_as_piq_has_it(height, width, chromatic, dtype, tolerance):
    scene = versions(height, width, count=3).to(dtype)
    matrix = fsim_matrix(scene, chromatic=chromatic)
    for i in range(3):
        for j in range(i):
            expected = piq.fsim(scene[i : i + 1], scene[j : j + 1], chromatic=chromatic)
            assert matrix[i, j].item() == pytest.approx(expected.item(), rel=tolerance)


def test_matrix_is_symmetric_with_unit_diagonal():
    matrix = fsim_matrix(versions(64, 80, count=5).float())
    assert matrix.shape == (5, 5)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.diagonal(), torch.ones(5))
    assert (matrix > 0).all()
    assert (matrix <= 1).all()


def test_similarity_falls_with_distance_and_ignores_other_versions():
    scene = versions(64, 80, count=5)
    matrix = fsim_matrix(scene)
    assert (matrix[0].diff() < 0).all(), "each version is noisier than the one before"
    order = torch.tensor([3, 0, 4])
    torch.testing.assert_close(fsim_matrix(scene[order]), matrix[order][:, order])
    assert fsim(scene[1], scene[3]) == matrix[1, 3]


def test_flat_images_can_be_compared():
    grey, white = torch.full((3, 48, 48), 0.5), torch.ones(3, 48, 48)
    matrix = fsim_matrix(torch.stack([grey, white, grey]))
    assert matrix.isfinite().all()
    assert matrix[0, 2] == pytest.approx(1)
    assert matrix[0, 1] < 1


def test_inference_mode_does_not_spoil_the_filters_kept():
    scene = versions(50, 70, count=2)
    with torch.inference_mode():
        first = fsim_matrix(scene).clone()
    again = fsim_matrix(scene.requires_grad_())
    torch.testing.assert_close(again, first)
    assert not again.requires_grad


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(3, 64, 64),
        torch.rand(2, 1, 64, 64),
        torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8),
        torch.rand(2, 3, 64, 64).half(),
    ],
)
def test_only_float_rgb_is_taken(wrong):
    with pytest.raises(ValueError, match="must be"):
        fsim_matrix(wrong)
