"""The files of a model bundle: JSON and numbers only, with checksums.

``config.json`` tells what the files are; ``*.safetensors`` hold encoder weights, pristine statistics, the axis between
good and bad photographs, the regressor, and the probes for reasons;
``SHA256SUMS`` (as ``sha256sum -c`` reads it) is written last and identifies the model. Reading them needs no PyTorch;
:mod:`grepr_core.bundles.bundle` makes a model of them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Self

from safetensors.numpy import load as load_arrays

from grepr_core.decoding.view import AtMost, Lattice, View, view_from_json
from grepr_core.encoders.precision import Precision
from grepr_core.errors import UserError
from grepr_core.regression.regressor import Regressor
from grepr_core.storage import Folder, absolute

FORMAT_VERSION = 3
CONFIG_FILE = "config.json"
SUMS_FILE = "SHA256SUMS"
LOW_FILE, HIGH_FILE = "low.safetensors", "high.safetensors"
PRISTINE_FILE, REGRESSOR_FILE = "pristine.safetensors", "regressor.safetensors"
AXIS_FILE, REASONS_FILE = "axis.safetensors", "reasons.safetensors"
#: Kinds of encoder as ``config.json`` names them.
LOW_LEVEL, OPEN_CLIP, EFFICIENTNET_LITE0 = "resnet18", "open_clip", "efficientnet_lite0"
#: Area that photographs are seen at where a bundle says nothing else.
PIXELS = 512 * 512


@dataclass(frozen=True)
class BundleHeader:
    """What there is to know of a scoring model without its weights.

    Attributes:
        name: What the model is called.
        precision: Arithmetic that the scores are defined in; ``auto`` leaves it to whoever scores.
        view: What the encoders see of a photograph, and how large.
        scale: Lowest and highest rating of the scale that scores are predicted on; higher is better.
        card: What a person should know of the model: description, training, evaluation, limits. Any JSON object.
        model_id: Hash of the content, 16 hexadecimal digits; empty before it is saved or loaded.
    """

    name: str
    precision: Precision = field(default="auto", kw_only=True)
    view: View = field(default=Lattice.of_area(PIXELS), kw_only=True)
    scale: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    model_id: str = field(default="", kw_only=True)

    def resolve_precision(self, asked: Precision) -> Precision:
        """Gives the arithmetic to score in: what was asked for, unless the scores are defined in one."""
        return asked if self.precision == "auto" else self.precision


@dataclass(frozen=True)
class BundleFiles:
    """The files of a bundle, checked against their checksums.

    Attributes:
        config: Of ``config.json``.
        contents: Bytes of every file, by name.
        model_id: Hash of the content.
    """

    config: Mapping[str, Any]
    contents: Mapping[str, bytes]
    model_id: str

    @property
    def header(self) -> BundleHeader:
        """What there is to know of the model without its weights."""
        config = self.config
        return BundleHeader(
            name=config["name"],
            precision=config.get("precision", "auto"),  # older bundles name none
            # Bundles of format 1 enlarged nothing.
            view=view_from_json(config["view"]) if "view" in config else AtMost(config["max_pixels"]),
            scale=(config["scale"]["lowest"], config["scale"]["highest"]),
            card=config["card"],
            model_id=self.model_id,
        )

    @property
    def has_score(self) -> bool:
        """Whether there is a way from features to a score; see :attr:`grepr_core.bundles.bundle.Bundle.has_score`."""
        zero_shot_low = "low" in self.config and "pristine" in self.config
        zero_shot_high = AXIS_FILE in self.contents or self.config.get("high", {}).get("kind") == OPEN_CLIP
        return REGRESSOR_FILE in self.contents or zero_shot_low or zero_shot_high

    @property
    def regressor(self) -> Regressor | None:
        """From features to quality; None where the model has none."""
        content = self.contents.get(REGRESSOR_FILE)
        return None if content is None else Regressor.from_arrays(load_arrays(content))

    def card(self) -> dict[str, Any]:
        """Gives what a person should know of the model, as JSON's types.

        Returns:
            Name, identity, parts, scale, and the card that the bundle carries.
        """
        parts = {key: value for key, value in self.config.items() if key != "card"}
        optional = {"quality_axis": AXIS_FILE, "regressor": REGRESSOR_FILE, "reasons": REASONS_FILE}
        return {
            "model_id": self.model_id,
            **parts,
            **{part: file in self.contents for part, file in optional.items()},
            **self.config["card"],
        }

    @classmethod
    def read(cls, name_or_url: str) -> Self:
        """Reads a bundle and checks it against its checksums.

        Args:
            name_or_url: ``grepr-lite``, which ships with the package, or a folder or URL.

        Returns:
            Its files.

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
        if config["format_version"] not in range(1, FORMAT_VERSION + 1):
            raise UserError(f"{name_or_url}: bundle format {config['format_version']} is unknown here; update grepr")
        return cls(config, contents, _model_id(sums))


def write_files(contents: Mapping[str, bytes], url: str) -> str:
    """Writes the files of a bundle, the checksums last.

    Args:
        contents: Bytes of every file, by name.
        url: Folder, which must not hold a bundle yet.

    Returns:
        Hash of the content.

    Raises:
        UserError: There is a bundle already.
    """
    check_vacant(url)
    folder = Folder(url)
    sums = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    for name, content in contents.items():
        folder.write(name, content)
    folder.write(SUMS_FILE, sums.encode())
    return _model_id(sums.encode())


def check_vacant(url: str) -> None:
    """Makes sure that a bundle can be written to a folder.

    Args:
        url: The folder, which need not exist.

    Raises:
        UserError: There is a bundle already.
    """
    if Folder(url).exists(SUMS_FILE):
        raise UserError(f"{url}: holds a model bundle already; name another folder")


def bundle_address(name_or_url: str) -> str:
    """Gives a bundle's name or URL in a form that other processes understand, whatever their working directory."""
    return name_or_url if name_or_url in built_in_bundles() else absolute(name_or_url)


def built_in_bundles() -> dict[str, str]:
    """Gives the folders of the bundles that ship with the package, by name."""
    return {entry.name: str(entry) for entry in files(__package__).iterdir() if (entry / SUMS_FILE).is_file()}


def _model_id(sums: bytes) -> str:
    return hashlib.sha256(sums).hexdigest()[:16]
