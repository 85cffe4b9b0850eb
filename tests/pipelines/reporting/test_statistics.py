"""The statistics of a report beside those of pandas and SciPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import image_id
from pipelines.options import FilterOptions
from pipelines.reporting.comparison import Comparison, compare
from pipelines.reporting.copies import Copies, find_copies
from pipelines.reporting.database import load_scores, open_database
from pipelines.reporting.failures import FailedImage, list_failures
from pipelines.reporting.statistics import QUANTILES, Statistics, compute, histogram, score_edges
from pipelines.reporting.threshold import MOST_STEPS, Threshold, count_kept, nearest
from pipelines.selection.filter import run as select
from tests.score_rows import random_rows, score_row, write_run

Rows = list[dict[str, Any]]


def statistics(tmp_path: Path, rows: Rows) -> Statistics:
    with open_database() as connection:
        load_scores(connection, "now", Folder(str(write_run(tmp_path / "run", rows))))
        return compute(connection, "now", most=6, between=20)


def comparison(tmp_path: Path, now: Rows, before: Rows) -> Comparison:
    with open_database() as connection:
        load_scores(connection, "now", Folder(str(write_run(tmp_path / "now", now))))
        load_scores(connection, "before", Folder(str(write_run(tmp_path / "before", before))))
        return compare(connection, "now", "before", photos=3)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return random_rows(2000)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> Statistics:
    return statistics(tmp_path_factory.mktemp("run"), rows)


@pytest.fixture(scope="module")
def frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"score": "float64"})


def test_counts_and_quantiles(computed: Statistics, frame: pd.DataFrame):
    assert computed.images == len(frame)
    assert computed.scored == frame["score"].count()
    assert {s.status: s.images for s in computed.statuses} == frame["status"].value_counts().to_dict()
    assert computed.statuses[0].status == "scored"
    assert computed.overall.mean == pytest.approx(frame["score"].mean(), abs=1e-6)
    np.testing.assert_allclose(computed.overall.quantiles, frame["score"].quantile(QUANTILES), atol=1e-6)
    assert computed.interval_width == pytest.approx(0.2, abs=1e-6)
    assert computed.bytes == frame["bytes"].sum()
    assert computed.scaled_down == (frame["scored_pixels"] < frame["width"] * frame["height"]).sum()


def test_histogram_holds_every_score_in_its_bar(computed: Statistics, frame: pd.DataFrame):
    found = computed.histogram
    assert found is not None
    expected, _ = np.histogram(frame["score"].dropna(), found.edges)
    np.testing.assert_array_equal(found.counts, expected)
    assert found.counts.sum() + found.below + found.above == computed.scored
    np.testing.assert_allclose(np.diff(found.edges), found.edges[1] - found.edges[0])


def test_reasons_that_differ_by_numbers_alone_are_one(tmp_path: Path):
    rows = [score_row(f"/a/{i}.jpg", None, error=f"{i + 2:,} bytes, the limit is 1") for i in range(2000, 2030)]
    rows += [score_row(f"/b/{i}.jpg", None, error="other " * (i + 1)) for i in range(8)]
    (missing,) = statistics(tmp_path, rows).statuses
    assert missing.images == 38
    assert missing.reasons[0].images == 30
    assert "bytes, the limit is 1" in missing.reasons[0].error
    assert missing.other_reasons == 38 - sum(reason.images for reason in missing.reasons) > 0


def test_reasons_are_told_of_all_of_the_lowest_tenth_and_by_folder(tmp_path: Path):
    rows = [score_row(f"s3://lake/{'ab'[i % 2]}/{i:03d}.jpg", i / 100, not_photo=False) for i in range(100)]
    for i in range(8):
        rows[2 * i]["reason"] = "blur" if i < 6 else "noise"
    found = statistics(tmp_path, rows)
    assert found.told == 100
    assert list(found.overall.reasons.items()) == [("blur", 6), ("noise", 2)]
    assert found.lowest is not None
    assert (found.lowest.images, found.lowest.reasons) == (10, {"blur": 5})
    assert {group.name[-1]: group.reasons for group in found.folders.groups} == {"a": {"blur": 6, "noise": 2}, "b": {}}
    assert [photo.reason for photo in found.worst[:2]] == ["blur", None]
    untold = comparison(tmp_path, rows, random_rows(10))
    assert (untold.told, untold.reasons) == (0, {})


def test_photos_lie_all_along_the_scores_between_the_worst_and_the_best(computed: Statistics, frame: pd.DataFrame):
    scores = [photo.score for photo in computed.between]
    assert scores == sorted(scores)
    low, high = computed.worst[-1].score, computed.best[-1].score
    assert low < scores[0]
    assert scores[-1] < high
    # One of each step that has any, and nearly every step of so many photographs does.
    steps = np.floor((np.array(scores) - low) / (high - low) * 20)
    assert len(set(steps)) == len(steps) >= 18
    shown = {photo.image_id for photo in computed.between + computed.worst + computed.best}
    assert len(shown) == len(computed.between) + 12
    assert shown <= set(frame["image_id"])


def test_the_worst_and_the_best(computed: Statistics, frame: pd.DataFrame):
    scored = frame.dropna(subset="score").sort_values("score")
    assert [photo.uri for photo in computed.worst] == scored["uri"].head(6).to_list()
    assert [photo.uri for photo in computed.best] == scored["uri"].tail(6).to_list()[::-1]
    row = scored.iloc[0]
    assert (computed.worst[0].image_id, computed.worst[0].width) == (row["image_id"], row["width"])


def test_few_photos_are_shown_once(tmp_path: Path):
    found = statistics(tmp_path, [score_row(f"/a/{i}.jpg", i / 10) for i in range(5)])
    assert [photo.uri for photo in found.worst + found.best] == [f"/a/{i}.jpg" for i in (0, 1, 2, 4, 3)]
    assert found.between == []


def test_folders_and_sizes(computed: Statistics, frame: pd.DataFrame):
    assert computed.folders.root == "s3://lake/photos"
    by_folder = frame.groupby(frame["uri"].str.rsplit("/", n=1).str[0])["score"]
    found = {group.name: group for group in computed.folders.groups}
    assert found.keys() == by_folder.groups.keys()
    for name, expected in by_folder:
        assert (found[name].images, found[name].scored) == (len(expected), expected.count())
        np.testing.assert_allclose(found[name].quantiles, expected.quantile(QUANTILES), atol=1e-6)
    medians = [group.median for group in computed.folders.groups]
    assert medians == sorted(medians)
    sizes = {group.name: group.images for group in computed.sizes}
    widths = frame["width"].value_counts()
    assert list(sizes) == ["under 0.3 megapixels", "1 to 3", "8 to 16"]
    assert list(sizes.values()) == [widths[400], widths[1600], widths[4000]]


@pytest.mark.parametrize(
    ("uri", "root", "names", "pooled"),
    [
        # As deep as the folders stay few.
        (lambda i: f"/l/{i % 2}/{i % 6}/{i}.jpg", "/l", {f"/l/{i % 2}/{i}" for i in range(6)}, 0),
        (lambda i: f"/l/{i % 2}/{i % 90}/{i}.jpg", "/l", {"/l/0", "/l/1"}, 0),
        # One folder of all would say nothing; the largest of many do.
        (lambda i: f"/l/{i % 90}/{i}.jpg", "/l", {"/l/0", "/l/1", "/l/29"}, 66),
        (lambda i: f"/l/{i}.jpg", "/l", {"/l"}, 0),
    ],
)
def test_folders_are_told_at_a_level_that_says_something(
    tmp_path: Path, uri: Callable[[int], str], root: str, names: set[str], pooled: int
):
    folders = statistics(tmp_path, [score_row(uri(i), i / 300) for i in range(300)]).folders
    assert folders.root == root
    assert folders.pooled == pooled
    found = {group.name for group in folders.groups}
    assert (None in found) == bool(pooled)
    assert names <= found if pooled else found == names
    assert sum(group.images for group in folders.groups) == 300


def test_an_archive_counts_as_a_folder(tmp_path: Path):
    rows = [score_row(f"/l/{i % 2}.tar", i / 9, member=f"x/{i}.jpg") for i in range(9)]
    assert {group.name for group in statistics(tmp_path, rows).folders.groups} == {"/l/0.tar", "/l/1.tar"}


@pytest.mark.parametrize(
    "scores", [[None, None], [0.5], [0.5] * 30, [0.0] * 30, [-1e-9, 0.0, 1e-9], [0.5] * 3000 + [1e6]]
)
def test_odd_sets_of_scores(tmp_path: Path, scores: list[float | None]):
    found = statistics(tmp_path, [score_row(f"/a/{i}.jpg", score) for i, score in enumerate(scores)])
    assert found.scored == sum(score is not None for score in scores)
    assert (found.histogram is None) == (found.scored == 0)
    if found.histogram is not None:
        assert len(found.histogram.counts) <= 60
        assert found.histogram.counts.sum() + found.histogram.below + found.histogram.above == found.scored
        assert found.histogram.counts.max() >= (found.scored - 1) // 3


def test_without_intervals_there_are_none(tmp_path: Path):
    rows = [score_row(f"/a/{i}.jpg", i / 40, score_lower=None, score_upper=None) for i in range(40)]
    found = statistics(tmp_path, rows)
    assert found.interval_width is None


def test_enlarged_ones_are_counted_and_told(tmp_path: Path):
    sizes = [(96, 96), (400, 400), (500, 500), (4000, 3000)]
    rows = [
        score_row(f"/a/{i}.jpg", i / 10, width=width, height=height, scored_pixels=512 * 512)
        for i, (width, height) in enumerate(sizes)
    ]
    found = statistics(tmp_path, rows)
    assert (found.enlarged, found.scaled_down) == (2, 1)
    assert [photo.enlarged for photo in found.worst + found.best[::-1]] == [True, True, False, False]


# --- Thresholds and failures ------------------------------------------------------------------------------------------


def thresholds(tmp_path: Path, scores: list[float], scale: tuple[float, float] | None) -> list[Threshold]:
    with open_database() as connection:
        rows = [score_row(f"/a/{i}.jpg", score) for i, score in enumerate(scores)]
        load_scores(connection, "now", Folder(str(write_run(tmp_path / "run", [*rows, score_row("/a/x.jpg", None)]))))
        found = histogram(connection, "now", score_edges(connection, ["now"]))
        return count_kept(connection, "now", found, scale)


def test_thresholds_keep_what_the_filter_keeps(tmp_path: Path):
    # In single precision 0.7 is less than in double, and 0.6 more.
    scores = [0.1, 0.55, 0.6, 0.6999, 0.7, 0.7, 0.93]
    found = thresholds(tmp_path, scores, (0.0, 1.0))
    assert found[0] == Threshold("0.10", 7)
    assert found[-1] == Threshold("0.93", 1)
    kept = {threshold.score: threshold.photos for threshold in found}
    assert [kept[score] for score in ("0.55", "0.56", "0.60", "0.61", "0.70", "0.71")] == [6, 5, 5, 4, 3, 1]
    for score in ("0.55", "0.60", "0.70", "0.93"):
        chosen = tmp_path / f"chosen-{score}"
        record = select(FilterOptions(scores=str(tmp_path / "run"), output=str(chosen), min_score=float(score)))
        assert record.selected == kept[score]


@pytest.mark.parametrize(
    ("scores", "scale", "first", "second"),
    [
        ([1.5, 3.0, 4.5], (1.0, 5.0), "1.50", "1.55"),
        ([0.0, 50.0, 100.0], (0.0, 100.0), "0", "1"),
        ([-0.2, 0.5, 1.3], (0.0, 1.0), "-0.25", "-0.24"),
        # Far beyond the scale, and close together; and without a scale.
        ([0.0, 500.0, 1000.0], (0.0, 1.0), "0", "5"),
        ([0.5, 0.505, 0.51], (0.0, 1.0), "0.5000", "0.5005"),
        ([0.0, 1.0, 2.0], None, "0.00", "0.05"),
    ],
)
def test_thresholds_have_the_steps_of_the_scale(
    tmp_path: Path, scores: list[float], scale: tuple[float, float] | None, first: str, second: str
):
    found = thresholds(tmp_path, scores, scale)
    assert [threshold.score for threshold in found[:2]] == [first, second]
    assert [found[0].photos, found[-1].photos] == [3, 1]
    assert len(found) <= 1 + MOST_STEPS
    assert nearest(found, float(first)) == 0


def failures(tmp_path: Path, rows: Rows) -> list[FailedImage]:
    with open_database() as connection:
        load_scores(connection, "now", Folder(str(write_run(tmp_path / "run", rows))))
        return list_failures(connection, "now")


def test_all_failures_are_listed(tmp_path: Path):
    rows = [score_row(f"/a/{i}.jpg", None if i % 2 else 0.5) for i in range(40)]
    rows.append(score_row("/a/b.tar", None, member="x.jpg", status="unreadable", error="cut"))
    found = failures(tmp_path, rows)
    assert len(found) == 21
    assert found[0] == FailedImage("missing", "no such file", "/a/1.jpg", None)
    assert found[-1] == FailedImage("unreadable", "cut", "/a/b.tar", "x.jpg")


def test_of_too_many_failures_some_of_every_reason_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.reporting.failures.MOST_FAILURES", 9)
    rows = [score_row(f"/a/{i}.jpg", None, error=f"ends after {i} bytes") for i in range(50)]
    rows += [score_row(f"/b/{i}.jpg", None, status="denied", error="forbidden") for i in range(3)]
    found = failures(tmp_path, rows)
    assert len(found) == 9
    assert sum(image.status == "denied" for image in found) == 3


def test_failures_with_endless_names_do_not_fill_the_page(tmp_path: Path):
    found = failures(tmp_path, [score_row(f"/a/{'long' * 1000}{i}.jpg", None) for i in range(100)])
    assert 30 < len(found) < 40


# --- Near-copies ------------------------------------------------------------------------------------------------------


def copies(tmp_path: Path, rows: Rows) -> Copies | None:
    with open_database() as connection:
        load_scores(connection, "now", Folder(str(write_run(tmp_path / "run", rows))))
        shown = compute(connection, "now", most=6, between=0).worst
        return find_copies(connection, "now", shown, groups=2, photos=3)


def hashed_rows() -> Rows:
    """Of 30 photographs 4 are alike in all but 2 bits, 3 in all but 4 bits, and 2 the same."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 30, np.uint64)
    hashes[1:4] = hashes[0] ^ np.array([0b1000, 0b11, 0b11000], np.uint64)
    hashes[5:7] = hashes[4] ^ np.array([0b1111, 0b1], np.uint64)
    hashes[8] = hashes[7]
    return [score_row(f"/a/{i}.jpg", 0.9 - i / 100, phash=f"{value:016x}") for i, value in enumerate(hashes.tolist())]


