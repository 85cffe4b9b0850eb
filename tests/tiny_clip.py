"""A small CLIP model with random weights, in a folder that open_clip loads like a published one."""

from pathlib import Path

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


class _NoTokenizer:
    """Stands for CLIP's own tokenizer, which comes with open_clip and need not be saved."""

    def save_pretrained(self, directory: Path) -> None:
        pass


def save_tiny_clip(folder: Path) -> str:
    """Writes the model, always the same, and gives the architecture by which open_clip finds it."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        visual = TINY["vision_cfg"]
        model = open_clip.CLIP(TINY["embed_dim"], visual, TINY["text_cfg"])
        for name, tensor in model.visual.state_dict().items():
            # Fresh statistics are those of no photographs, and fresh blocks do nothing.
            if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif "running_mean" in name:
                tensor.copy_(torch.randn(tensor.shape) / 4)
    save_for_hf(model, _NoTokenizer(), TINY, str(folder), safe_serialization=True)
    return f"local-dir:{folder}"
