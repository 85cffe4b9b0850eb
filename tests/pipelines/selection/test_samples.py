"""Filtered tars of a WebDataset: names are kept, and what belongs to an image comes along."""

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grepr_core.storage import Folder
from pipelines.lake.manifest import write_manifest
from pipelines.lake.sources import Listing
from pipelines.options import FilterOptions
from pipelines.scoring.score_table import read_scores
from pipelines.selection.filter import run
from pipelines.selection.images import ImagesJob
from pipelines.selection.names import key_of, relative_name, sample_key
from pipelines.selection.tars import MOST_AROUND, SampleKeys, TarWriter
from tests.lake import jpeg, photo
from tests.pipelines.made_scores import MODEL, write_scores

#: Of samples, what stands behind the key. Members are in the order of their names, so some come before the image.
PARTS = {"cls": b"3", "json": b'{"caption": "a"}', "txt": "ein Löwe".encode()}


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def sample(key: str, number: int) -> dict[str, bytes]:
    image = jpeg(photo(number, (64, 64)))
    return dict(sorted({f"{key}.jpg": image, **{f"{key}.{name}": part for name, part in PARTS.items()}}.items()))


def read_samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Reads tars as WebDataset does: members that follow each other and have a key in common are a sample."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        last = None
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                key = key_of(member.name)
                if key != last:
                    assert key not in samples
                    samples[key] = {}
                last = key
                assert member.name[len(key) :] not in samples[key]
                samples[key][member.name[len(key) :]] = content.read()
    return samples


def score_sources(folder: Path, *sources: Path, members: tuple[str, ...] = ()) -> Path:
    """Lists sources and makes up scores for what they hold."""
    output = Folder(str(folder / "scores"))
    entries = [entry for source in sources for entry in Listing(str(source), all_files=False, members=members)]
    manifest = write_manifest(entries, output.child("manifest"), source=str(folder), largest_shard=1000)
    rows = [
        {name: row[name] for name in ("image_id", "uri", "member", "etag")}
        | {"status": "scored", "score": i / 100, "bytes": row["size"], "model_id": MODEL}
        for i, row in enumerate(
            row for shard in range(manifest.shards) for row in manifest.read_shard(shard).to_pylist()
        )
    ]
    write_scores(output, rows)
    return folder / "scores"


def write_here(scores: Path, output: Path, **options: object) -> dict[str, dict[str, bytes]]:
    """Selects into tars, which this process writes."""

    class Here:
        def __init__(self, kind: type[TarWriter], job: ImagesJob, shards: list[int], workers: object) -> None:
            self._writer, self._shards = kind(job), shards

        def __iter__(self):
            return iter([self._writer.process(int(shard)) for shard in self._shards])

    with (
        mock.patch("pipelines.running.shard_pool.ShardRun", Here),
        mock.patch("pipelines.running.session.ray_session"),
        mock.patch("pipelines.running.workers.cluster_workers"),
    ):
        record = run(
            FilterOptions(scores=str(scores), output=str(output), format="webdataset", **{"min_score": 0.0} | options)
        )
    assert record.written is not None
    assert record.written["failed"] == 0
    return read_samples(output / "tars")


def test_captions_and_json_travel_with_their_image(tmp_path: Path):
    members = [sample(key, i) for i, key in enumerate(["a/000", "a/001", "b/000", "b/001"])]
    write_tar(tmp_path / "x.tar", {name: part for of in members for name, part in of.items()})
    scores = score_sources(tmp_path, tmp_path / "x.tar")
    found = write_here(scores, tmp_path / "out", where="member IN ('a/001.jpg', 'b/000.jpg', 'b/001.jpg')")
    rows = {row["member"]: row for row in read_scores(Folder(str(tmp_path / "out"))).to_pylist()}
    assert list(found) == ["a/001", "b/000", "b/001"]
    for i, key in enumerate(["a/001", "b/000", "b/001"], start=1):
        assert next(iter(found[key])) == ".jpg"
        assert json.loads(found[key].pop(".grepr.json")) == rows[f"{key}.jpg"]
        assert {key + name: part for name, part in found[key].items()} == members[i]


def test_a_selection_of_a_selection_has_the_scores_once(tmp_path: Path):
    write_tar(tmp_path / "x.tar", sample("000", 0) | sample("001", 1))
    first = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "first")
    (tmp_path / "again").mkdir()
    scores = score_sources(tmp_path / "again", tmp_path / "first/tars/000000.tar")
    again = write_here(scores, tmp_path / "second")
    for key in ("000", "001"):
        assert json.loads(again[key].pop(".grepr.json"))["uri"].endswith("000000.tar")
        assert again[key] == {name: part for name, part in first[key].items() if name != ".grepr.json"}