def test_the_largest_groups_of_near_copies_begin_with_the_best(tmp_path: Path):
    rows = [*hashed_rows(), score_row("/a/old.jpg", 0.01), score_row("/a/gone.jpg", None)]
    found = copies(tmp_path, rows)
    assert found is not None
    assert (found.copies, found.groups, found.unhashed, found.bits) == (6, 3, 1, 6)
    assert [group.size for group in found.largest] == [4, 3]
    uris = [[photo.uri for photo in group.photos] for group in found.largest]
    assert uris == [[f"/a/{i}.jpg" for i in group] for group in ((0, 1, 2), (4, 5, 6))]
    assert found.others == {}  # the worst have none


def test_a_photo_that_is_shown_tells_how_many_near_copies_it_has(tmp_path: Path):
    rows = [row | {"score": 1 - row["score"]} for row in hashed_rows()]
    found = copies(tmp_path, rows)
    assert found is not None
    assert found.others == {image_id(f"/a/{i}.jpg", None): 3 if i < 4 else 2 for i in range(6)}


def test_of_very_many_photos_only_equal_hashes_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.reporting.copies.MOST_COMPARED", 29)
    found = copies(tmp_path, hashed_rows())
    assert found is not None
    assert (found.copies, found.groups, found.bits) == (1, 1, 0)


