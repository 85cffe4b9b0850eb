"""What a result depends on, kept beside it so that no other command goes on with it."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from grepr_core.errors import UserError, without_secrets
from grepr_core.storage import Folder

SETTINGS_FILE = "settings.json"
#: A setting that the machines decide.
AUTO = "auto"
#: Settings that tell a source.
SOURCE, SOURCE_DIGEST = "source", "source_digest"
#: What settings are called that have not the name of an option.
_NAMES = {
    SOURCE: "source",
    "images": "number of images",
    "manifest": "manifest",
    "model_id": "content of --model",
    "limits.max_bytes": "--max-image-bytes",
    "limits.max_pixels": "--max-image-pixels",
    "gpu_decode": "decoding on the GPU",
    "stage": "stage",
    "examples": "number of examples",
    "scenes.side": "--scene-side",
    "pseudo_labels_model_id": "content of --pseudo-labels",
    "metadata.url": "--metadata",
    "metadata.version": "content of --metadata",
    "scores.url": "scores",
    "scores.finished": "end of scoring",
    "scores.shards": "shards of the scores",
}


def source_settings(source: str) -> dict[str, str | None]:
    """Gives the settings that tell a source: what may be shown of it, and a digest of all where that leaves any out."""
    shown = without_secrets(source)
    digest = hashlib.blake2b(source.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return {SOURCE: shown, SOURCE_DIGEST: digest if shown != source else None}


def other_source(before: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Tells whether two settings are of different sources."""
    before = _with_source_as_now(before, settings)
    return any(before.get(name) != settings.get(name) for name in (SOURCE, SOURCE_DIGEST))


def check_settings(output: Folder, settings: dict[str, Any], *, defaults: Mapping[str, Any], holds: str) -> None:
    """Writes ``settings.json`` where there is none, and otherwise checks that it says the same.

    Nothing is written while a setting is ``auto``, which is to be settled once for the whole run.

    Args:
        output: Folder of the result.
        settings: What the result depends on, as JSON's types.
        defaults: What settings are that an earlier version did not know.
        holds: What the folder holds, for the message.

    Raises:
        UserError: The result was made with other settings; names those that changed.
    """
    if not output.exists(SETTINGS_FILE):
        if AUTO not in settings.values():
            output.write_json(SETTINGS_FILE, settings)
        return
    if changed := changes(output.read_json(SETTINGS_FILE), settings, defaults):
        raise made_otherwise(output, holds, changed)


def made_otherwise(output: Folder, holds: str, changed: str) -> UserError:
    """Gives the error of a command whose output holds what was made with other settings.

    Args:
        output: The output.
        holds: What it holds.
        changed: What :func:`changes` says.

    Returns:
        The error, to be raised.
    """
    return UserError(
        f"{output.url}: holds {holds} made otherwise ({changed}); "
        "name another output, or use the model and the options it was made with"
    )


def changes(
    before: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Says which settings differ, by the options that set them; nothing where all are the same.

    Args:
        before: The settings then, perhaps of another version: what it did not know was at its default, and what only it
            knows is passed over.
        settings: The settings now; what is ``auto`` may be anything.
        defaults: What settings are that an earlier version did not know.

    Returns:
        What was then, and what is now.
    """
    return "; ".join(_changes(_with_source_as_now(before, settings), settings, defaults, ""))


def _changes(
    before: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any], within: str
) -> Iterator[str]:
    for key, value in settings.items():
        old = before.get(key, defaults.get(key))
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _changes(old, value, defaults.get(key) or {}, f"{within}{key}.")
        elif value in (old, AUTO):
            continue
        elif key != SOURCE_DIGEST:
            name = _NAMES.get(within + key, f"--{key.replace('_', '-')}")
            # Where an option has a default, none is what was typed.
            nothing = "not given" if defaults.get(key) is None else "none"
            yield f"{name}: then {_in_words(old, nothing)}, now {_in_words(value, nothing)}"
        elif before.get(SOURCE) == settings.get(SOURCE):
            yield f"source: {settings.get(SOURCE)} had something else in place of the ***"


def _in_words(value: object, nothing: str) -> str:
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "given" if value else "not given"
    return str(value.get("url", value) if isinstance(value, Mapping) else value)


def with_unknown(before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gives settings with those besides that only an earlier record has, which another version wrote."""
    both = dict(before)
    for key, value in settings.items():
        old = before.get(key)
        both[key] = with_unknown(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _with_source_as_now(before: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tells a source as now that an earlier version told in full, or with parts left out of which it kept no digest."""
    told, now = before.get(SOURCE), settings.get(SOURCE)
    if SOURCE_DIGEST in before or not isinstance(told, str) or not isinstance(now, str):
        return before
    if "***" not in told:
        return {**before, **source_settings(told)}
    if re.fullmatch(".*".join(map(re.escape, told.split("***"))), now):
        return {**before, SOURCE: now, SOURCE_DIGEST: settings.get(SOURCE_DIGEST)}
    return before


def option_defaults(options: type) -> dict[str, Any]:
    """Gives the defaults of a command's options, which settings are named after."""
    return {field.name: field.default for field in fields(options) if field.default is not MISSING}
