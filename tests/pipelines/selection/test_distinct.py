"""Of near-copies the best alone: ``grepr filter --distinct``."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from jobs import cli
from pipelines.options import FilterOptions
from pipelines.scoring.near_copies import hash_numbers
from pipelines.scoring.score_table import read_scores
from pipelines.selection.distinct import DUPLICATE_SCHEMA
from pipelines.selection.filter import FilterRecord, run
from tests.pipelines.made_scores import frame, write_scores

BITS = 6


def made_rows(count: int = 300) -> pd.DataFrame:
    """Scores of which a third are of near-copies, with up to eight bits changed."""
    rng = np.random.default_rng(0)
    rows = frame(count)
    numbers = rng.integers(0, 2**64, count, np.uint64)
    for i in range(2 * count // 3, count):
        flips = np.uint64(1) << rng.choice(64, rng.integers(0, 9), replace=False).astype(np.uint64)
        numbers[i] = numbers[rng.integers(0, count // 6)] ^ np.bitwise_xor.reduce(flips, initial=0)
    rows["phash"] = [f"{number:016x}" for number in rng.permutation(numbers)]
    rows.loc[rows.status != "scored", "phash"] = None
    return rows


ROWS = made_rows()
SCORED = ROWS[ROWS.status == "scored"].sort_values(["score", "image_id"], ascending=[False, True])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder, ROWS)
    return folder


def select(scores: Path, output: Path, **options: Any) -> FilterRecord:
    return run(FilterOptions(scores=str(scores), output=str(output), **options))


def selected(output: Path) -> set[str]:
    return set(read_scores(Folder(str(output)), ["uri"])["uri"].to_pylist())


def duplicates(output: Path) -> list[dict[str, Any]]:
    table = pq.read_table(output / "duplicates.parquet")
    assert table.schema.equals(DUPLICATE_SCHEMA)
    return table.to_pylist()


def distinct(rows: pd.DataFrame, bits: int = BITS) -> pd.DataFrame:
    """Goes through rows, the best first, and keeps those that are near to none that is kept."""
    kept: list[int] = []
    hashes = hash_numbers(rows.phash.tolist())
    for i in range(len(rows)):
        if not kept or np.bitwise_count(hashes[kept] ^ hashes[i]).min() > bits:
            kept.append(i)
    return rows.iloc[kept]


@pytest.mark.parametrize("bits", [0, 4, BITS])
def test_the_best_of_near_copies_is_selected_and_the_others_listed(scores: Path, tmp_path: Path, bits: int):
    record = select(scores, tmp_path / "out", distinct=bits)
    kept = distinct(SCORED, bits)
    assert selected(tmp_path / "out") == set(kept.uri)
    assert (record.met, record.selected) == (len(SCORED), len(kept))
    listed = duplicates(tmp_path / "out")
    assert record.duplicates == len(listed) == len(SCORED) - len(kept)
    assert {row["uri"] for row in listed} == set(SCORED.uri) - set(kept.uri)
    rows = SCORED.set_index("image_id")
    for row in listed:
        copy, best = rows.loc[row["image_id"]], rows.loc[row["kept_image_id"]]
        assert (row["uri"], row["kept_uri"]) == (copy.uri, best.uri)
        assert row["distance"] == np.bitwise_count(np.bitwise_xor(*hash_numbers([copy.phash, best.phash]))) <= bits
        assert np.float32(row["score"]) == copy.score <= best.score
        assert best.uri in selected(tmp_path / "out")
    order = [(-rows.loc[row["kept_image_id"]].score, row["kept_image_id"], -row["score"]) for row in listed]
    assert order == sorted(order)


def test_copies_are_left_out_after_the_conditions_and_before_the_top(scores: Path, tmp_path: Path):
    met = SCORED[SCORED.width >= 1000]
    kept = distinct(met)
    record = select(scores, tmp_path / "top", where="width >= 1000", distinct=BITS, top=40)
    assert selected(tmp_path / "top") == set(kept.uri[:40])
    assert (record.met, record.selected) == (len(met), 40)
    # Only copies of what is selected are listed: the others would not have been selected either.
    assert record.duplicates == len(duplicates(tmp_path / "top")) > 0
    assert {row["kept_uri"] for row in duplicates(tmp_path / "top")} <= set(kept.uri[:40])
    select(scores, tmp_path / "fraction", where="width >= 1000", distinct=BITS, top_fraction=0.5)
    assert selected(tmp_path / "fraction") == set(kept.uri[: -(-len(kept) // 2)])


def test_within_groups_each_keeps_its_own(scores: Path, tmp_path: Path):
    groups = [distinct(group) for _, group in SCORED.groupby(SCORED.width >= 1000, sort=False)]
    record = select(scores, tmp_path / "all", distinct=BITS, per="width >= 1000")
    assert selected(tmp_path / "all") == {uri for group in groups for uri in group.uri}
    assert record.selected > len(distinct(SCORED))
    assert record.groups == 2
    select(scores, tmp_path / "top", distinct=BITS, per="width >= 1000", top=20)
    assert selected(tmp_path / "top") == {uri for group in groups for uri in group.uri[:20]}


def test_without_copies_nothing_is_left_out(tmp_path: Path):
    rows = ROWS[ROWS.image_id.isin(distinct(SCORED).image_id)]
    write_scores(tmp_path / "scores", rows)
    record = select(tmp_path / "scores", tmp_path / "out", distinct=BITS)
    assert (record.selected, record.duplicates, duplicates(tmp_path / "out")) == (len(rows), 0, [])


def test_scores_of_an_earlier_version_cannot_be_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_scores(tmp_path / "none", ROWS.drop(columns="phash"))
    with pytest.raises(UserError, match=r"have no phash to compare.*score the images anew, into another output"):
        select(tmp_path / "none", tmp_path / "out", distinct=BITS)
    some = ROWS.copy()
    some.loc[SCORED.index[:7], "phash"] = None
    write_scores(tmp_path / "some", some)
    record = select(tmp_path / "some", tmp_path / "out", distinct=BITS)
    assert f"7 scored images have no phash, of {len(SCORED)}" in caplog.text
    assert selected(tmp_path / "out") == {*SCORED.uri[:7], *distinct(SCORED[7:]).uri}
    assert record.selected + (record.duplicates or 0) == len(SCORED)


def test_another_selection_has_its_own_list(scores: Path, tmp_path: Path):
    first = select(scores, tmp_path / "out", distinct=BITS)
    assert select(scores, tmp_path / "out", distinct=BITS) == first
    with pytest.raises(UserError, match="--distinct: then 6, now 4"):
        select(scores, tmp_path / "out", distinct=4)
    assert select(scores, tmp_path / "out", top=9, overwrite=True).duplicates is None
    assert not (tmp_path / "out/duplicates.parquet").exists()


def test_it_is_told_what_was_left_out(
    scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cli, "_mute_libraries", lambda: None)
    out = tmp_path / "out"
    with contextlib.suppress(SystemExit):
        cli.main(["filter", "--distinct", str(scores), "--output", str(out)])
    left = len(SCORED) - len(distinct(SCORED))
    assert f"{left} near-copies of them left out: {out}/duplicates.parquet says of which" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        (["in", "--distinct"], 6),
        (["--distinct", "in"], 6),
        (["in", "--distinct", "--top", "3"], 6),
        (["in", "--distinct", "4"], 4),
        (["--distinct=0", "in"], 0),
        (["in", "--top", "3"], None),
    ],
)
def test_the_number_of_bits_may_be_left_out(words: list[str], bits: int | None):
    options = cli.parse(["filter", "--output", "out", *words])
    assert isinstance(options, FilterOptions)
    assert (options.scores, options.distinct) == ("in", bits)


@pytest.mark.parametrize("bits", [-1, 11])
def test_bits_are_within_their_range(bits: int):
    with pytest.raises(ValueError, match="--distinct must be between 0 and 10"):
        FilterOptions(scores="in", output="out", distinct=bits)
