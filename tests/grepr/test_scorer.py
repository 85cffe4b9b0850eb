import codecs
import functools
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import grepr
from grepr_core.bundles.bundle import load_bundle, save_bundle
from grepr_core.decoding.images import Failure
from grepr_core.scoring.scorer import Scorer as ModelScorer
from pipelines.scoring.score_table import schema
from tests.grepr_core.models import full_bundle
from tests.lake import SMALL_VIEW
from tests.made_photos import jpeg, photo

LARGE = photo(2, (300, 200))


@functools.cache
def scorer() -> grepr.Scorer:
    """One for all tests, that sees photographs small."""
    return grepr.load(device="cpu", max_pixels=SMALL_VIEW, threads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    LARGE.save(folder / "a.png")
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(jpeg(photo(i), quality=20 + 10 * i))
    return folder


def test_a_photograph_has_one_score_in_whatever_way_it_is_given(folder: Path):
    path = folder / "a.png"
    array = np.asarray(LARGE)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = ModelScorer(load_bundle("grepr-lite"), device="cpu", max_pixels=SMALL_VIEW).score([path.read_bytes()])[0]
    assert expected.score is not None
    given: dict[str, Any] = {
        "text": str(path),
        "path": path,
        "file URL": path.as_uri(),
        "bytes": path.read_bytes(),
        "memory": memoryview(path.read_bytes()),
        "stream": io.BytesIO(path.read_bytes()),
        "image": LARGE,
        "opened image": Image.open(path),
        "array": array,
        "16 bits": array.astype(np.uint16) * 257,
        "tensor": tensor,
        "floating point": tensor / 255,
        "double precision": (tensor / 255).double(),
    }
    of_files, of_content = {"text", "path", "file URL"}, {"bytes", "memory", "stream"}
    for kind, one in given.items():
        row = scorer().score(one)
        assert isinstance(row, grepr.Row), kind
        assert row.score == expected.score, kind
        assert (row.status, row.error, row.width, row.height) == ("scored", None, 300, 200), kind
        assert row.severities == expected.severities, kind
        assert row.model_id == scorer().model_id
        assert row.features is None
        assert row.uri == (str(path) if kind in of_files else None), kind
        assert row.bytes == (path.stat().st_size if kind in of_files | of_content else None), kind
    with path.open("rb") as file:
        assert scorer().score(file).score == expected.score


def test_several_are_a_list_in_their_order(folder: Path):
    paths = sorted(folder.glob("*.jpg"))
    alone = [scorer().score(path).score for path in paths]
    assert len(set(alone)) == len(alone)
    for several in (
        paths,
        iter(paths),
        tuple(map(str, paths)),
        pd.Series(map(str, paths)),
        np.array(list(map(str, paths))),
        [path.read_bytes() for path in paths],
        [path.read_bytes() if i % 2 else path for i, path in enumerate(paths)],
    ):
        rows = scorer().score(several)
        assert [row.score for row in rows] == alone
    batch = np.stack([np.asarray(Image.open(path)) for path in paths if Image.open(path).size == (160, 120)])
    by_array = [row.score for row in scorer().score(batch)]
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    assert by_array == [row.score for row in scorer().score(tensors)] == [scorer().score(one).score for one in batch]
    assert scorer().score([]) == []


def test_what_cannot_be_read_is_a_row(folder: Path, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("no image")
    given = [folder / "0.jpg", "nothing.jpg", tmp_path / "text.jpg", tmp_path, b"", np.zeros((8, 8, 3), np.uint8)]
    rows = scorer().score([*given, Failure(grepr.Status.DENIED, "not mine"), folder / "1.jpg"])
    expected = ["scored", "missing", "unreadable", "unreadable", "unreadable", "too_small", "denied", "scored"]
    assert [row.status for row in rows] == expected
    for row in rows:
        assert (row.score is None) == (row.error is not None) == (row.status != "scored")
    assert rows[1].uri == str(Path("nothing.jpg").absolute())
    assert scorer().score("nothing.jpg") == rows[1]
    empty = scorer().score("")
    assert (empty.status, empty.error, empty.uri) == ("missing", "the path is empty", None)
    assert "jpg" not in rows[2].error


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (5, TypeError, "a value of type int is no photograph; taken are a path or URL"),
        (None, TypeError, "None is no photograph"),
        (["a.jpg", None], TypeError, "photograph 1: None is no photograph"),
        (pd.Series(["a.jpg", np.nan]), TypeError, "photograph 1: a value of type float is no photograph"),
        ({"a.jpg": 1}, TypeError, "type dict .* one of its columns"),
        (pd.DataFrame({"uri": []}), TypeError, "pandas.*DataFrame .* one of its columns"),
        (io.StringIO("x"), TypeError, "open the file with mode 'rb'"),
        (codecs.getreader("utf-8")(io.BytesIO(b"\xff")), ValueError, "can't decode byte 0xff"),
        ([np.zeros((40, 40, 3), np.uint8), np.zeros((3, 40, 40))], ValueError, "photograph 1: .* array.transpose"),
        (torch.zeros(40, 40, 3), ValueError, "3 x H x W; .* tensor.permute\\(2, 0, 1\\)"),
        (torch.full((3, 40, 40), 255.0), ValueError, "from 255 to 255; divide by their white"),
        (torch.full((3, 40, 40), 1.05), ValueError, "from 1.05 to 1.05; clip them"),
    ],
)
def test_what_is_no_photograph_is_refused_in_words(given: Any, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        scorer().score(given)


def test_what_is_no_photograph_is_refused_before_another_is_scored(folder: Path):
    with (folder / "0.jpg").open("rb") as file, (folder / "1.jpg").open() as text:
        with pytest.raises(TypeError, match=r"photograph 1: a value of type _io\.TextIOWrapper gives no bytes"):
            scorer().score((file, text))
        assert file.tell() == text.tell() == 0
    once = iter([folder / "0.jpg", None])
    with pytest.raises(TypeError, match="photograph 1: None"):
        scorer().score(once)


def test_a_stream_takes_no_more_than_it_needs():
    taken = 0

    def photographs() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield photo(taken % 5)

    stream = scorer().stream(photographs())
    first = [next(stream) for _ in range(8)]
    assert taken <= 8 + 2 * 2 + 1
    assert [row.score for row in first] == [scorer().score(photo(i % 5)).score for i in range(1, 9)]


@pytest.mark.parametrize("count", [0, 3, 4, 6])
def test_chunks_as_a_gpu_takes_them_are_in_order(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grepr.scorer, "GPU_CHUNK", 2)
    together = ModelScorer(load_bundle("grepr-lite"), device="cpu", max_pixels=SMALL_VIEW, batch_pixels=3 * SMALL_VIEW)
    given = [path if i % 2 else path.read_bytes() for i, path in enumerate(sorted(folder.glob("*.jpg")))][:count]
    found = list(scorer()._together(together, scorer()._read(given)))
    rows = scorer().score(given)
    assert [uri for uri, _ in found] == [row.uri for row in rows]
    assert [score.score for _, score in found] == pytest.approx([row.score for row in rows], abs=1e-5)


def test_files_that_are_open_only_for_a_moment_are_scored(folder: Path):
    def images() -> Iterator[Image.Image]:
        for path in sorted(folder.glob("*.jpg")):
            with Image.open(path) as image:
                yield image

    assert [row.status for row in scorer().stream(images())] == ["scored"] * 6
    for row in scorer().score([*images()]):  # which closes them
        assert row.error == "Pillow cannot decode it: its file was closed before its pixels were read"
        assert row.width


def test_features(folder: Path):
    path = folder / "0.jpg"
    features = scorer().features(path)
    assert features.shape == (scorer().feature_size,)
    assert features.dtype == np.float32
    several = scorer().features([path, "nothing.jpg", folder / "1.jpg"])
    np.testing.assert_array_equal(several[0], features)
    assert np.isnan(several).all(axis=1).tolist() == [False, True, False]
    assert scorer().features([]).shape == (0, scorer().feature_size)
    row = scorer().score(path, features=True)
    np.testing.assert_array_equal(row.features, features)
    assert row == scorer().score(path) != scorer().score(folder / "1.jpg")
    assert len({row, scorer().score(path)}) == 1


def test_features_that_no_score_needs_are_there_when_they_are_asked_for(tmp_path: Path):
    save_bundle(full_bundle(regressor=False), str(tmp_path / "model"))
    zero_shot = grepr.load(tmp_path / "model", device="cpu")
    row = zero_shot.score(photo(0, (250, 240)))
    assert row.score == pytest.approx(row.score_low + row.score_high)
    assert zero_shot.features(photo(0, (250, 240))).shape == (zero_shot.feature_size,)
    assert zero_shot.score(photo(0, (250, 240)), features=True).score == pytest.approx(row.score, abs=1e-6)


def test_threads_of_pytorch_stay_as_they_were(folder: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        grepr.load(device="cpu", max_pixels=SMALL_VIEW, threads=2).score(list(folder.glob("*.jpg")))
        with ThreadPoolExecutor(1) as pool:
            assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_it_is_safe_in_many_threads_and_in_itself(folder: Path):
    paths = sorted(folder.glob("*.jpg"))
    expected = [row.score for row in scorer().score(paths)]
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(scorer().score, [paths] * 4):
            assert [row.score for row in rows] == expected
    assert [scorer().score(path).score for _, path in zip(scorer().stream(paths), paths, strict=True)] == expected


def test_another_process_gets_its_own(folder: Path):
    again = pickle.loads(pickle.dumps(scorer()))
    assert again is not scorer()
    assert again.score(folder / "0.jpg") == scorer().score(folder / "0.jpg")


def test_a_forked_process_scores_by_what_its_parent_has_used(folder: Path):
    program = """
import multiprocessing, sys, grepr
from pipelines.stores.object_store import open_store

def in_child(path):
    again = grepr.score(path)
    try:
        open_store(*STORE, timeout=5)
    except OSError as error:
        return again, str(error)

STORE = "az://container/a.jpg", {"account_name": "a", "anon": True}
path = sys.argv[1]
found = grepr.score(path)
open_store(*STORE, timeout=5)
with multiprocessing.get_context("fork").Pool(1) as pool:
    again, refused = pool.map_async(in_child, [path]).get(30)[0]
assert again.score == found.score, again
assert "cannot read any; start it by 'spawn'" in refused
"""
    ran = subprocess.run([sys.executable, "-c", program, folder / "0.jpg"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_usual_scorer_is_loaded_once():
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(functools.partial(grepr.score, features=True), [photo(0)] * 4))
    assert rows[0].features is not None
    assert len({row.score for row in rows}) == 1
    assert grepr.scorer._usual.cache_info().misses == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "no/such/model"}, grepr.UserError, "no/such/model"),
        ({"device": "cuda"}, ValueError, "device='cuda': PyTorch sees no GPU; leave it out"),
        ({"device": "gpu"}, ValueError, "device='gpu': expected is 'auto'"),
        ({"precision": "fp16"}, ValueError, "precision='fp16': expected is one of auto, fp32, bf16"),
        ({"threads": 0}, ValueError, "threads=0"),
        ({"max_pixels": 100}, ValueError, "max_pixels=100: .* 1024"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], error: type[Exception], words: str):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(error, match=words):
        grepr.load(**options)


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/a.jpg" else 404)
        content = jpeg(photo(1)) if self.path == "/a.jpg" else b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_urls_are_read_as_the_commands_read_them():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        read, missing, refused = scorer().score([f"{url}/a.jpg", f"{url}/b.jpg", "http://169.254.169.254/a.jpg"])
    finally:
        server.shutdown()
    assert (read.uri, read.score) == (f"{url}/a.jpg", scorer().score(jpeg(photo(1))).score)
    assert (missing.status, refused.status) == ("missing", "denied")
    assert "link-local" in refused.error


def test_rows_as_a_table(folder: Path, tmp_path: Path):
    rows = scorer().score([folder / "0.jpg", "nothing.jpg"])
    frame = grepr.to_pandas(rows)
    of_lakes = {"image_id", "member", "path", "etag"}
    assert list(frame) == [name for name in schema().names if name not in of_lakes]
    assert frame.uri.tolist() == [row.uri for row in rows]
    assert frame.score[0] == rows[0].score
    assert frame.blur[0] == rows[0].severities["blur"]
    assert frame.score.isna().tolist() == frame.width.isna().tolist() == [False, True]
    assert frame.status.tolist() == ["scored", "missing"]
    assert frame[frame.not_photo].empty
    assert grepr.to_pandas(rows[0]).equals(frame[:1])
    assert grepr.to_pandas([]).dtypes.equals(frame.dtypes)
    with_features = grepr.to_pandas(iter(scorer().score([folder / "0.jpg"], features=True)))
    np.testing.assert_array_equal(with_features.features[0], scorer().features(folder / "0.jpg"))
    frame.to_parquet(tmp_path / "rows.parquet")
    assert pd.read_parquet(tmp_path / "rows.parquet").score.tolist()[:1] == [rows[0].score]
