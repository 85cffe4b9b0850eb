"""Running statistics of batch normalisation that do not depend on how many workers share a batch."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Weight of a step's statistics in the running ones.
MOMENTUM = 0.1


class RunningStatistics:
    """Updates the running statistics of a module once a step, with the mean over the step's micro-batches.

    PyTorch updates them at every forward pass, so that one worker with two micro-batches and two workers with one each
    come to different statistics.

    Args:
        module: In the mode it is trained in; batch normalisation in evaluation mode is left alone.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
        self._norms = [norm for norm in norms if norm.track_running_stats]
        self._statistics = [b for norm in self._norms for b in (norm.running_mean, norm.running_var) if b is not None]
        self._counts = [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]
        self._passes = 0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Takes in the module's forward passes of one step, of all workers; all of them must enter and leave it."""
        if not self._norms:
            yield
            return
        before = torch.cat(self._statistics)
        self._passes = 0
        hook = self._module.register_forward_pre_hook(lambda *_: self._next_pass())
        try:
            yield
        finally:
            hook.remove()
        mean = torch.cat(self._statistics)
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        lengths = [len(tensor) for tensor in self._statistics]
        for tensor, part in zip(self._statistics, before.lerp(mean, MOMENTUM).split_with_sizes(lengths), strict=True):
            tensor.copy_(part)
        if self._passes > 1:
            for count in self._counts:
                count.sub_(self._passes - 1)

    def _next_pass(self) -> None:
        """Prepares for a forward pass of the step.

        The k-th has the weight 1 / k in the mean so far, and the first takes the place of what was there. PyTorch
        would take the mean by itself where a momentum is None, but it reads the count from the device, and waits for
        the device, in every layer.
        """
        self._passes += 1
        for norm in self._norms:
            norm.momentum = 1 / self._passes
