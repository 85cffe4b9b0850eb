"""The authors' published files, read strictly and without running code, as a bundle that scores by their formulas.

Their code reads the checkpoints with ``strict=False`` or stores every convolution twice, so that a wrong file would
pass unnoticed; here every key must be known, present and of the right shape.
"""

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.view import FULL_SIZE
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.errors import UserError
from grepr_core.zero_shot.gaussian import Gaussian
from grepr_core.zero_shot.patches import PATCH

#: Key of the patches in the HDF5 file.
PATCHES_KEY = "data"
#: The authors hold the layers of torchvision's ResNet-18 a second time in an ``nn.Sequential``, by these numbers.
SEQUENTIAL = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
#: Of the classifier, which the copy by name still has and nothing uses.
UNUSED_LOW = ("encoder.base_model.fc.weight", "encoder.base_model.fc.bias")
#: Removed for scoring, so that images of any size go in.
UNUSED_HIGH = ("attnpool.positional_embedding",)
#: Keys of a kind that an error names.
SHOWN = 5


def load_published_low_level(path: str) -> LowLevelEncoder:
    """Reads the low-level checkpoint, ``low_level_model_weights.tar``.

    It is a ``torch.save`` file whose ``model.state_dict`` holds every layer of ResNet-18 twice, as
    ``encoder.base_model.*`` by torchvision's names and as ``encoder.resnet18.*`` by number, and the head.

    Args:
        path: The file.

    Returns:
        The encoder in evaluation mode, float32, on the CPU.

    Raises:
        UserError: The file is missing or no such checkpoint, holds code, lacks keys or has unknown ones, or its two
            copies of a layer differ.
    """
    state: Any = _load(path)
    for key in ("model", "state_dict"):
        if not isinstance(state, Mapping) or key not in state:
            raise UserError(f"{path}: no ['model']['state_dict'] in it, so not the published low-level checkpoint")
        state = state[key]
    encoder = LowLevelEncoder()
    own = encoder.state_dict()
    named, numbered = {}, {}
    for key in own:
        part, _, rest = key.partition(".")
        if part == "encoder":
            layer, _, name = rest.partition(".")
            named[f"encoder.base_model.{rest}"] = key
            numbered[f"encoder.resnet18.{SEQUENTIAL[layer]}.{name}"] = key
        else:
            numbered[key] = key
    published = _strict(
        path, state, {theirs: own[ours] for theirs, ours in {**named, **numbered}.items()}, unused=UNUSED_LOW
    )
    ours = {key: published[theirs] for theirs, key in numbered.items()}
    differing = [theirs for theirs, key in named.items() if not torch.equal(published[theirs], ours[key])]
    if differing:
        raise UserError(
            f"{path}: the two copies of the encoder differ, so which one was trained cannot be told: {_some(differing)}"
        )
    encoder.load_state_dict(ours, strict=True)
    return encoder.eval()


def load_published_high_level(path: str, clip: HighLevelEncoder) -> HighLevelEncoder:
    """Reads the high-level checkpoint, ``high_level_model_weights.pth``: the bare state dict of CLIP RN50's ``visual``.

    Args:
        path: The file.
        clip: The CLIP model it was trained from, which gives the shape of the tower and what the file lacks: the
            features of the prompts, whose text encoder the authors left as it was.

    Returns:
        The encoder in evaluation mode, float32, on the CPU, with CLIP's own normalisation of images.

    Raises:
        UserError: The file is missing or no such checkpoint, holds code, lacks keys or has unknown ones.
    """
    expected = {key.removeprefix("visual."): tensor for key, tensor in clip.state_dict().items() if key[:6] == "visual"}
    published = _strict(path, _load(path), expected, unused=UNUSED_HIGH)
    state = {f"visual.{key}": tensor for key, tensor in published.items()}
    normalisation = {"mean": list(OPENAI_DATASET_MEAN), "std": list(OPENAI_DATASET_STD)}
    return HighLevelEncoder.from_state(
        {**clip.config(), **normalisation}, {**state, "text_features": clip.text_features}
    )


