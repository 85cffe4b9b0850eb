from pathlib import Path
from unittest import mock

import pytest

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder
from pipelines.scoring.crash_journal import (
    DEATHS_AN_IMAGE,
    GROUP,
    MOST_DEATHS,
    CrashJournal,
    ShardDeadlyError,
    crash_journal,
)

ROWS = range(40)


def live(folder: Folder, killers: dict[int, str], *, writes: list[int] | None = None) -> CrashJournal | None:
    """What a process does with a shard of 40 images, some of which kill it or keep it busy; None where it died."""
    with mock.patch.object(folder, "write", wraps=folder.write) as write:
        journal = CrashJournal(folder, 7)
        journal.begin()
        died = False
        if not journal.suspicious:
            if killers:
                died = True
                if killers[min(killers)] == "hang":
                    journal.hangs(min(killers))
        else:
            for group in journal.groups([row for row in ROWS if row not in journal.convicted]):
                if guilty := sorted(set(group) & killers.keys()):
                    died = True
                    if killers[guilty[0]] == "hang":
                        journal.hangs(group[-1])
                    break
    if writes is not None:
        writes.append(write.call_count)
    return None if died else journal


def find(folder: Folder, killers: dict[int, str]) -> tuple[CrashJournal, int]:
    """Lets processes die until one comes through; gives its journal and the number of deaths."""
    for deaths in range(100):
        if (journal := live(folder, killers)) is not None:
            return journal, deaths
    raise AssertionError("no process came through")


def test_an_undisturbed_shard_leaves_nothing(tmp_path: Path):
    folder = Folder(str(tmp_path))
    with crash_journal(folder, 7) as journal:
        assert not folder.names(), "a shard that is only being read ahead is not suspected"
        journal.begin()
        assert not journal.suspicious
        assert not journal.convicted
        assert folder.names()
    assert not folder.names()


def test_an_exception_is_no_crash(tmp_path: Path):
    folder = Folder(str(tmp_path))

    def score() -> None:
        with crash_journal(folder, 7) as journal:
            journal.begin()
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        score()
    assert not folder.names()


def test_what_was_found_is_kept_where_the_shard_cannot_be_written(tmp_path: Path):
    folder = Folder(str(tmp_path))
    find(folder, {3: "kill"})

    def write() -> None:
        with crash_journal(folder, 7) as journal:
            journal.begin()
            raise OSError("disk full")

    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            write()
    journal = CrashJournal(folder, 7)
    assert journal.convicted == {3: Status.CRASHED}
    journal.begin()  # none of these attempts was a death
    journal.close()
    assert not folder.names()


def test_after_one_death_a_shard_is_tried_as_it_is(tmp_path: Path):
    folder = Folder(str(tmp_path))
    CrashJournal(folder, 7).begin()  # a process that dies leaves its note behind
    assert not CrashJournal(folder, 7).suspicious
    writes: list[int] = []
    assert live(folder, {}, writes=writes) is not None
    assert writes == [1]


def test_from_the_second_death_on_a_note_tells_of_many_images(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for _ in range(2):
        CrashJournal(folder, 7).begin()
    writes: list[int] = []
    journal = live(folder, {}, writes=writes)
    assert journal is not None
    assert journal.suspicious
    assert writes == [1 + -(-len(ROWS) // GROUP)]


def test_images_that_kill_are_found(tmp_path: Path):
    journal, deaths = find(Folder(str(tmp_path)), {3: "kill"})
    assert journal.convicted == {3: Status.CRASHED}
    assert deaths == 4
    journal.close()
    journal, _ = find(Folder(str(tmp_path)), {3: "kill", 4: "kill", 39: "kill"})
    assert journal.convicted == dict.fromkeys((3, 4, 39), Status.CRASHED)


def test_a_machine_that_is_taken_away_three_times_convicts_nobody(tmp_path: Path):
    folder = Folder(str(tmp_path))
    assert live(folder, {5: "kill"}) is None
    assert live(folder, {5: "kill"}) is None
    assert live(folder, {5: "kill"}) is None
    journal = live(folder, {})
    assert journal is not None
    assert journal.convicted == {}


def test_deaths_between_images_convict_nobody(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for _ in range(5):
        journal = CrashJournal(folder, 7)
        journal.begin()
        assert journal.convicted == {}


def test_an_image_that_hangs_is_found_at_once(tmp_path: Path):
    journal, deaths = find(Folder(str(tmp_path)), {5: "hang"})
    assert journal.convicted == {5: Status.TIMEOUT}
    assert deaths == 2
    journal.close()
    # On a GPU the image that was handed over last need not be the culprit.
    folder = Folder(str(tmp_path))
    first = CrashJournal(folder, 7)
    first.begin()
    first.hangs(9)
    journal, _ = find(folder, {5: "hang"})
    assert journal.convicted == {5: Status.TIMEOUT}


def test_images_that_kill_and_images_that_hang_are_told_apart(tmp_path: Path):
    journal, _ = find(Folder(str(tmp_path)), {3: "kill", 11: "hang", 21: "kill"})
    assert journal.convicted == {3: Status.CRASHED, 11: Status.TIMEOUT, 21: Status.CRASHED}


def test_a_shard_that_kills_for_no_image_is_given_up(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for _ in range(MOST_DEATHS + 1):
        CrashJournal(folder, 7).begin()
    with pytest.raises(ShardDeadlyError, match="9 processes died"):
        CrashJournal(folder, 7).begin()


def test_no_number_of_images_that_kill_ends_the_search(tmp_path: Path):
    killers = dict.fromkeys(ROWS, "kill")
    journal, deaths = find(Folder(str(tmp_path)), killers)
    assert journal.convicted.keys() == killers.keys()
    assert deaths <= MOST_DEATHS + DEATHS_AN_IMAGE * len(killers)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"image": 3, "deaths": {"3": 1}, "hung": []}'])
def test_a_note_that_cannot_be_read_is_a_death(tmp_path: Path, note: bytes):
    folder = Folder(str(tmp_path))
    folder.write("shard=000007.json", note)
    CrashJournal(folder, 7).begin()
    assert CrashJournal(folder, 7).suspicious


def test_shards_are_apart(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for _ in range(3):
        CrashJournal(folder, 7).begin()
    assert not CrashJournal(folder, 8).suspicious
