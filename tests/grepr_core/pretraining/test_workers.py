"""The second stage on several workers, in processes that gloo joins: they find what one finds with all images."""

import multiprocessing
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from tests.grepr_core.pretraining.gloo_workers import GROUP, SIDE, group_contrast, outcome, work

IMAGES = 12
MODES = ("eval", "train")


def photos() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(IMAGES, 3, 1, 1, generator=rng) * torch.rand(IMAGES, 3, SIDE, SIDE, generator=rng)


def on_first_worker() -> Tensor:
    """The images in an order in which the first worker has both groups, and the others encode none of them."""
    images = photos()
    order = group_contrast("eval")(images).pseudo_labels.argsort()
    return images[torch.cat([order[:GROUP], order[-GROUP:], order[GROUP:-GROUP]])]


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each worker found."""
    folder, workers = tmp_path_factory.mktemp("workers"), request.param
    sizes = [IMAGES - 3 * (workers - 1), *[3] * (workers - 1)]
    batches = {f"{mode} mixed": photos().chunk(workers) for mode in MODES}
    batches |= {f"{mode} on first": on_first_worker().chunk(workers) for mode in MODES}
    batches |= {f"{mode} labelled": photos().chunk(workers) for mode in MODES}
    batches |= {f"{mode} uneven": photos().split(sizes) for mode in MODES}
    # Imported once, in the process from which the workers are forked.
    multiprocessing.set_forkserver_preload([work.__module__])
    start_processes(work, (workers, folder, batches), nprocs=workers, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(workers)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("images", ["mixed", "on first", "labelled"])
def test_workers_find_the_gradient_of_one(found: list[dict[str, Any]], mode: str, images: str):
    together = on_first_worker() if images == "on first" else photos()
    expected = outcome(group_contrast(mode, parts=len(found)), together, labelled=images == "labelled")
    assert all(gradient.abs().sum() > 0 for gradient in expected["gradients"].values())
    for worker in found:
        torch.testing.assert_close(worker[f"{mode} {images}"], expected)


@pytest.mark.parametrize("mode", MODES)
def test_workers_with_other_numbers_of_images_all_say_so(found: list[dict[str, Any]], mode: str):
    counts = str([IMAGES - 3 * (len(found) - 1), *[3] * (len(found) - 1)])
    for worker in found:
        assert worker[f"{mode} uneven"] == f"the workers have {counts} images of a batch; each must have as many"
