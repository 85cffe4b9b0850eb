import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from grepr_core.encoders.low_level import LowLevelEncoder, contrastive_views, fragments


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """One version whose pixels say where they come from: (1, 3, H, W) of row, column and zero."""
    rows = torch.arange(height, dtype=dtype)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=dtype).expand(height, width)
    return torch.stack([rows, columns, torch.zeros_like(rows)])[None]


@pytest.fixture(scope="module")
def encoder() -> LowLevelEncoder:
    return LowLevelEncoder(seed=0).eval()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 96), (65, 203)])
def test_encoder_takes_any_size(encoder: LowLevelEncoder, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=generator())
    with torch.inference_mode():
        features, projections = encoder.features(images), encoder(images)
        torch.testing.assert_close(projections, encoder.head(features))
    assert features.shape == (2, 512)
    assert projections.shape == (2, 128)
    assert features.dtype == projections.dtype == torch.float32
    assert (features >= 0).all(), "an average of ReLU outputs"


def test_encoder_is_resnet18_on_raw_pixels(encoder: LowLevelEncoder) -> None:
    reference = resnet18(weights=None)
    missing, unexpected = reference.load_state_dict(encoder.encoder.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert unexpected == []
    reference.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 64, 96, generator=generator())
    with torch.inference_mode():
        torch.testing.assert_close(encoder.features(images), reference.eval()(images), rtol=0, atol=0)


def test_initial_weights_are_torchvisions(encoder: LowLevelEncoder) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = resnet18(weights=None).state_dict()
        head = torch.nn.Linear(512, 512)
    for name, tensor in encoder.encoder.state_dict().items():
        assert torch.equal(tensor, reference[name]), name
    assert torch.equal(encoder.head[0].weight, head.weight)


def test_each_parameter_is_stored_once(encoder: LowLevelEncoder) -> None:
    state = encoder.state_dict()
    addresses = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(addresses)) == len(addresses)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 11_176_512 + 328_320
    assert not any(".fc." in name for name in state)


def test_seed_decides_the_weights_and_spares_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = LowLevelEncoder(seed=1).state_dict()
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    again, other = LowLevelEncoder(seed=1).state_dict(), LowLevelEncoder(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])
    assert not torch.equal(first["head.2.weight"], other["head.2.weight"])


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_gives_float32_close_to_float32(encoder: LowLevelEncoder, autocast: bool) -> None:
    images = torch.rand(2, 3, 64, 96, generator=generator())
    half = encoder if autocast else copy.deepcopy(encoder).bfloat16()
    with torch.inference_mode():
        exact = encoder(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rounded = half(images)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_gradient_reaches_every_parameter() -> None:
    encoder = LowLevelEncoder()
    encoder(torch.rand(2, 3, 64, 64, generator=generator())).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("height", "width"), [(224, 224), (480, 640), (225, 3000), (3000, 225), (1000, 1001)])
def test_fragments_are_contiguous_squares_of_their_own_cells(height: int, width: int) -> None:
    mosaic = fragments(coordinates(height, width), generator=generator())
    assert mosaic.shape == (1, 3, 224, 224)
    rows, columns = mosaic[0, :2].unfold(1, 32, 32).unfold(2, 32, 32)  # (7, 7, 32, 32) each
    steps = torch.arange(32, dtype=torch.float64)
    assert torch.equal(rows - rows[..., :1, :1], steps[:, None].expand_as(rows))
    assert torch.equal(columns - columns[..., :1, :1], steps.expand_as(columns))
    for i in range(7):
        assert rows[i].min() >= i * height // 7
        assert rows[i].max() < (i + 1) * height // 7
        assert columns[:, i].min() >= i * width // 7
        assert columns[:, i].max() < (i + 1) * width // 7


@pytest.mark.parametrize(("height", "width"), [(231, 245), (240, 224)])
def test_every_row_and_column_is_reached(height: int, width: int) -> None:
    picture, shared = coordinates(height, width), generator()
    rows, columns = torch.zeros(height), torch.zeros(width)
    for _ in range(60):
        mosaic = fragments(picture, generator=shared)[0].long()
        rows[mosaic[0].flatten()] += 1
        columns[mosaic[1].flatten()] += 1
    assert rows.min() > 0
    assert columns.min() > 0


def test_offsets_are_uniform_with_both_ends_included() -> None:
    shared = generator()
    # Cells of 35 rows leave a fragment 4 places; 300 draws of 49 cells put 3,675 on each, 5 sigma are 263.
    offsets = torch.cat(
        [fragments(coordinates(245, 245), generator=shared)[0, 0, ::32, ::32].flatten() for _ in range(300)]
    )
    counts = (offsets.long() % 35).bincount(minlength=35)
    assert counts[4:].sum() == 0
    assert (counts[:4] - 3675).abs().max() < 263


