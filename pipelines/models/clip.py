"""Loading CLIP for a command, with an error that names its options."""

import pickle

from grepr_core.encoders.high_level import HighLevelEncoder, load_open_clip
from grepr_core.errors import UserError


def load_clip(architecture: str, pretrained: str | None, *, named: str, positions: bool = False) -> HighLevelEncoder:
    """Loads CLIP; see :func:`~grepr_core.encoders.high_level.load_open_clip`.

    Args:
        architecture: By open_clip's name.
        pretrained: Tag or local checkpoint.
        named: How the command's options name them, for the message.
        positions: Whether to keep the positional embedding.

    Returns:
        The encoder.

    Raises:
        UserError: It cannot be had.
    """
    try:
        return load_open_clip(architecture, pretrained, positions=positions)
    except pickle.UnpicklingError as error:
        raise UserError(f"{named}: not a checkpoint of tensors and plain values alone, so it is not opened") from error
    except Exception as error:  # PyTorch raises nearly every kind of exception on a file that is none of its own.
        raise UserError(
            f"{named} cannot be loaded: {error}; where it cannot be downloaded, name a local checkpoint, such as "
            "OpenAI's RN50.pt"
        ) from error