class PristinePatches:
    """The published pristine patches, read a batch at a time; their number is the length.

    The HDF5 file (``pristine_patches_096_0.75_0.80.hdf5``) holds them under ``data``, (N, 3, 96, 96) float32 RGB in
    [0, 1].
    """

    def __init__(self, path: str, *, batch_size: int = 64) -> None:
        """Checks what the file says it holds.

        Args:
            path: The file.
            batch_size: Patches at a time.

        Raises:
            UserError: The file is missing, no HDF5, or holds something else.
        """
        self._path = path
        self._batch_size = batch_size
        with self._open() as file:
            patches = file.get(PATCHES_KEY)
            if not isinstance(patches, h5py.Dataset):
                raise UserError(f"{path}: has no dataset {PATCHES_KEY!r}; it has {_some(list(file)) or 'nothing'}")
            if patches.dtype != np.float32 or patches.ndim != 4 or patches.shape[1:] != (3, PATCH, PATCH):
                raise UserError(
                    f"{path}: {PATCHES_KEY!r} is {patches.dtype} of shape {patches.shape}, not float32 patches (N, 3, "
                    f"{PATCH}, {PATCH})"
                )
            self._count = len(patches)
        if self._count < 2:
            raise UserError(f"{path}: {self._count} patches have no covariance; at least 2 are needed")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        """Yields (n, 3, 96, 96) float32 RGB in [0, 1].

        Raises:
            UserError: Values lie outside [0, 1], or the file is damaged.
        """
        with self._open() as file:
            for first in range(0, self._count, self._batch_size):
                try:
                    patches = file[PATCHES_KEY][first : first + self._batch_size]
                except OSError as error:
                    raise UserError(f"{self._path}: patches from {first} on cannot be read: {error}") from error
                if not (patches.min() >= 0 and patches.max() <= 1):  # NaN is outside as well
                    raise UserError(f"{self._path}: patches from {first} on have values outside [0, 1]")
                yield torch.from_numpy(patches)

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self._path, "r")
        except OSError as error:
            raise UserError(f"{self._path}: not a readable HDF5 file: {error}") from error


def published_bundle(
    low: LowLevelEncoder | None, pristine: Gaussian | None, high: HighLevelEncoder | None, files: Mapping[str, str]
) -> Bundle:
    """Puts the published parts together as their code scores with them.

    The head's 128 features, images at their native size, the uncorrected distance, Q = Q_H + Q_L, in float32. As the
    distance is never negative, Q_L lies in (0, 0.5].

    Args:
        low: Of :func:`load_published_low_level`.
        pristine: Statistics of the published patches as ``low`` encodes them.
        high: Of :func:`load_published_high_level`.
        files: What the parts were read from, by role.

    Returns:
        The bundle ``official``.
    """
    card = {
        "description": "GRepQ as published by its authors (WACV 2024), scored by their formulas without any rating",
        "made_for": "photographs at their native size, however large",
        "limits": "Without correction the low-level distance grows as an image gets smaller and has fewer patches.",
        "published_figures": "Theirs come from CLIP in fp16 on CUDA, whose cosines step by 1.2e-4 at 0.2, so that many "
        "images tie; this bundle scores in fp32, and ranks them a little differently.",
        "weights_from": "github.com/suhas-srinath/GRepQ",
        "sha256": {role: _digest(path) for role, path in files.items()},
    }
    return Bundle(
        "official",
        high=high,
        low=low,
        pristine=pristine,
        distance="mvg",
        precision="fp32",
        view=FULL_SIZE,
        scale=(0.0, (0.5 if low else 0.0) + (1.0 if high else 0.0)),
        card=card,
    )


def _load(path: str) -> object:
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        # Damaged files end here as well; PyTorch's own advice is to run what the file holds.
        raise UserError(
            f"{path}: not a checkpoint of tensors and plain values alone, so it is not opened; if it is damaged, "
            "copy it again"
        ) from error
    except Exception as error:  # PyTorch raises nearly every kind of exception on a file that is none of its own.
        raise UserError(f"{path}: not a PyTorch checkpoint, or a damaged one; copy it again") from error
    return loaded


def _strict(path: str, state: object, expected: Mapping[str, Tensor], *, unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Gives the expected tensors of a state dict that has all of them, in their shapes, and no others but unused."""
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path}: not a state dict, tensors by name")
    tensors: dict[str, Tensor] = {str(key): tensor for key, tensor in state.items()}
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected and key not in unused],
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in tensors and tensors[key].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise UserError(f"{path}: not the published weights, keys are {listed}")
    return {key: tensors[key] for key in expected}


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
