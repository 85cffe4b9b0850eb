"""What a scoring process is made of, without any model."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from grepr_core.decoding.images import Limits
from grepr_core.storage import Folder
from pipelines.running.workers import WORKER_BYTES
from pipelines.scoring import shard_scorer
from pipelines.scoring.shard_scorer import ShardScorer


@pytest.mark.parametrize(("device", "torch_threads"), [("cuda", 1), ("cpu", 16)])
def test_a_gpu_is_fed_by_many_threads_of_one_each(device: str, torch_threads: int, tmp_path: Any):
    job: Any = mock.MagicMock(device=device, threads=16, model_id="id", since=None, limits=Limits(), hang_timeout=300.0)
    job.output = Folder(str(tmp_path))
    with (
        mock.patch("torch.set_num_threads") as set_threads,
        mock.patch("grepr_core.bundles.bundle.load_bundle", return_value=SimpleNamespace(model_id="id")),
        mock.patch("grepr_core.scoring.scorer.Scorer") as scorer,
        mock.patch.object(shard_scorer, "check_precision"),
        mock.patch.object(shard_scorer, "Fetcher") as fetcher,
    ):
        ShardScorer(job)
    set_threads.assert_called_once_with(torch_threads)
    assert scorer.call_args.kwargs["decode_threads"] == 16
    ahead = {name: fetcher.call_args.kwargs.get(name) for name in ("threads", "ahead", "ahead_bytes")}
    if device == "cpu":
        assert not any(ahead.values())
    else:
        assert ahead["threads"] / 0.04 > 3000  # images a second, of which each takes 40 ms
        assert ahead["ahead"] > ahead["threads"]
        assert ShardScorer.at_once * ahead["ahead_bytes"] <= WORKER_BYTES // 4
