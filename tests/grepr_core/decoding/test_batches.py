import random
from collections import Counter

from grepr_core.decoding.batches import WAITING_BATCHES, group_by_shape

Item = tuple[int, int]  # number and shape, which has as many pixels


def groups_of(items: list[Item], budget: int) -> list[list[Item]]:
    return list(group_by_shape(items, shape=lambda item: item[1], pixels=lambda item: item[1], budget=budget))


def many_items(shapes: int) -> list[Item]:
    generator = random.Random(0)
    return [(number, generator.randint(1, shapes)) for number in range(500)]


def test_every_item_comes_once_with_its_like_in_order():
    groups = groups_of(many_items(9), budget=20)
    assert Counter(item for group in groups for item in group) == Counter(many_items(9))
    assert any(len(group) > 1 for group in groups)
    for group in groups:
        assert len({shape for _, shape in group}) == 1
        assert group == sorted(group)


def test_a_group_fills_the_budget_and_no_more():
    for group in groups_of(many_items(9), budget=20):
        assert sum(shape for _, shape in group[:-1]) < 20
    assert [len(group) for group in groups_of([(i, 5) for i in range(9)], budget=20)] == [4, 4, 1]


def test_an_item_beyond_the_budget_goes_alone_at_once():
    taken = []

    def items():
        for item in [(0, 3), (1, 50), (2, 3)]:
            taken.append(item)
            yield item

    groups = group_by_shape(items(), shape=lambda item: item[1], pixels=lambda item: item[1], budget=20)
    assert next(groups) == [(1, 50)]
    assert len(taken) == 2


def test_what_waits_is_bounded_however_many_sizes_there_are():
    waiting = most = 0

    def items():
        nonlocal waiting, most
        for item in many_items(19):
            waiting += item[1]
            most = max(most, waiting)
            yield item

    for group in group_by_shape(items(), shape=lambda item: item[1], pixels=lambda item: item[1], budget=20):
        waiting -= sum(shape for _, shape in group)
    assert waiting == 0
    assert 20 < most <= (WAITING_BATCHES + 1) * 20
