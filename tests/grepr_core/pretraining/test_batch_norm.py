import copy

import pytest
import torch
from torch import Tensor, nn

from grepr_core.pretraining.batch_norm import MOMENTUM, RunningStatistics


def micro_batches(step: int, count: int) -> Tensor:
    return torch.randn(count, 5, 2, generator=torch.Generator().manual_seed(step)) * (step + 2) + step


def test_running_statistics_take_the_mean_over_the_forward_passes_of_a_step():
    norm = nn.BatchNorm1d(2).train()
    module = nn.Sequential(norm, nn.BatchNorm1d(2).eval())
    statistics = RunningStatistics(module)
    mean, variance = torch.zeros(2), torch.ones(2)
    for step in range(3):
        parts = micro_batches(step, 2)
        with statistics.step():
            for part in parts:
                module(part)
        mean = 0.9 * mean + 0.1 * parts.mean(dim=1).mean(dim=0)
        variance = 0.9 * variance + 0.1 * parts.var(dim=1, correction=1).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


@pytest.mark.parametrize("passes", [1, 2, 7])
def test_the_mean_is_that_of_pytorch_to_the_bit_and_steps_are_counted(passes: int):
    norm = nn.BatchNorm1d(2).train()
    reference = copy.deepcopy(norm)
    reference.momentum = None  # the mean of all forward passes since the last reset
    statistics = RunningStatistics(norm)
    for step in range(3):
        before = reference.running_mean.clone(), reference.running_var.clone()
        reference.reset_running_stats()
        with statistics.step():
            for part in micro_batches(step, passes):
                assert torch.equal(norm(part), reference(part))
        for buffer, old in zip((reference.running_mean, reference.running_var), before, strict=True):
            buffer.copy_(old.lerp(buffer, MOMENTUM))
    assert torch.equal(norm.running_mean, reference.running_mean)
    assert torch.equal(norm.running_var, reference.running_var)
    assert norm.num_batches_tracked == 3
