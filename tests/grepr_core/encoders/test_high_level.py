import copy
import hashlib
import json
import pickle
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grepr_core.encoders.high_level import PROMPTS, HighLevelEncoder, TowerConfig, load_open_clip

TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> open_clip.CLIP:
    """A tiny CLIP model, known to open_clip as ``tiny`` and ``tiny-quickgelu``."""
    configs = tmp_path_factory.mktemp("configs")
    (configs / "tiny.json").write_text(json.dumps(TINY))
    (configs / "tiny-quickgelu.json").write_text(json.dumps(TINY | {"quick_gelu": True}))
    open_clip.add_model_config(configs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = open_clip.create_model("tiny").eval()
        for name, tensor in model.state_dict().items():
            # Fresh normalisation does nothing and fresh positions hardly anything.
            if "bn" in name or "downsample.1" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif name == "visual.attnpool.positional_embedding":
                tensor.mul_(20)
            # OpenAI stores float16.
            tensor.copy_(tensor.half())
    return model


@pytest.fixture(scope="module")
def checkpoint(clip: open_clip.CLIP, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "state.pt"
    torch.save(clip.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def encoder(checkpoint: str) -> HighLevelEncoder:
    return load_open_clip("tiny", checkpoint)


def test_with_positions_the_tower_is_clips_own_at_its_own_size(clip: open_clip.CLIP, checkpoint: str):
    kept = load_open_clip("tiny", checkpoint, positions=True)
    with torch.inference_mode():
        torch.testing.assert_close(kept(photos()), clip.visual(normalised(photos())), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(kept(photos()), load_open_clip("tiny", checkpoint)(photos()), rtol=1e-2)
    assert_same(kept.without_positions(), load_open_clip("tiny", checkpoint))


def photos(height: int = 64, width: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(first: HighLevelEncoder, second: HighLevelEncoder) -> None:
    with torch.inference_mode():
        assert torch.equal(first(photos(70, 100)), second(photos(70, 100)))
    assert torch.equal(first.text_features, second.text_features)


def channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def normalised(images: Tensor) -> Tensor:
    return (images - channels(open_clip.OPENAI_DATASET_MEAN)) / channels(open_clip.OPENAI_DATASET_STD)


def without_positions(visual: nn.Module, positions: int) -> nn.Module:
    """open_clip's own tower with a positional embedding of zeros for so many positions."""
    visual = copy.deepcopy(visual)
    width = visual.attnpool.positional_embedding.shape[1]
    visual.attnpool.positional_embedding = nn.Parameter(torch.zeros(positions + 1, width))
    return visual


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (65, 203), (32, 32)])
def test_equals_open_clip_with_zero_positional_embedding(
    clip: open_clip.CLIP, encoder: HighLevelEncoder, height: int, width: int
) -> None:
    images = photos(height, width)
    positions = (height // 32) * (width // 32)
    with torch.inference_mode():
        expected = without_positions(clip.visual, positions)(normalised(images))
        features = encoder(images)
    assert features.shape == (2, 64)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5 * expected.std().item())


def test_positional_embedding_matters_in_the_model_of_these_tests(
    clip: open_clip.CLIP, encoder: HighLevelEncoder
) -> None:
    with torch.inference_mode():
        features, positioned = encoder(photos()), clip.visual(normalised(photos()))
    assert (features - positioned).norm() > 0.05 * features.norm()


def test_rn50_equals_open_clip_at_224_pixels() -> None:
    visual = open_clip.modified_resnet.ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32).eval()
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.constant_(parameter, 0.5)
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    encoder = HighLevelEncoder(TowerConfig("RN50", [3, 4, 6, 3], 64, 32, 1024, 224, mean, std)).eval()
    unmatched = encoder.visual.load_state_dict(visual.state_dict(), strict=False)
    assert unmatched == ([], ["attnpool.positional_embedding"])
    with torch.inference_mode():
        expected = without_positions(visual, 49)(normalised(photos(224, 224)))
        torch.testing.assert_close(encoder(photos(224, 224)), expected, rtol=1e-5, atol=1e-5)


def test_text_features_and_cosines(clip: open_clip.CLIP, encoder: HighLevelEncoder) -> None:
    with torch.inference_mode():
        text = clip.encode_text(open_clip.SimpleTokenizer()(list(PROMPTS)), normalize=True)
        features = encoder(photos(count=3))
    torch.testing.assert_close(encoder.text_features, text, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.text_features.norm(dim=1), torch.ones(2))
    assert (text[0] - text[1]).norm() > 0.01
    expected = features / features.norm(dim=1, keepdim=True) @ text.T
    torch.testing.assert_close(encoder.quality_cosines(features), expected, rtol=0, atol=1e-6)
    good_alone = torch.stack([7 * text[0], -text[1]])
    cosine = (text[0] @ text[1]).item()
    expected = torch.tensor([[1, cosine], [-cosine, -1]])
    torch.testing.assert_close(encoder.quality_cosines(good_alone), expected, rtol=0, atol=1e-6)


def test_capitals_of_the_published_prompts_do_not_matter() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    assert torch.equal(tokenizer(list(PROMPTS)), tokenizer(["a Good photo.", "A bad photo."]))


def test_cosines_are_not_rounded_under_autocast(encoder: HighLevelEncoder) -> None:
    features = torch.randn(500, 64, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        cosines = encoder.quality_cosines(features)
    assert torch.equal(cosines, encoder.quality_cosines(features))
    assert len(cosines[:, 0].unique()) > 490


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_gives_float32_close_to_float32(encoder: HighLevelEncoder, autocast: bool) -> None:
    half = encoder if autocast else copy.deepcopy(encoder).bfloat16()
    with torch.inference_mode():
        exact = encoder(photos(96, 128))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rounded = half(photos(96, 128))
            cosines = half.quality_cosines(rounded)
    assert rounded.dtype == cosines.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()
    torch.testing.assert_close(cosines, encoder.quality_cosines(exact), rtol=0, atol=0.01)


def test_every_trainable_parameter_gets_a_gradient(encoder: HighLevelEncoder) -> None:
    trained = copy.deepcopy(encoder).train()
    trained(photos(96, 96)).square().sum().backward()
    frozen = [name for name, parameter in trained.named_parameters() if not parameter.requires_grad]
    assert frozen == ["visual.attnpool.k_proj.bias"]
    for name, parameter in trained.named_parameters():
        if name not in frozen:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_ways_of_storing_give_the_same_encoder(clip: open_clip.CLIP, encoder: HighLevelEncoder, tmp_path: Path) -> None:
    training = {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{name}": tensor for name, tensor in clip.state_dict().items()},
        "optimizer": torch.optim.AdamW(clip.parameters()).state_dict(),
    }
    torch.save(training, tmp_path / "epoch_3.pt")
    save_file(clip.state_dict(), tmp_path / "tiny.safetensors")
    for name in ("epoch_3.pt", "tiny.safetensors"):
        assert_same(load_open_clip("tiny", str(tmp_path / name)), encoder)


class NoTokenizer:
    """Stands for CLIP's own tokenizer, which comes with open_clip and need not be saved."""

    def save_pretrained(self, directory: Path) -> None:
        pass


def test_local_directory_brings_weights_and_normalisation(
    clip: open_clip.CLIP, encoder: HighLevelEncoder, tmp_path: Path
) -> None:
    directory, mean, std = tmp_path / "tiny-clip", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = copy.deepcopy(clip)
    save_for_hf(model, NoTokenizer(), TINY, str(directory), safe_serialization=True)
    loaded = load_open_clip(f"local-dir:{directory}")
    assert loaded.architecture == "tiny-clip"
    assert_same(loaded, encoder)

    open_clip.set_model_preprocess_cfg(model, {"mean": mean, "std": std})
    save_for_hf(model, NoTokenizer(), TINY, str(directory), safe_serialization=True)
    loaded = load_open_clip(f"local-dir:{directory}")
    images = normalised(photos()) * channels(std) + channels(mean)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), encoder(photos()), rtol=1e-4, atol=1e-3)


class OpenAIArchive(nn.Module):
    """Holds a CLIP model's tensors by the names they have in OpenAI's archives, and three numbers beside."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        for name, child in clip.named_children():
            self.add_module(name, child)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, value in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.fixture
def archive(clip: open_clip.CLIP, tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.trace(OpenAIArchive(copy.deepcopy(clip)), photos()), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def publish(monkeypatch: pytest.MonkeyPatch, **pretrained: object) -> None:
    """Puts ``tiny`` with the tag ``openai`` on open_clip's list of pretrained models."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": pretrained})


def test_quick_gelu_follows_from_tag_archive_or_name(
    encoder: HighLevelEncoder, checkpoint: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    publish(monkeypatch, url=f"https://example.com/{digest}/tiny.pt", file=checkpoint, quick_gelu=True)
    by_name = load_open_clip("tiny-quickgelu", checkpoint)
    assert (by_name.text_features - encoder.text_features).norm() > 1e-3
    assert_same(load_open_clip("tiny", "openai"), by_name)
    assert_same(load_open_clip("tiny", str(archive)), by_name)


def test_foreign_torchscript_archive_is_refused_unopened(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive was opened"))
    with pytest.raises(ValueError, match="not the one OpenAI published for 'tiny'"):
        load_open_clip("tiny", str(archive))
    publish(monkeypatch, url=f"https://example.com/{'0' * 64}/tiny.pt")
    with pytest.raises(ValueError, match="not the one OpenAI published for 'tiny'"):
        load_open_clip("tiny", str(archive))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(clip: open_clip.CLIP, tmp_path: Path) -> None:
    torch.save({"state_dict": clip.state_dict(), "extra": Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_open_clip("tiny", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_missing_and_unexpected_keys_are_named(clip: open_clip.CLIP, tmp_path: Path) -> None:
    state = dict(clip.state_dict())
    state["visual.surplus"] = state.pop("visual.layer2.1.conv2.weight")
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(RuntimeError, match=r"(?s)layer2\.1\.conv2\.weight.*visual\.surplus"):
        load_open_clip("tiny", str(tmp_path / "wrong.pt"))


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-32", "openai", "not a ModifiedResNet"),
        ("convnext_base", "laion400m_s13b_b51k", "not a ModifiedResNet"),
        ("RN49", "openai", "no architecture 'RN49'"),
        ("RN50", None, "needs `pretrained`"),
    ],
)
def test_architectures_that_cannot_be_had(architecture: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_open_clip(architecture, pretrained)


def test_local_directory_takes_no_other_weights(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.raises(ValueError, match="leave `pretrained` out"):
        load_open_clip(f"local-dir:{tmp_path}", checkpoint)
    with pytest.raises(RuntimeError, match="could not be loaded"):
        load_open_clip(f"local-dir:{tmp_path}")


def test_rebuilt_from_config_and_state_alone(
    encoder: HighLevelEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    config = json.dumps(encoder.config())
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    state = load_file(tmp_path / "encoder.safetensors")
    rebuilt = HighLevelEncoder.from_state(json.loads(config), state)
    assert_same(rebuilt, encoder)
    assert rebuilt.config() == encoder.config()
    assert not rebuilt.training
    assert {name.split(".")[0] for name in state} == {"visual", "text_features"}
    assert not any("positional_embedding" in name for name in state)

    del state["text_features"], state["visual.bn1.weight"]
    with pytest.raises(RuntimeError, match=r"(?s)text_features.*visual\.bn1\.weight"):
        HighLevelEncoder.from_state(json.loads(config), state)


def test_state_of_lower_precision_becomes_float32(encoder: HighLevelEncoder) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in encoder.state_dict().items()}
    rebuilt = HighLevelEncoder.from_state(encoder.config(), state)
    assert {tensor.dtype for tensor in rebuilt.state_dict().values()} == {torch.float32, torch.int64}
    with torch.inference_mode():
        assert torch.equal(rebuilt(photos()), encoder(photos())), "the weights of these tests are exact in float16"


def test_loading_needs_no_network_and_spares_the_global_generator(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was used"))
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    HighLevelEncoder(load_open_clip("tiny", checkpoint).tower)
    assert torch.equal(torch.rand(4), expected)
