from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import grepr
from tests import odd_files as odd
from tests.lake import make_lake, run_here
from tests.pipelines.scoring.in_this_process import in_this_process


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, some in unusual ways, and files that are none."""
    lake = make_lake(tmp_path_factory.mktemp("lake") / "photos", 6)
    (lake / "turned.jpg").write_bytes(odd.oriented(6))
    (lake / "deep.png").write_bytes(odd.deep_png(np.asarray(odd.picture()).astype(np.uint16) * 257))
    (lake / "text.jpg").write_text("no image")
    (lake / "small.png").write_bytes(odd.encode(odd.picture(20, 20), "PNG"))
    return lake


def test_rows_are_those_of_grepr_score(lake: Path, tmp_path: Path):
    with in_this_process():
        code, _, err = run_here("score", lake, tmp_path / "scores", "--max-failed-fraction", "1")
    assert code == 0, err
    command = pd.read_parquet(tmp_path / "scores" / "scores").sort_values("uri", ignore_index=True)
    rows = grepr.to_pandas(grepr.score(sorted(lake.iterdir())))
    expected = command[list(rows)]
    for name in rows:
        if command[name].dtype.kind == "f":  # of 32 bits in the table
            pd.testing.assert_series_equal(
                rows[name].astype("float32"), expected[name].astype("float32"), check_exact=True
            )
        else:
            missing = rows[name].isna()
            assert (missing == expected[name].isna()).all()
            assert (rows[name][~missing] == expected[name][~missing]).all()
    assert set(rows.status) == {"scored", "unreadable", "too_small"}
