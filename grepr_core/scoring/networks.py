"""The networks of a bundle on one device: pixels in, all that a score is made of out."""

from typing import NamedTuple

import torch
from torch import Tensor

from grepr_core.bundles.bundle import Bundle
from grepr_core.encoders.graphs import Encode, Replayed
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.zero_shot.patches import patch_batches

#: Patches encoded together. On the CPU 27 to 81 are equally fast, fewer are slower.
CPU_PATCHES, GPU_PATCHES = 64, 512


class Encoded(NamedTuple):
    """What networks give of N photographs, float32 on their device.

    Attributes:
        features: (N, D); (N, 0) where they are not wanted.
        cosines: (N, 2) with the good and the bad prompt; (N, 0) without prompts.
        patches: (N, P, C) features of P patches; (N, 0, 0) where they are not wanted.
    """

    features: Tensor
    cosines: Tensor
    patches: Tensor


class Networks:
    """The encoders of a bundle that are needed, prepared for one device."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        dtype: torch.dtype,
        *,
        zero_shot: bool,
        features: bool,
        fused: bool = True,
        replayed: bool = True,
    ) -> None:
        """Prepares the encoders.

        Args:
            bundle: The model.
            device: Where they run.
            dtype: What they compute in, ``torch.float32`` or ``torch.bfloat16``.
            zero_shot: Whether patches are encoded.
            features: Whether photographs are.
            fused: See :func:`~grepr_core.encoders.inference.optimise_for_inference`.
            replayed: Whether a GPU replays what it did with the last batch of a shape,
                see :mod:`grepr_core.encoders.graphs`.
        """
        self._zero_shot = zero_shot
        self._features = features
        self._low_features = features and bundle.low is not None and bool(bundle.low.feature_blocks)
        low = bundle.low if zero_shot or self._low_features else None
        self._high = optimise_for_inference(bundle.high, device, dtype, fused=fused) if bundle.high else None
        self._low = optimise_for_inference(low, device, dtype, fused=fused) if low else None
        self._patches_at_once = GPU_PATCHES if device.type == "cuda" else CPU_PATCHES
        # Patches keep a GPU busy for longer than it takes to launch their operations.
        self._encode: Encode = (
            Replayed(self._forward) if replayed and device.type == "cuda" and not zero_shot else self._forward
        )

    @property
    def gives_features(self) -> bool:
        """Whether photographs are encoded."""
        return self._features

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Encoded:
        """Encodes photographs of one size.

        Args:
            images: (N, 3, H, W) uint8 sRGB on the device, channels-last; H and W at least 32.

        Returns:
            Their features. A GPU may still be computing them.
        """
        return Encoded(*self._encode(images))

    def forget(self) -> None:
        """Gives back the memory that is kept for batches to come."""
        if isinstance(self._encode, Replayed):
            self._encode.forget()

    def _forward(self, images: Tensor) -> Encoded:
        images = images / 255
        features: list[Tensor] = []
        cosines, patches = images.new_empty(len(images), 0), images.new_empty(len(images), 0, 0)
        if self._high is not None:
            features.append(self._high(images))
            if isinstance(self._high, HighLevelEncoder):
                cosines = self._high.quality_cosines(features[-1])
        if self._low is not None:
            if self._low_features:
                features.append(self._low.encode_frames(images))
            if self._zero_shot:
                patches = torch.stack([self._encode_patches(self._low, image) for image in images])
        found = torch.cat(features, dim=1) if self._features else images.new_empty(len(images), 0)
        return Encoded(found, cosines, patches)

    def _encode_patches(self, encoder: LowLevelEncoder, image: Tensor) -> Tensor:
        return torch.cat([encoder(batch) for batch in patch_batches(image, batch_size=self._patches_at_once)])
