"""The journal of ratings: nothing that was kept is lost, and the table says the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.sources import Entry
from pipelines.models.rated_features import read_ratings
from pipelines.rating.journal import Photo, RatingJournal, Slot, journal_path, sequence
from tests.pipelines.rating.full_disk import files_up_to

SETTINGS = {"source": "/photos", "images": "/photos"}


def new_journal(table: Path, photos: int, repeats: int = 0) -> RatingJournal:
    journal = RatingJournal(table)
    entries = [Photo(f"{i}.jpg", Entry(f"/photos/{i}.jpg")) for i in range(photos)]
    journal.add_photos(SETTINGS, entries, repeats)
    return journal


@pytest.mark.parametrize(("photos", "repeats"), [(50, 5), (7, 3), (2, 1), (1, 0), (20, 10)])
def test_every_photo_is_shown_and_some_again_long_after(photos: int, repeats: int):
    slots = list(sequence(range(100, 100 + photos), repeats))
    assert [slot.photo for slot in slots if not slot.repeat] == list(range(100, 100 + photos))
    again = [slot.photo for slot in slots if slot.repeat]
    assert len(set(again)) == len(again) == repeats
    for photo in again:
        assert slots.index(Slot(photo, repeat=True)) - slots.index(Slot(photo)) > photos // 2


def test_more_repeats_than_half_of_the_photos_are_not_to_be_had():
    assert sum(slot.repeat for slot in sequence(range(5), 5)) == 2


def test_the_table_has_mean_deviation_and_count(tmp_path: Path):
    table = tmp_path / "ratings.csv"
    journal = new_journal(table, 3)
    for slot, rating in enumerate([1, None, 4]):
        assert journal.rate("Ann", slot, rating)
    assert table.read_text() == "image,mos\n0.jpg,1\n2.jpg,4\n"
    journal.rate("Ben", 0, 2)
    read = read_ratings(str(table), "/photos")
    assert read.to_dict("list") == {
        "image": ["0.jpg", "2.jpg"],
        "mos": [1.5, 4],
        "std": [pytest.approx(0.5**0.5, rel=1e-5), 0],
        "count": [2, 1],
    }
    assert journal.rated() == 2
    assert journal.raters() == ["Ann", "Ben"]


def test_undo_goes_back_step_by_step(tmp_path: Path):
    journal = new_journal(tmp_path / "ratings.csv", 3)
    journal.rate("Ann", 0, 5)
    assert journal.last("Ann") == (0, 5)
    journal.rate("Ann", 1, None)
    assert journal.last("Ann") == (1, None)
    assert journal.upcoming("Ann") == [2]
    assert not journal.undo("Ann", 0)  # not the last
    assert not journal.undo("Ben", 1)
    assert journal.undo("Ann", 1)
    assert journal.undo("Ann", 0)
    assert journal.last("Ann") is None
    assert journal.upcoming("Ann") == [0, 1, 2]
    assert not journal.raters()
    journal.rate("Ann", 0, 3)
    assert not journal.rate("Ann", 0, 4)  # decided already
    assert (tmp_path / "ratings.csv").read_text() == "image,mos\n0.jpg,3\n"


def test_consistency_compares_both_ratings_of_a_photo(tmp_path: Path):
    journal = new_journal(tmp_path / "ratings.csv", 8, repeats=3)
    first = {0: 2, 1: 3, 2: 5}
    again = dict(zip([slot.photo for slot in journal.slots if slot.repeat], (2, 5, 5), strict=True))
    for number, slot in enumerate(journal.slots):
        journal.rate("Ann", number, again[slot.photo] if slot.repeat else first.get(slot.photo, 1))
    found = journal.consistency("Ann")
    assert (found.photos, found.same) == (3, 2)
    assert found.noise == pytest.approx((2**2 / 3 / 2) ** 0.5)
    assert journal.consistency("Ben").photos == 0
    counts = pd.read_csv(tmp_path / "ratings.csv")["count"]
    assert counts.sum() == len(journal.slots)


def test_reopened_it_goes_on_and_takes_more_photos(tmp_path: Path):
    table = tmp_path / "ratings.csv"
    journal = new_journal(table, 2, repeats=1)
    journal.rate("Ann", 0, 5)
    journal.close()
    table.unlink()  # made anew from the journal
    again = RatingJournal(table)
    assert table.read_text() == "image,mos\n0.jpg,5\n"
    assert again.settings == SETTINGS
    assert again.upcoming("Ann") == [1, 2]
    again.add_photos(SETTINGS, [Photo("in a tar", Entry("/a.tar", 10, None, "x.jpg", 512))], 0)
    again.rate("Ann", 3, 2)
    again.close()
    assert RatingJournal(table).photos == again.photos
    assert table.read_text() == "image,mos,member,offset,size\n0.jpg,5,,,\nin a tar,2,x.jpg,512,10\n"


def test_names_of_every_kind_come_back(tmp_path: Path):
    name = 'a,"b"\n\u202e<script> ü.jpg'
    journal = RatingJournal(tmp_path / "ratings.csv")
    journal.add_photos(SETTINGS, [Photo(name, Entry("/photos/" + name)), Photo("b", Entry("/photos/b"))], 0)
    journal.rate("Zoë", 0, 1)
    journal.rate("Zoë", 1, 2)
    journal.close()
    assert RatingJournal(tmp_path / "ratings.csv").raters() == ["Zoë"]
    assert read_ratings(str(tmp_path / "ratings.csv"), "/photos")["image"].tolist() == [name, "b"]


def test_one_process_at_a_time(tmp_path: Path):
    journal = new_journal(tmp_path / "ratings.csv", 1)
    with pytest.raises(UserError, match="another 'grepr label'"):
        RatingJournal(tmp_path / "ratings.csv")
    journal.close()
    RatingJournal(tmp_path / "ratings.csv").close()


def test_a_table_of_other_origin_is_left_alone(tmp_path: Path):
    (tmp_path / "ratings.csv").write_text("image,mos\na,1\n")
    with pytest.raises(UserError, match="no journal"):
        RatingJournal(tmp_path / "ratings.csv")
    assert (tmp_path / "ratings.csv").read_text() == "image,mos\na,1\n"


@pytest.mark.parametrize("line", [b"{", b'{"type": "undo", "rater": "Ann", "slot": 0}', b"[]", b"\xff"])
def test_a_damaged_journal_is_refused(line: bytes, tmp_path: Path):
    table = tmp_path / "ratings.csv"
    new_journal(table, 1).close()
    path = journal_path(table)
    path.write_bytes(path.read_bytes() + line + b"\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match="line 2: damaged"):
        RatingJournal(table)
    assert path.read_bytes() == before


def test_what_a_full_disk_does_not_take_can_be_tried_again(tmp_path: Path):
    table = tmp_path / "ratings.csv"
    journal = new_journal(table, 3)
    journal.rate("Ann", 0, 4)
    whole = journal.path.read_bytes()
    with files_up_to(len(whole) + 20), pytest.raises(OSError, match="File too large"):
        journal.rate("Ann", 1, 5)
    assert journal.path.read_bytes() == whole
    assert journal.upcoming("Ann") == [1, 2]
    # Where there is room for the rating, but not for the table, the rating is kept, and the table written later.
    with mock.patch.object(Folder, "write", side_effect=OSError("full")), pytest.raises(OSError, match="full"):
        journal.rate("Ann", 1, 5)
    assert not journal.rate("Ann", 1, 5)
    journal.close()
    again = RatingJournal(table)
    assert again.last("Ann") == (1, 5)
    assert table.read_text() == "image,mos\n0.jpg,4\n1.jpg,5\n"


def test_a_line_that_was_not_finished_is_dropped(tmp_path: Path):
    table = tmp_path / "ratings.csv"
    journal = new_journal(table, 3)
    journal.rate("Ann", 0, 4)
    journal.close()
    path = journal_path(table)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "rating", "rater": "Ann", "sl')
    again = RatingJournal(table)
    assert again.upcoming("Ann") == [1, 2]
    again.rate("Ann", 1, 5)
    again.close()
    assert path.read_bytes().startswith(whole)
    assert json.loads(path.read_bytes().splitlines()[-1])["rating"] == 5


RATE_WITHOUT_END = """
import sys
from pathlib import Path
from pipelines.rating.journal import RatingJournal
journal = RatingJournal(Path(sys.argv[1]))
for slot in journal.upcoming("Ann"):
    journal.rate("Ann", slot, slot % 5 + 1)
    print(slot, flush=True)
"""


def test_a_killed_process_loses_no_rating(tmp_path: Path):
    table = tmp_path / "ratings.csv"
    new_journal(table, 3000).close()
    kept = -1
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", RATE_WITHOUT_END, str(table)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(40):
            kept = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        kept = max([kept, *map(int, process.stdout.read().split())])
        process.wait()
        journal = RatingJournal(table)
        rest = journal.upcoming("Ann")
        journal.close()
        # One may have been written whose word did not get out.
        assert rest[0] in (kept + 1, kept + 2)
        assert rest == list(range(rest[0], 3000))
        ratings = read_ratings(str(table), "/photos")["mos"].tolist()
        assert ratings == [slot % 5 + 1 for slot in range(rest[0])]
