"""What a result depends on, kept beside it so that no other command goes on with it."""

from typing import Any

from grepr_core.errors import UserError
from grepr_core.storage import Folder

SETTINGS_FILE = "settings.json"
#: A setting that the machines decide.
AUTO = "auto"


def check_settings(output: Folder, settings: dict[str, Any], *, holds: str) -> None:
    """Writes ``settings.json`` where there is none, and otherwise checks that it says the same.

    Nothing is written while a setting is ``auto``, which is to be settled once for the whole run.

    Args:
        output: Folder of the result.
        settings: What the result depends on, as JSON's types.
        holds: What the folder holds, for the message.

    Raises:
        UserError: The result was made with other settings; names those that changed.
    """
    if not output.exists(SETTINGS_FILE):
        if AUTO not in settings.values():
            output.write_json(SETTINGS_FILE, settings)
        return
    before = output.read_json(SETTINGS_FILE)
    if changed := changes(before, settings):
        raise UserError(
            f"{output.url}: holds {holds} made otherwise ({changed}); "
            "name another output, or use the options it was made with"
        )


def changes(before: dict[str, Any], settings: dict[str, Any]) -> str:
    """Says which settings differ; nothing where all are the same."""
    return "; ".join(
        f"{key} {before.get(key)!r} became {value!r}" for key, value in settings.items() if before.get(key) != value
    )
