"""``grepr pretrain high``: cuts crops out of photographs, and fine-tunes CLIP's visual tower on them."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from grepr_core.decoding.images import Limits
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.errors import UserError
from grepr_core.pretraining.group_contrast import GroupContrast, centre_crop
from grepr_core.pretraining.scenes import Scene, SceneRecipe
from grepr_core.pretraining.step import Batch, as_images, high_level_loss
from grepr_core.storage import Folder
from pipelines.models.clip import load_clip
from pipelines.options import PretrainHighOptions
from pipelines.pretraining.linear_probe import LinearProbe, open_probe
from pipelines.pretraining.scene_maker import SceneMaker, make_scenes
from pipelines.pretraining.scene_store import SceneStore
from pipelines.pretraining.training import Stage, TrainingRecord, train
from pipelines.running.run_files import HIGH_CONFIG_FILE, HIGH_WEIGHTS_FILE
from pipelines.running.settings import SETTINGS_FILE, check_settings, option_defaults

#: The tower as it was before training, so that workers need neither open_clip's files nor a network.
INITIAL_FOLDER = "initial"
CROPS_FOLDER = "crops"
#: Photographs whose pseudo-labels are looked at after every epoch.
WATCHED = 256
WATCHED_AT_ONCE = 32


class CropMaker(SceneMaker):
    """Cuts the middle out of photographs: scenes without distorted versions.

    Nothing is drawn in this stage, so a photograph is decoded once and not once an epoch, and those that cannot be are
    left out before training starts.
    """

    least_side = Limits().min_side

    def make(self, photo: NDArray[np.uint8], recipe: SceneRecipe, key: int) -> Scene:
        """Makes a scene of a crop alone."""
        return Scene(centre_crop(photo, recipe.side)[None], np.ones((1, 1), np.float32), ("",), (0,))


class HighLevelStage(Stage):
    """The second stage of GRepQ: the best and the worst photographs of a batch, by CLIP's own opinion, are told apart.

    Args:
        store: Crops.
        options: Of the command.
        probe: Rated images to watch the features with.
    """

    name = "high"
    images_per_example = 1

    def __init__(self, store: SceneStore, options: PretrainHighOptions, probe: LinearProbe | None = None) -> None:
        self._store, self._options, self._probe = store, options, probe
        self.examples = len(store)

    def settings(self) -> dict[str, Any]:
        """Gives the settings of CLIP, the crops and the loss."""
        options = self._options
        names = ("architecture", "pretrained", "crop", "max_pixels", "temperature", "projection_size", "frozen_head")
        return {name: getattr(options, name) for name in (*names, "positional_embedding")} | {
            "group_size": options.images_a_group,
            "batch_norm": options.normalisation,
        }

    def build(self) -> nn.Module:
        """Makes the module from the weights that the command left for its workers."""
        options = self._options
        initial = Folder(options.output, options.storage_options).child(INITIAL_FOLDER)
        return GroupContrast(
            HighLevelEncoder.from_state(
                initial.read_json(HIGH_CONFIG_FILE),
                load(initial.read(HIGH_WEIGHTS_FILE)),
                positions=options.positional_embedding,
            ),
            group_size=options.images_a_group,
            temperature=options.temperature,
            projection_size=options.projection_size,
            train_head=not options.frozen_head,
            batch_norm=options.normalisation,
            seed=options.seed,
        )

    def example(self, epoch: int, index: int) -> Batch:
        """Gives a crop, (3, side, side) uint8, the same in every epoch."""
        # A copy, since PyTorch wants arrays that may be written to.
        return (torch.from_numpy(np.array(self._store.read(index).versions[0])).permute(2, 0, 1),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Computes the group contrastive loss over the crops of all workers."""
        return high_level_loss(model, batch)

    def validate(self, module: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        """Measures how far apart the pseudo-labels lie and, with ratings, the SROCC of the linear probe.

        Both by the encoder as it scores, without positional embedding.
        """
        device = next(module.parameters()).device
        model = cast(GroupContrast, module)
        encoder = optimise_for_inference(model.encoder.without_positions(), device, dtype)
        watched, labels = min(WATCHED, self.examples), []
        with torch.inference_mode():
            for start in range(0, watched, WATCHED_AT_ONCE):
                indices = range(start, min(start + WATCHED_AT_ONCE, watched))
                crops = torch.stack([self.example(0, index)[0] for index in indices]).to(device)
                labels.append(model.pseudo_labels(encoder(as_images(crops))))
        metrics = {
            "pseudo_label_spread": torch.cat(labels).std().item(),
            "probe_srocc": self._probe.srocc(encoder, device) if self._probe else None,
        }
        return {name: value for name, value in metrics.items() if value is not None}

    def save(self, module: nn.Module, output: Folder) -> None:
        """Writes the encoder as it scores, without the head, as :meth:`HighLevelEncoder.from_state` takes it."""
        _write_encoder(cast(GroupContrast, module).encoder.without_positions(), output)


def run(options: PretrainHighOptions) -> TrainingRecord:
    """Cuts crops and fine-tunes CLIP's visual tower, or goes on where the same command ended.

    Args:
        options: Of the command.

    Returns:
        The record that ``run.json`` holds; the tower is in ``high_level.safetensors`` and ``high_level.json``.

    Raises:
        UserError: The photographs, CLIP's weights, the ratings or the output cannot be used, or the workers asked for
            cannot be had.
    """
    probe = open_probe(options.ratings, options.ratings_images, dict(options.storage_options))
    _provide_initial(options)
    recipe = SceneRecipe(kinds=0, levels=0, side=options.crop)
    return train(HighLevelStage(make_scenes(options, recipe, CropMaker, name=CROPS_FOLDER), options, probe), options)


def _provide_initial(options: PretrainHighOptions) -> None:
    """Loads CLIP and leaves its tower for the workers, unless an earlier run of the same command has done so."""
    initial = Folder(options.output, options.storage_options).child(INITIAL_FOLDER)
    names = ("architecture", "pretrained", "positional_embedding")
    settings = {name: getattr(options, name) for name in names}
    if initial.exists(HIGH_WEIGHTS_FILE):
        check_settings(initial, settings, defaults=option_defaults(PretrainHighOptions), holds="weights")
        return
    named = f"--architecture {options.architecture} --pretrained {options.pretrained}"
    encoder = load_clip(options.architecture, options.pretrained, named=named, positions=options.positional_embedding)
    if options.positional_embedding and options.crop != encoder.tower.image_size:
        raise UserError(
            f"--positional-embedding, of --recipe paper too: that of {options.architecture} is for crops of "
            f"{encoder.tower.image_size} pixels, not of --crop {options.crop}; leave one of the two out"
        )
    initial.write_json(SETTINGS_FILE, settings)
    _write_encoder(encoder, initial)


def _write_encoder(encoder: HighLevelEncoder, folder: Folder) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    folder.write_json(HIGH_CONFIG_FILE, encoder.config())
    folder.write(HIGH_WEIGHTS_FILE, save(state))