def test_images_of_the_same_name_have_their_ids_behind_it(tmp_path: Path):
    for i in range(2):
        write_tar(tmp_path / f"{i}.tar", sample("000", i) | sample(f"only{i}", 2 + i))
    found = write_here(score_sources(tmp_path, tmp_path / "0.tar", tmp_path / "1.tar"), tmp_path / "out")
    second = next(
        row["image_id"]
        for row in read_scores(Folder(str(tmp_path / "out"))).to_pylist()
        if (Path(row["uri"]).name, row["member"]) == ("1.tar", "000.jpg")
    )
    assert set(found) == {"000", "only0", f"000-{second}", "only1"}
    for i, key in enumerate(["000", f"000-{second}", "only0", "only1"]):
        assert found[key].pop(".grepr.json")
        assert found[key] == {".jpg": jpeg(photo(i, (64, 64))), **{f".{name}": part for name, part in PARTS.items()}}


def test_only_what_is_of_the_sample_travels(tmp_path: Path):
    image = jpeg(photo(0, (64, 64)))
    members = {
        "readme.txt": b"of all",
        # Of names with further dots, which WebDataset takes for one sample, each image has its own.
        "IMG.1.jpg": image, "IMG.1.txt": b"one", "IMG.2.jpg": image, "IMG.2.txt": b"two", "IMG.json": b"{}",
        # Nor is what has further dots of its own part of a sample then.
        "s.depth.png": b"depth", "s.rgb.jpg": image, "s.txt": b"s",
        "t.jpg": image, "u.webp": image, "u.txt": b"u",
    }  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    scores = score_sources(tmp_path, tmp_path / "x.tar", members=("*.jpg", "*.webp"))
    found = write_here(scores, tmp_path / "out")
    rows = {row["member"]: row["image_id"] for row in read_scores(Folder(str(tmp_path / "out"))).to_pylist()}
    assert {key: {name for name in parts if name != ".grepr.json"} for key, parts in found.items()} == {
        "IMG": {".1.jpg", ".1.txt", ".json"},
        f"IMG-{rows['IMG.2.jpg']}": {".2.jpg", ".2.txt", ".json"},
        "s": {".rgb.jpg", ".txt"},
        "t": {".jpg"},
        "u": {".webp", ".txt"},
    }


def test_nothing_of_another_folder_travels(tmp_path: Path):
    members = {"x.d/other.txt": b"other", "x./../../../evil.txt": b"evil"}
    write_tar(tmp_path / "x.tar", {"x.jpg": jpeg(photo(0, (64, 64))), "x.txt": b"x"} | members)
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    assert {key: {*parts} for key, parts in found.items()} == {"x": {".jpg", ".txt", ".grepr.json"}}


def test_a_folder_that_was_packed_as_a_dot_keeps_its_names(tmp_path: Path):
    write_tar(tmp_path / "x.tar", sample("./a/000", 0))
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    assert found["a/000"].pop(".grepr.json")
    assert {f"./a/000{name}": part for name, part in found["a/000"].items()} == sample("./a/000", 0)
    assert relative_name("/lake/x.tar", "./a/000.jpg", "/lake/") == "x.tar/a/000.jpg"


def test_images_of_one_key_share_what_belongs_to_it(tmp_path: Path):
    image = jpeg(photo(0, (64, 64)))
    members = {
        "a/0.cls": b"0",
        "a/0.jpg": image,
        "a/0.webp": image,
        "a/0.txt": b"zero",
        "a/1.jpg": image,
        "a/1.txt": b"1",
    }
    write_tar(tmp_path / "x.tar", members)
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    (second,) = (key for key in found if key not in ("a/0", "a/1"))
    assert {key: {*parts} - {".grepr.json"} for key, parts in found.items()} == {
        "a/0": {".cls", ".jpg", ".txt"},
        second: {".cls", ".webp", ".txt"},
        "a/1": {".jpg", ".txt"},
    }


