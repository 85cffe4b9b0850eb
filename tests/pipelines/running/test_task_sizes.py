import pytest

from pipelines.running.task_sizes import task_size, task_sizes


@pytest.mark.parametrize(
    ("shards", "workers"), [(0, 3), (1, 1), (1, 64), (7, 2), (9_999, 5), (100_000, 100), (1_000_000, 5_000)]
)
def test_tasks_hold_every_shard_once_and_never_grow(shards: int, workers: int):
    sizes = list(task_sizes(shards, workers))
    assert sum(sizes) == shards
    assert all(size >= 1 for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2 * workers :] == [1] * min(2 * workers, len(sizes))


def test_few_shards_are_handed_out_one_by_one():
    assert set(task_sizes(10_000, 1)) == {1}


def test_many_shards_make_little_more_tasks_than_their_limit():
    sizes = list(task_sizes(1_000_000, 1_000))
    assert sizes[0] == 100
    assert len(sizes) < 40_000


def test_no_process_takes_more_than_its_part_of_what_is_left():
    assert task_size(left=8_000, shards=1_000_000, workers=200) == 10
    assert task_size(left=8_000, shards=1_000_000, workers=2_000) == 1
