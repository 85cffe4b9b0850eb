"""``grepr pretrain high``: cuts crops out of photographs, and fine-tunes the high-level encoder on them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from grepr_core.bundles.bundle import load_bundle
from grepr_core.bundles.bundle_files import BundleFiles, bundle_address
from grepr_core.decoding.images import Failure, Limits
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.semantic import SemanticEncoder, encoder_from_state, load_semantic_encoder
from grepr_core.errors import UserError
from grepr_core.pretraining.group_contrast import GroupContrast, Standardisation, centre_crop
from grepr_core.pretraining.scenes import Scene, SceneRecipe
from grepr_core.pretraining.step import Batch, as_images, high_level_loss
from grepr_core.scoring.scorer import Scorer
from grepr_core.storage import Folder
from pipelines.models.clip import load_clip
from pipelines.options import PretrainHighOptions
from pipelines.pretraining.linear_probe import LinearProbe, open_probe
from pipelines.pretraining.scene_maker import SceneJob, SceneMaker, make_scenes
from pipelines.pretraining.scene_store import SceneStore
from pipelines.pretraining.training import Stage, TrainingRecord, train
from pipelines.running.run_files import HIGH_CONFIG_FILE, HIGH_WEIGHTS_FILE
from pipelines.running.settings import SETTINGS_FILE, check_settings, option_defaults
from pipelines.running.workers import Node, cores_beside_a_gpu

#: The tower as it was before training, so that workers need neither open_clip's files nor a network.
INITIAL_FOLDER = "initial"
CROPS_FOLDER = "crops"
#: Photographs whose pseudo-labels are looked at after every epoch.
WATCHED = 256
WATCHED_AT_ONCE = 32
#: Processes that label photographs on one GPU: it does nearly all the work, and each takes gigabytes of it.
LABELLERS_A_GPU = 4


class CropMaker(SceneMaker):
    """Cuts the middle out of photographs: scenes without distorted versions.

    Nothing is drawn in this stage, so a photograph is decoded once and not once an epoch, and those that cannot be are
    left out before training starts.
    """

    least_side = Limits().min_side

    def make(self, photo: NDArray[np.uint8], recipe: SceneRecipe, key: int) -> Scene:
        """Makes a scene of a crop alone."""
        return Scene(centre_crop(photo, recipe.side)[None], np.ones((1, 1), np.float32), ("",), (0,))


class LabelledCropMaker(CropMaker):
    """Also gives each photograph the zero-shot score of a bundle, as it would see the whole of it.

    They stay what they are while the encoder changes: labels that follow it feed on themselves.

    Args:
        job: What to do.
    """

    def __init__(self, job: SceneJob) -> None:
        super().__init__(job)
        options = cast(PretrainHighOptions, job.options)
        assert options.pseudo_labels is not None
        bundle = replace(load_bundle(options.pseudo_labels), regressor=None)
        # One arithmetic, whatever machines score.
        self._scorer = Scorer(bundle, device=job.device, precision="fp32", limits=self._limits, features=False)

    def pseudo_label(self, content: bytes) -> float | Failure:
        """Scores a photograph by both paths of the bundle, or by the one that it has; no rating goes in."""
        (result,) = self._scorer.score([content])
        return Failure(result.status, result.error or "no score") if result.score is None else result.score

    @classmethod
    def per_gpu(cls, nodes: Sequence[Node], device: str, requested: int | None) -> int:
        """Says how many of these processes share a GPU: a few, or as many as are asked for; 0 where none is used."""
        gpus = sum(node.gpus for node in nodes)
        if device == "cpu" or not gpus:
            return 0
        wanted = LABELLERS_A_GPU if requested is None else math.ceil(requested / gpus)
        return min(wanted, cores_beside_a_gpu(nodes))


class HighLevelStage(Stage):
    """The second stage of GRepQ: the best and the worst photographs of a batch are told apart.

    Which they are is CLIP's own opinion, or says the zero-shot score of a bundle.

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
        """Gives the settings of the encoder, the crops and the loss."""
        options = self._options
        of_images = ("architecture", "pretrained", "pseudo_labels", "crop", "max_pixels", "positional_embedding")
        names = (*of_images, "temperature", "projection_size", "frozen_head")
        return {name: getattr(options, name) for name in names} | {
            "group_size": options.images_a_group,
            "batch_norm": options.normalisation,
        }

    def build(self) -> nn.Module:
        """Makes the module from the weights that the command left for its workers."""
        options = self._options
        initial = Folder(options.output, options.storage_options).child(INITIAL_FOLDER)
        encoder = encoder_from_state(
            initial.read_json(HIGH_CONFIG_FILE),
            load(initial.read(HIGH_WEIGHTS_FILE)),
            positions=options.positional_embedding,
        )
        return GroupContrast(
            encoder,
            group_size=options.images_a_group,
            temperature=options.temperature,
            projection_size=options.projection_size,
            train_head=not options.frozen_head,
            batch_norm=options.normalisation,
            seed=options.seed,
            standardise=Standardisation(encoder, self._watched()) if isinstance(encoder, SemanticEncoder) else None,
        )

    def _watched(self) -> Iterator[Tensor]:
        """Gives some crops, a few at a time, as the encoder takes them."""
        watched = min(WATCHED, self.examples)
        for start in range(0, watched, WATCHED_AT_ONCE):
            indices = range(start, min(start + WATCHED_AT_ONCE, watched))
            yield as_images(torch.stack([self.example(0, index)[0] for index in indices]))

    def example(self, epoch: int, index: int) -> Batch:
        """Gives a crop, (3, side, side) uint8, and its pseudo-label where it has one; the same in every epoch."""
        scene = self._store.read(index)
        # A copy, since PyTorch wants arrays that may be written to.
        crop = torch.from_numpy(np.array(scene.versions[0])).permute(2, 0, 1)
        return (crop,) if scene.pseudo_label is None else (crop, torch.tensor(scene.pseudo_label))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Computes the group contrastive loss over the crops of all workers."""
        return high_level_loss(model, batch)

    def validate(self, module: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        """Measures how far apart CLIP's pseudo-labels lie and, with ratings, the SROCC of the linear probe.

        Both by the encoder as it scores, without positional embedding.
        """
        device = next(module.parameters()).device
        model = cast(GroupContrast, module)
        encoder = optimise_for_inference(_as_it_scores(model.encoder), device, dtype)
        spread = None
        if isinstance(encoder, HighLevelEncoder):
            with torch.inference_mode():
                labels = [model.pseudo_labels(encoder(crops.to(device))) for crops in self._watched()]
            spread = torch.cat(labels).std().item()
        metrics = {
            "pseudo_label_spread": spread,
            "probe_srocc": self._probe.srocc(encoder, device) if self._probe else None,
        }
        return {name: value for name, value in metrics.items() if value is not None}

    def save(self, module: nn.Module, output: Folder) -> None:
        """Writes the encoder as it scores, without the head, as :func:`encoder_from_state` takes it."""
        _write_encoder(_as_it_scores(cast(GroupContrast, module).encoder), output)


def run(options: PretrainHighOptions) -> TrainingRecord:
    """Cuts crops and fine-tunes the high-level encoder, or goes on where the same command ended.

    Args:
        options: Of the command.

    Returns:
        The record that ``run.json`` holds; the encoder is in ``high_level.safetensors`` and ``high_level.json``.

    Raises:
        UserError: The photographs, CLIP's weights, the bundle of the pseudo-labels, the ratings or the output cannot be
            used, or the workers asked for cannot be had.
    """
    if options.pseudo_labels is not None:  # other processes may be in other folders
        options = replace(options, pseudo_labels=bundle_address(options.pseudo_labels))
    probe = open_probe(options.ratings, options.ratings_images, dict(options.storage_options))
    _provide_initial(options)
    recipe = SceneRecipe(kinds=0, levels=0, side=options.crop)
    # To cut is no work for a GPU; to score is.
    maker, device = (CropMaker, "cpu") if options.pseudo_labels is None else (LabelledCropMaker, options.device)
    crops = make_scenes(options, recipe, maker, name=CROPS_FOLDER, device=device)
    return train(HighLevelStage(crops, options, probe), options)


def _as_it_scores(encoder: HighLevelEncoder | SemanticEncoder) -> HighLevelEncoder | SemanticEncoder:
    return encoder.without_positions() if isinstance(encoder, HighLevelEncoder) else encoder


def _load_clip(options: PretrainHighOptions) -> HighLevelEncoder:
    named = f"--architecture {options.architecture} --pretrained {options.pretrained}"
    encoder = load_clip(options.architecture, options.pretrained, named=named, positions=options.positional_embedding)
    if options.positional_embedding and options.crop != encoder.tower.image_size:
        raise UserError(
            f"--positional-embedding, of --recipe paper too: that of {options.architecture} is for crops of "
            f"{encoder.tower.image_size} pixels, not of --crop {options.crop}; leave --crop out"
        )
    return encoder


def _provide_initial(options: PretrainHighOptions) -> None:
    """Loads the encoder and leaves it for the workers, unless an earlier run of the same command has done so."""
    initial = Folder(options.output, options.storage_options).child(INITIAL_FOLDER)
    names = ("architecture", "pretrained", "pseudo_labels", "positional_embedding")
    # Labels of two models do not compare, though both were at one place.
    labelled_by = BundleFiles.read(options.pseudo_labels).header.model_id if options.pseudo_labels else None
    settings = {name: getattr(options, name) for name in names} | {"pseudo_labels_model_id": labelled_by}
    if initial.exists(HIGH_WEIGHTS_FILE):
        defaults = {**option_defaults(PretrainHighOptions), "pseudo_labels_model_id": None}
        check_settings(initial, settings, defaults=defaults, holds="weights")
        return
    encoder: HighLevelEncoder | SemanticEncoder
    if options.pseudo_labels is None:
        encoder = _load_clip(options)
    else:
        labelling = load_bundle(options.pseudo_labels)
        if not (labelling.has_score_low or labelling.has_score_high):
            raise UserError(
                f"--pseudo-labels {options.pseudo_labels}: this model has no zero-shot score; build one with "
                "'grepr model build --high efficientnet_lite0 --pristine CLEAN --unrated PHOTOS'"
            )
        encoder = load_semantic_encoder()
    initial.write_json(SETTINGS_FILE, settings)
    _write_encoder(encoder, initial)


def _write_encoder(encoder: HighLevelEncoder | SemanticEncoder, folder: Folder) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    folder.write_json(HIGH_CONFIG_FILE, encoder.config())
    folder.write(HIGH_WEIGHTS_FILE, save(state))
