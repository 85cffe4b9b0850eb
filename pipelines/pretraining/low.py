"""``grepr pretrain low``: prepares scenes, and trains the low-level encoder on them."""

from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.low_level import LowLevelEncoder, contrastive_views
from grepr_core.errors import UserError
from grepr_core.pretraining.order_accuracy import order_accuracy
from grepr_core.pretraining.scenes import SceneRecipe
from grepr_core.pretraining.step import Batch, low_level_loss
from grepr_core.storage import Folder
from pipelines.options import PretrainLowOptions
from pipelines.pretraining.linear_probe import LinearProbe, open_probe
from pipelines.pretraining.scene_maker import make_scenes
from pipelines.pretraining.scene_store import SceneStore
from pipelines.pretraining.training import Stage, TrainingRecord, generator, train
from pipelines.running.run_files import LOW_WEIGHTS_FILE

#: Scenes held out unless told otherwise: a twentieth, and no more than this.
MOST_VALIDATION_SCENES = 64


class LowLevelStage(Stage):
    """The first stage of GRepQ: a scene's versions, seen twice, are pulled together as far as they look alike.

    Args:
        store: Scenes, all with as many versions.
        options: Of the command.
        probe: Rated images to watch the features with.

    Raises:
        UserError: The scenes are too few to hold out what was asked for.
    """

    name = "low"

    def __init__(self, store: SceneStore, options: PretrainLowOptions, probe: LinearProbe | None = None) -> None:
        self._store, self._options, self._probe = store, options, probe
        held_out = options.validation_scenes
        if held_out is None:
            held_out = min(MOST_VALIDATION_SCENES, len(store) // 20)
            held_out = held_out if held_out > 1 else 0
        if held_out == 1 or held_out >= len(store):
            raise UserError(
                f"--validation-scenes {held_out}: must be 0, or at least 2 and less than the {len(store)} scenes"
            )
        order = np.random.default_rng([options.seed]).permutation(len(store)).tolist()
        self._validation, self._training = sorted(order[:held_out]), sorted(order[held_out:])
        self.examples = len(self._training)
        self.images_per_example = 2 * store.recipe.versions
        self.micro_batch = options.scenes_a_pass

    def settings(self) -> dict[str, Any]:
        """Gives the settings of the scenes, the loss and the fragments."""
        options = self._options
        names = ("temperature", "grid", "cell", "flip_probability", "separate_views")
        return {
            "scenes": asdict(self._store.recipe),
            "validation_scenes": len(self._validation),
            "micro_batch": self.micro_batch,
            **{name: getattr(options, name) for name in names},
        }

    def build(self) -> nn.Module:
        """Makes the encoder and its head."""
        return LowLevelEncoder(self._options.seed).train()

    def example(self, epoch: int, index: int) -> Batch:
        """Gives the views of a scene, (2, D, 3, side, side) uint8, and the similarity of its versions, (D, D)."""
        number = self._training[index]
        scene = self._store.read(number)
        anchor, augmented = contrastive_views(
            # A copy, since PyTorch wants arrays that may be written to.
            torch.from_numpy(np.array(scene.versions)).permute(0, 3, 1, 2),
            grid=self._options.grid,
            cell=self._options.cell,
            flip_probability=self._options.flip_probability,
            generator=generator(self._options.seed, epoch, number),
        )
        return torch.stack([anchor, augmented]), torch.from_numpy(np.array(scene.similarity))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Computes the quality-aware contrastive loss of some scenes."""
        options = self._options
        return low_level_loss(model, batch, temperature=options.temperature, separate_views=options.separate_views)

    def validate(self, module: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        """Measures order accuracy on held-out scenes and, with ratings, the SROCC of the linear probe."""
        device = next(module.parameters()).device
        encoder = optimise_for_inference(cast(LowLevelEncoder, module), device, dtype)
        scenes = map(self._store.read, self._validation)
        metrics = {
            "order_accuracy": order_accuracy(lambda patches: encoder(patches.to(device)), scenes),
            "probe_srocc": self._probe.srocc(encoder.features, device) if self._probe else None,
        }
        return {name: value for name, value in metrics.items() if value is not None}

    def save(self, module: nn.Module, output: Folder) -> None:
        """Writes the weights as :class:`LowLevelEncoder` loads them."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        output.write(LOW_WEIGHTS_FILE, save(state))


def run(options: PretrainLowOptions) -> TrainingRecord:
    """Prepares scenes and pretrains the low-level encoder, or goes on where the same command ended.

    Args:
        options: Of the command.

    Returns:
        The record that ``run.json`` holds; the weights are in ``low_level.safetensors``.

    Raises:
        UserError: The photographs, the ratings or the output cannot be used, or the workers asked for cannot be had.
    """
    probe = open_probe(options.ratings, options.ratings_images, dict(options.storage_options))
    recipe = SceneRecipe(options.kinds, options.levels, options.side, options.seed)
    store = make_scenes(options, recipe, device=options.device)
    return train(LowLevelStage(store, options, probe), options)
