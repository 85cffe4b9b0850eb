import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

import grepr
from pipelines.scoring.score_table import schema
from tests.lake import SMALL_VIEW
from tests.made_photos import jpeg, photo

OPTIONS = {"max_pixels": SMALL_VIEW}
ONE = ray.data.ActorPoolStrategy(size=1)
ADDED = [f"grepr_{name}" for name in schema().names if name not in ("image_id", "uri", "member", "path", "etag")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {f"{i:03d}.jpg": jpeg(photo(i, (160, 120)), quality=20 + 10 * i) for i in range(8)}


@pytest.fixture(scope="module")
def expected(files: dict[str, bytes]) -> dict[str, float]:
    rows = grepr.load(device="cpu", **OPTIONS).score(files.values())
    return {name: row.score for name, row in zip(files, rows, strict=True)}


@pytest.fixture(scope="module")
def scorer() -> grepr.ray.Score:
    return grepr.ray.Score(**OPTIONS, device="cpu")


def close(found: dict[str, Any], expected: dict[str, float]) -> None:
    assert set(found) == set(expected)
    assert [found[name] for name in expected] == pytest.approx([*expected.values()], abs=1e-6)


@pytest.mark.usefixtures("one_ray")
@pytest.mark.timeout(180)
def test_bytes_of_parquet_files(files: dict[str, bytes], expected: dict[str, float], tmp_path: Path):
    for part in range(2):
        names = [*files][4 * part : 4 * part + 4]
        table = pa.table({"name": [*names, f"none{part}"], "bytes": [*(files[name] for name in names), b"no image"]})
        if part:
            table = table.set_column(1, "bytes", pa.array([*table["bytes"].to_pylist()[:-1], None]))
        pq.write_table(table, tmp_path / f"{part}.parquet")

    class Told(grepr.ray.Score):
        def __call__(self, batch: Any) -> pa.Table:
            threads = torch.get_num_threads() + self._scorer._threads
            return super().__call__(batch | {"threads": np.full(len(batch["name"]), threads)})

    ds = ray.data.read_parquet(str(tmp_path)).map_batches(
        Told, fn_constructor_kwargs={**OPTIONS, "features": True, "keep": False}, compute=ONE, batch_size=3
    )
    ds.write_parquet(str(tmp_path / "scores"))
    frame = pd.read_parquet(tmp_path / "scores").set_index("name")
    assert list(frame) == ["threads", *ADDED[:-1], "grepr_features", "grepr_model_id"]
    assert set(frame.threads) == {1 + 1}  # whatever cores there are
    scored = frame[frame.grepr_status == "scored"]
    close(scored.grepr_score.to_dict(), expected)
    assert np.stack(scored.grepr_features).shape == (8, grepr.load(device="cpu").feature_size)
    failed = frame[frame.grepr_status != "scored"].sort_index()
    assert failed.grepr_status.to_dict() == {"none0": "unreadable", "none1": "missing"}
    assert failed.grepr_error.tolist() == ["not an image: text", "the row has no image"]


@pytest.mark.usefixtures("one_ray")
def test_arrays_of_images(files: dict[str, bytes], tmp_path: Path):
    for name, content in files.items():
        Image.open(io.BytesIO(content)).save(tmp_path / f"{name}.png")
    photo(9, (200, 100)).save(tmp_path / "other.png")
    scorer = grepr.ray.Score(**OPTIONS, prefix="q_", device="cpu")
    rows = _scored(ray.data.read_images(str(tmp_path), include_paths=True), scorer, "numpy")
    found = {Path(row["path"]).name: row for row in rows}
    by_file = grepr.load(device="cpu", **OPTIONS)
    close(
        {name: row["q_score"] for name, row in found.items()},
        {path.name: by_file.score(path).score for path in tmp_path.iterdir()},
    )
    assert found["other.png"]["image"].shape == (100, 200, 3)
    assert found["other.png"]["q_bytes"] is None


@pytest.mark.usefixtures("one_ray")
def test_samples_of_webdataset(
    scorer: grepr.ray.Score, files: dict[str, bytes], expected: dict[str, float], tmp_path: Path
):
    with tarfile.open(tmp_path / "000000.tar", "w") as tar:
        for name, content in files.items():
            for member, data in ((name, content), (name.replace("jpg", "txt"), b"a caption")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows = _scored(ray.data.read_webdataset(str(tmp_path), decoder=None), scorer, "pandas")
    found = {f"{row['__key__']}.jpg": row for row in rows}
    close({name: row["grepr_score"] for name, row in found.items()}, expected)
    assert {row["txt"] for row in found.values()} == {b"a caption"}


def test_batches_of_any_format(scorer: grepr.ray.Score, files: dict[str, bytes], expected: dict[str, float]):
    contents = [*files.values()]
    objects = np.array([*contents, None], object)[:-1]
    for batch in ({"bytes": objects}, pd.DataFrame({"bytes": contents}), pa.table({"bytes": contents})):
        table = scorer(batch)
        assert table.column_names == ["bytes", *ADDED]
        assert table["grepr_score"].to_pylist() == pytest.approx([*expected.values()], abs=1e-6)
        assert table.schema.field("grepr_error").type == pa.string()


def test_columns_by_their_names(scorer: grepr.ray.Score, files: dict[str, bytes], tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(files["003.jpg"])
    path, content = str(tmp_path / "a.jpg"), files["003.jpg"]
    array = np.asarray(Image.open(io.BytesIO(content)))
    batches = (
        {"path": [path]},
        {"path": ["elsewhere.jpg"], "image": [array]},
        {"url": ["http://169.254.1.1/"], "jpg": [content]},
        {"image": [{"bytes": content, "path": None}]},
        {"image": [{"bytes": None, "path": path}]},
    )
    scores = [
        scorer({name: _column(values) for name, values in batch.items()})["grepr_score"][0].as_py() for batch in batches
    ]
    assert len(set(scores)) == 1
    by_name = grepr.ray.Score(**OPTIONS, column="thumbnail", device="cpu")
    assert by_name({"path": _column([path]), "thumbnail": _column([content])})["grepr_score"][0].as_py() == scores[0]
    with pytest.raises(ValueError, match=r"no column thumbnail; it has id, path: .*'column'"):
        by_name({"id": _column([1]), "path": _column([path])})
    with pytest.raises(ValueError, match=r"no column of images; it has id, caption"):
        scorer({"id": _column([1]), "caption": _column(["a"])})
    with pytest.raises(ValueError, match="has a column grepr_status already; give another prefix"):
        scorer({"bytes": _column([content]), "grepr_status": _column(["?"])})
    sizes = {"bytes": [1, None], "uri": [path, path]}
    for numbers in (pd.DataFrame(sizes), pd.DataFrame(sizes).astype({"bytes": "Int64"}), pa.table(sizes)):
        assert scorer(numbers)["grepr_score"].to_pylist() == [scores[0]] * 2
    assert scorer({"bytes": np.array([7]), "uri": _column([path])})["grepr_score"][0].as_py() == scores[0]
    with pytest.raises(ValueError, match=r"no column of images; it has image"):
        scorer({"image": np.array([1, 2])})
    with pytest.raises(TypeError, match=r"column image: .*int64 is no photograph.*'column'"):
        grepr.ray.Score(**OPTIONS, column="image", device="cpu")({"image": np.array([1, 2])})


def test_an_array_that_is_no_image_costs_its_row(scorer: grepr.ray.Score):
    images = _column(
        [np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40, 2), np.uint8), np.full((40, 40, 3), 9.0), None]
    )
    table = scorer({"image": images})
    assert table["grepr_status"].to_pylist() == ["scored", "unreadable", "unreadable", "missing"]
    assert "40 x 40 x 2 is no image" in table["grepr_error"][1].as_py()


def _scored(ds: ray.data.Dataset, scorer: grepr.ray.Score, batch_format: str) -> list[dict[str, Any]]:
    """Scores a data set in this process, which takes no start of another, and gives the rows as Ray does."""
    tables = [scorer(batch) for batch in ds.iter_batches(batch_format=batch_format, batch_size=None)]
    return list(ray.data.from_arrow(tables).iter_rows())


def _column(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_nothing_but_nulls(scorer: grepr.ray.Score):
    for nulls in (np.full(2, np.nan, np.float32), np.array([None, None])):
        rows = scorer({"bytes": nulls, "n": np.arange(2)})
        assert rows["grepr_status"].to_pylist() == ["missing"] * 2
    assert scorer(pa.table({"bytes": pa.nulls(2)}))["grepr_status"].to_pylist() == ["missing"] * 2