def test_an_image_that_was_appended_again_keeps_what_belongs_to_it(tmp_path: Path):
    image = jpeg(photo(0, (64, 64)))
    write_tar(tmp_path / "x.tar", {"y.jpg": image, "y.cls": b"1", "2#z.jpg": image, "2#z.cls": b"z", "z.cls": b"no"})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        for name, content in (("y.jpg", image), ("y.cls", b"2")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    assert {key: parts[".cls"] for key, parts in found.items()} == {"y": b"1", "2#y": b"2", "2#z": b"z"}
    assert all({*parts} == {".jpg", ".cls", ".grepr.json"} for parts in found.values())


def test_names_that_all_begin_alike_are_no_sample(tmp_path: Path):
    image = jpeg(photo(0, (8, 8)))
    parts = [{f"s.{i:02d}.jpg": image, f"s.{i:02d}.txt": str(i).encode()} for i in range(20)]
    write_tar(tmp_path / "x.tar", {name: part for of in parts for name, part in of.items()} | {"s.json": b"{}"})
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    assert len(found) == 20
    # The last one is next to it.
    assert sorted(len(parts) for parts in found.values()) == [3] * 19 + [4]


def test_a_film_beside_an_image_is_not_held_in_memory(tmp_path: Path):
    film = bytes(range(256)) * (256 * 1024)  # 64 MB
    write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(photo(0, (64, 64))), "0.mp4": film, "0.txt": b"zero"})
    scores = score_sources(tmp_path, tmp_path / "x.tar")
    tracemalloc.start()
    with mock.patch(f"{__name__}.read_samples"):
        write_here(scores, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(film) / 2
    (found,) = read_samples(tmp_path / "out/tars").values()
    assert (found[".mp4"], found[".txt"]) == (film, b"zero")


def test_an_archive_that_breaks_off_in_a_caption_is_told(tmp_path: Path):
    write_tar(
        tmp_path / "x.tar", {"0.jpg": jpeg(photo(0, (64, 64))), "1.jpg": jpeg(photo(1, (64, 64))), "1.txt": b"1" * 900}
    )
    with tarfile.open(tmp_path / "x.tar") as archive:
        place = archive.getmember("1.txt").offset_data
    os.truncate(tmp_path / "x.tar", place + 600)
    scores = score_sources(tmp_path, tmp_path / "x.tar")
    with pytest.raises(AssertionError):
        write_here(scores, tmp_path / "out", where="member IS NOT NULL")
    unwritten = pq.read_table(tmp_path / "out/unwritten.parquet").to_pylist()
    assert [(row["member"], "breaks off in 1.txt, which belongs to 1.jpg" in row["error"]) for row in unwritten] == [
        ("1.jpg", True)
    ]


def test_much_between_images_is_not_read_with_them(tmp_path: Path):
    film = bytes(MOST_AROUND)
    members = {
        "0.jpg": jpeg(photo(0, (64, 64))), "0.mp4": film, "0.txt": b"zero",
        "1.cls": b"1", "1.jpg": jpeg(photo(1, (64, 64))), "1.txt": b"one", "2.mp4": film,
        "9.txt": b"of no image",
    }  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    # And an archive behind another one.
    write_tar(tmp_path / "y.tar", sample("z", 2))
    with (tmp_path / "x.tar").open("ab") as file:
        file.write((tmp_path / "y.tar").read_bytes())
    found = write_here(score_sources(tmp_path, tmp_path / "x.tar"), tmp_path / "out")
    assert {key: {*parts} - {".grepr.json"} for key, parts in found.items()} == {
        "0": {".jpg", ".mp4", ".txt"},
        "1": {".cls", ".jpg", ".txt"},
        "z": {".jpg", ".cls", ".json", ".txt"},
    }
    assert found["0"][".mp4"] == film
    assert found["1"][".cls"] == b"1"
    assert found["z"][".txt"] == PARTS["txt"]


@pytest.mark.parametrize(
    ("uri", "member", "in_tar", "key"),
    [
        ("/lake/a/b.jpg", None, False, "a/b"),
        ("/lake/a/b.2.min.jpg", None, False, "a/b_2_min"),
        ("/lake/a.b/.hidden.jpg", None, False, "a.b/_hidden"),
        ("/lake/c.tar", "d.e/f.rgb.png", True, "d.e/f"),
        ("/lake/c.tar", "../f.png", True, "%2E%2E/f"),
        ("/lake/c.tar", "./d/f.png", True, "d/f"),
        ("/lake/c.tar", "././/f.png", True, "f"),
        ("/lake/c.tar", "./../f.png", True, "%2E%2E/f"),
        ("/lake/c.tar", ".f.png", True, "_f_png"),
        ("/lake/c.parquet", "image:3", False, "c.parquet/image:3"),
    ],
)
def test_keys_are_those_of_webdataset(uri: str, member: str | None, in_tar: bool, key: str):
    assert sample_key(uri, member, "/lake/", in_tar=in_tar) == key
    assert key_of(f"{key}.jpg") == key


def test_keys_are_told_apart_wherever_they_meet():
    keys = SampleKeys("/lake/")
    found = []
    for names in (["a.jpg", "b.jpg", "a.png"], ["c.jpg", "b.webp"]):
        ids = [f"{len(found) + i:032x}" for i in range(len(names))]
        columns = {
            "image_id": ids,
            "uri": [f"/lake/{name}" for name in names],
            "member": pa.nulls(len(names), pa.string()),
        }
        found += keys(pa.table(columns)).to_pylist()
    assert found == ["a", "b", f"a-{2:032x}", "c", f"b-{4:032x}"]