def test_scores_without_hashes_have_no_near_copies_told(tmp_path: Path):
    assert copies(tmp_path, [score_row("/a/b.jpg", 0.5)]) is None


def test_no_scores_at_all(tmp_path: Path):
    output = Folder(str(tmp_path))
    with open_database() as connection:
        with pytest.raises(UserError, match="there is no such folder, or nothing in it"):
            load_scores(connection, "now", output)
        output.write("notes.txt", b"")
        with pytest.raises(UserError, match="holds no scores"):
            load_scores(connection, "now", output)
        output.write_json("settings.json", {})
        with pytest.raises(UserError, match="nothing is scored there yet; run the 'grepr score'"):
            load_scores(connection, "now", output)


def test_comparison_joins_by_image(tmp_path: Path):
    before = random_rows(1500, seed=1)
    rng = np.random.default_rng(2)
    now = []
    for row in random_rows(1500, seed=1)[100:]:
        if row["score"] is not None:
            row["score"] += rng.choice([0.0, 0.05, -0.1], p=[0.6, 0.2, 0.2])
            row["etag"] = str(rng.integers(3))
        now.append(row)
    now += [score_row(f"s3://lake/photos/new/{i}.jpg", 0.3) for i in range(20)]
    found = comparison(tmp_path, now, before)

    frames = [pd.DataFrame(rows).astype({"score": "float32"}) for rows in (now, before)]
    joined = frames[0].merge(frames[1], on="image_id", suffixes=("", "_before"))
    change = (joined["score"] - joined["score_before"]).astype("float64").dropna()
    assert (found.new, found.gone, found.both) == (20, 100, 1400)
    assert found.scored == len(change)
    known = joined.dropna(subset=["etag", "etag_before"])
    assert found.content_changed == (known["etag"] != known["etag_before"]).sum()
    np.testing.assert_allclose(found.change_quantiles, change.quantile(QUANTILES), atol=1e-6)
    assert found.unchanged == (change.abs() <= 0.001).sum()
    expected = ks_2samp(*(frame["score"].dropna() for frame in frames)).statistic
    assert found.largest_gap == pytest.approx(expected, abs=1e-9)
    assert [move.photo.score - move.before for move in found.fallen] == pytest.approx([-0.1] * 3, abs=1e-6)
    assert [move.photo.score - move.before for move in found.risen] == pytest.approx([0.05] * 3, abs=1e-6)
    by_id = joined.set_index("image_id")
    for move in found.fallen + found.risen:
        row = by_id.loc[move.photo.image_id]
        assert move.before == pytest.approx(row["score_before"], abs=1e-6)
        assert move.content_changed == (row["etag"] != row["etag_before"])
    assert found.now is not None
    assert found.before is not None
    np.testing.assert_array_equal(found.now.edges, found.before.edges)


