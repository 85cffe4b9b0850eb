"""Checkpoints of training: one safetensors file each, with all that is needed to go on exactly.

Ray Train's own checkpoints are not used: they are not kept where training runs in this process, their index is
overwritten in place, so that a crash may leave it unreadable, and only the same version of Ray reads it. These appear
whole or not at all, and a run may be continued with another number of workers.
"""

import json
import re
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from grepr_core.storage import Folder, from_record

#: Older checkpoints are deleted.
KEPT = 2
_NAME = re.compile(r"step=(\d{9})\.safetensors")
_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Position:
    """How far training has come. Everything that is drawn is drawn from seed and position alone.

    Attributes:
        epoch: The epoch that goes on, from 0.
        step: Steps done within it.
        total: Steps done in all.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0


def save_checkpoint(folder: Folder, position: Position, module: nn.Module, optimizer: Optimizer) -> None:
    """Writes a checkpoint and deletes all but the newest two.

    Args:
        folder: Of the checkpoints.
        position: How far training has come.
        module: The module that is trained, not wrapped.
        optimizer: Of its parameters.
    """
    tensors = {_MODEL + name: tensor for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{name}": tensor for name, tensor in state.items()}
    content = save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"position": json.dumps(asdict(position))}
    )
    folder.write(f"step={position.total:09d}.safetensors", content)
    for name in _names(folder)[:-KEPT]:
        folder.delete(name)


def load_checkpoint(folder: Folder, module: nn.Module, optimizer: Optimizer) -> Position:
    """Restores the newest checkpoint.

    Args:
        folder: Of the checkpoints.
        module: Gets the weights.
        optimizer: Of its parameters; gets the moments.

    Returns:
        How far training has come; the beginning where there is no checkpoint.
    """
    names = _names(folder)
    if not names:
        return Position()
    content = folder.read(names[-1])
    tensors = load(content)
    model = {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
    module.load_state_dict(model)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split(".")
            parameter = parameters[int(index)]
            optimizer.state[parameter][key] = _like(parameter, tensor)
    return _position(content)


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Gives a moment the memory layout of its parameter; a counter stays as it is."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _names(folder: Folder) -> list[str]:
    return [name for name in folder.names() if _NAME.fullmatch(name)]


def _position(content: bytes) -> Position:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return from_record(Position, json.loads(header["__metadata__"]["position"]))
