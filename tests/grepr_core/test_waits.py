import contextlib
from collections.abc import Callable

import pytest
import torch

from tests.grepr_core.waits import Waits


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.inference_mode])
def test_the_fake_sees_what_makes_a_processor_wait(mode: Callable[[], contextlib.AbstractContextManager[None]]):
    value = torch.ones(2, device="meta")
    with mode(), Waits() as waits:
        float(value[0]), bool(value[0]), value.nonzero(), torch.zeros(2).to("meta"), value.new_tensor([1.0])
        torch.tensor([1.0], device="meta"), torch.zeros(2).to("meta", non_blocking=True), value.new_zeros(3)
    assert waits.seen == ["item", "item", "nonzero", "copy from cpu to meta", "new_tensor", "tensor"]
