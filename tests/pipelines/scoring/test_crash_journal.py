from pathlib import Path

import pytest

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder
from pipelines.scoring.crash_journal import CrashJournal, crash_journal


def test_an_undisturbed_shard_leaves_nothing(tmp_path: Path):
    folder = Folder(str(tmp_path))
    with crash_journal(folder, 7) as journal:
        assert not journal.suspicious
        assert not journal.convicted
        assert folder.names()
    assert not folder.names()


def test_an_exception_is_no_crash(tmp_path: Path):
    folder = Folder(str(tmp_path))
    with pytest.raises(OSError, match="full"), crash_journal(folder, 7):
        raise OSError("disk full")
    assert not folder.names()


def test_the_image_at_which_the_process_died_twice_is_found(tmp_path: Path):
    folder = Folder(str(tmp_path))
    assert not CrashJournal(folder, 7).suspicious  # a process that dies leaves its journal open
    second = CrashJournal(folder, 7)
    assert second.suspicious
    for row in range(4):
        second.begin_image(row)
    third = CrashJournal(folder, 7)
    assert third.convicted == {}  # once may be chance
    for row in range(4):
        third.begin_image(row)
    fourth = CrashJournal(folder, 7)
    assert fourth.convicted == {3: Status.CRASHED}
    fourth.begin_image(9)
    fifth = CrashJournal(folder, 7)
    fifth.begin_image(9)
    assert CrashJournal(folder, 7).convicted == {3: Status.CRASHED, 9: Status.CRASHED}


def test_deaths_between_images_convict_nobody(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for _ in range(5):
        assert CrashJournal(folder, 7).convicted == {}


def test_an_image_that_hangs_is_found_at_once(tmp_path: Path):
    folder = Folder(str(tmp_path))
    CrashJournal(folder, 7)
    second = CrashJournal(folder, 7)
    second.begin_image(5)
    second.convict_hung(5)
    third = CrashJournal(folder, 7)
    assert third.convicted == {5: Status.TIMEOUT}
    third.begin_image(6)
    assert CrashJournal(folder, 7).convicted == {5: Status.TIMEOUT}


def test_shards_are_apart(tmp_path: Path):
    folder = Folder(str(tmp_path))
    CrashJournal(folder, 7).begin_image(1)
    assert not CrashJournal(folder, 8).suspicious