def test_comparison_tells_what_changed_its_status(tmp_path: Path):
    before = [score_row(f"/a/{i}.jpg", 0.5) for i in range(4)]
    now = [score_row(f"/a/{i}.jpg", None if i < 3 else 0.5) for i in range(4)]
    (turn,) = comparison(tmp_path, now, before).turns
    assert (turn.before, turn.now, turn.images) == ("scored", "missing", 3)


def test_comparison_of_runs_that_share_nothing(tmp_path: Path):
    found = comparison(tmp_path, [score_row("/a.jpg", None)], [score_row("/b.jpg", 0.5)])
    assert (found.new, found.gone, found.both, found.scored) == (1, 1, 0, 0)
    assert found.largest_gap is None
    assert found.change_quantiles == ()


def test_comparison_of_a_lake_that_was_moved_joins_by_path(tmp_path: Path):
    def rows(root: str, scores: list[float]) -> list[dict[str, Any]]:
        files = [score_row(f"{root}/{i}.jpg", score, path=f"{i}.jpg") for i, score in enumerate(scores)]
        members = [score_row(f"{root}/a.tar", score, path="a.tar", member=str(i)) for i, score in enumerate(scores)]
        twice = [score_row(f"{root}/x{i}.jpg", score, path="x.jpg") for i, score in enumerate(scores)]
        return [*files, *members, *twice, score_row(f"{root}/none.jpg", 0.5)]

    found = comparison(tmp_path, rows("s3://now", [0.5, 0.75, 0.25]), rows("/then", [0.5, 0.5]))
    assert (found.both, found.new, found.gone, found.unchanged, len(found.risen)) == (4, 6, 3, 2, 2)
