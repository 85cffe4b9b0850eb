import copy

import numpy as np
import pytest
import torch

import grepr
from tests.lake import SMALL_VIEW
from tests.made_photos import photo


@pytest.fixture(scope="module")
def metric() -> grepr.Metric:
    return grepr.Metric(device="cpu", max_pixels=SMALL_VIEW)


def test_scores_are_those_of_the_images(metric: grepr.Metric):
    photos = [photo(i) for i in range(3)]
    batch = torch.from_numpy(np.stack([np.asarray(one) for one in photos])).permute(0, 3, 1, 2)
    scores = metric(batch / 255)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx([metric.scorer.score(one).score for one in photos])
    torch.testing.assert_close(metric(batch), scores)
    torch.testing.assert_close(torch.nn.Sequential(copy.deepcopy(metric))(batch), scores)
    assert metric(batch[:0]).shape == (0,)
    over = batch[:1] / 255 + torch.where(batch[:1] == batch[:1].max(), 0.05, 0) + 1 - batch[:1].max() / 255
    assert over.max() > 1
    torch.testing.assert_close(metric(over), metric(over.clamp(0, 1)))
    assert not metric.lower_better


def test_what_has_no_score_is_refused(metric: grepr.Metric):
    with pytest.raises(ValueError, match="N x 3 x H x W, not 3 x 40 x 40"):
        metric(torch.zeros(3, 40, 40))
    with pytest.raises(ValueError, match="image 0 has no score: 8 x 8 pixels"):
        metric(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="from -1 to -1; divide"):
        metric(torch.full((1, 3, 40, 40), -1.0))