def test_cells_are_drawn_independently_of_one_another() -> None:
    rows, columns = fragments(coordinates(1400, 1400), generator=generator())[0, :2, ::32, ::32] % 200
    assert len(rows.unique()) > 30
    assert len(columns.unique()) > 30
    assert not torch.equal(rows, columns)


def test_all_versions_share_the_places() -> None:
    picture = coordinates(300, 400)
    mosaic = fragments(torch.cat([picture, picture + 1000, picture * 2]), generator=generator())
    assert torch.equal(mosaic[1], mosaic[0] + 1000)
    assert torch.equal(mosaic[2], mosaic[0] * 2)


@pytest.mark.parametrize(("height", "width"), [(223, 300), (100, 100), (32, 320)])
def test_small_pictures_are_enlarged_before_the_grid_is_laid(height: int, width: int) -> None:
    picture, shared = coordinates(height, width), generator()
    seen = torch.cat([fragments(picture, generator=shared) for _ in range(60)])
    scale = 224 / min(height, width)
    # Bilinear enlargement leaves coordinates a ramp of slope 1 / scale, flat at the edges.
    steps = seen[:, 0].unfold(1, 32, 32).diff(dim=-1)
    assert steps.max() == pytest.approx(1 / scale, rel=1e-2)
    assert seen[:, 0].min() == 0
    assert seen[:, 0].max() == pytest.approx(height - 1)
    assert seen[:, 1].min() == 0
    assert seen[:, 1].max() == pytest.approx(width - 1)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (150, 200)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype, height: int, width: int) -> None:
    pixels = torch.randint(0, 256, (2, 3, height, width), generator=generator())
    exact = fragments(pixels.double(), generator=generator(1))
    mosaic = fragments(pixels.to(dtype), generator=generator(1))
    assert mosaic.dtype == dtype
    # Rounding to whole levels on top of float32 interpolation of neighbours up to 255 levels apart.
    tolerance = 0.51 if dtype == torch.uint8 else 0.01
    torch.testing.assert_close(mosaic.double(), exact, rtol=0, atol=tolerance)


def test_generator_repeats_the_draw() -> None:
    picture = coordinates(300, 300)
    first = contrastive_views(picture, generator=generator(3))
    again = contrastive_views(picture, generator=generator(3))
    other = contrastive_views(picture, generator=generator(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_views_differ_and_only_the_augmented_one_is_mirrored() -> None:
    picture, shared = torch.cat([coordinates(300, 400), coordinates(300, 400) * 2]), generator()
    mirrorings = []
    for _ in range(200):
        anchor, augmented = contrastive_views(picture, generator=shared)
        assert torch.equal(augmented[1], augmented[0] * 2), "the versions are mirrored alike"
        assert anchor[0, 0, 0, 0] < anchor[0, 0, -1, 0]
        assert anchor[0, 1, 0, 0] < anchor[0, 1, 0, -1]
        upside_down = bool(augmented[0, 0, 0, 0] > augmented[0, 0, -1, 0])
        left_right = bool(augmented[0, 1, 0, 0] > augmented[0, 1, 0, -1])
        mirrorings.append(2 * upside_down + left_right)
        upright = augmented.flip([-2] * upside_down + [-1] * left_right)
        assert not torch.equal(anchor, upright), "an independent draw"
    # 50 expected of each kind, sigma 6.1.
    assert min(mirrorings.count(kind) for kind in range(4)) > 20


def test_stages_describe_a_photograph_by_mean_and_deviation_of_their_maps():
    encoder = LowLevelEncoder(seed=3, frame_features="stages").eval()
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps: list[torch.Tensor] = []
    for stage in (encoder.encoder.layer1, encoder.encoder.layer2, encoder.encoder.layer3, encoder.encoder.layer4):
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.inference_mode():
        blocks = encoder.encode_frames(images).split(encoder.feature_blocks, dim=1)
        assert encoder(images).shape == (2, 128)
    for block, stage in zip(blocks, maps[:4], strict=True):
        pixels = stage.flatten(2).double().numpy()
        np.testing.assert_allclose(block, np.concatenate([pixels.mean(2), pixels.std(2)], axis=1), atol=1e-5)


def test_the_first_stage_alone_gives_the_same_statistics():
    whole, first = (LowLevelEncoder(seed=3, frame_features=name).eval() for name in ("stages", "first_stage"))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert first.feature_blocks == (128,)
    with torch.inference_mode():
        torch.testing.assert_close(first.encode_frames(images), whole.encode_frames(images)[:, :128])


def test_the_head_describes_a_photograph_as_published():
    encoder = LowLevelEncoder(seed=3).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert encoder.feature_blocks == (128,)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode_frames(images), encoder(images), rtol=0, atol=0)
