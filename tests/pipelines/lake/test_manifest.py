import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import SCHEMA, _metadata, find_manifest, image_id, run, shard_sizes, write_manifest
from pipelines.lake.sources import Entry
from pipelines.options import ManifestOptions
from tests.s3_server import s3_server


def entries(n: int) -> list[Entry]:
    return [Entry(f"/lake/{i:06d}.jpg", size=i, etag=str(i)) for i in range(n)]


@pytest.mark.parametrize("n", [1, 31, 32, 33, 2048, 9000])
def test_every_image_is_in_one_shard_in_order(tmp_path: Path, n: int):
    written = write_manifest(entries(n), Folder(str(tmp_path)), source="lake", largest_shard=1000)
    manifest = find_manifest(str(tmp_path))
    assert manifest is not None
    assert (manifest.images, manifest.shards) == (written.images, written.shards) == (n, written.shards)
    table = pa.concat_tables(manifest.read_shard(shard) for shard in range(manifest.shards))
    assert table.schema.equals(SCHEMA)
    assert table["uri"].to_pylist() == [entry.uri for entry in entries(n)]
    assert table["size"].to_pylist() == list(range(n))
    shards = table["shard"].to_pylist()
    assert shards == sorted(shards)
    assert set(shards) == set(range(manifest.shards))
    assert len(set(table["image_id"].to_pylist())) == n


def test_same_source_same_manifest(tmp_path: Path):
    for name in ("one", "two"):
        write_manifest(entries(3000), Folder(str(tmp_path / name)), source="lake", largest_shard=100)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_shards_grow_but_the_last_one_stays_short_beside_the_whole():
    sizes = list(itertools.islice(shard_sizes(1000), 1000))
    assert sizes == sorted(sizes)
    assert max(sizes) == 1000
    total = 0
    for size in sizes:
        assert size <= max(32, total / 32)
        total += size


def test_many_shards_span_files(tmp_path: Path):
    manifest = write_manifest(entries(700), Folder(str(tmp_path)), source="lake", largest_shard=1)
    assert len(manifest.files) > 1
    assert manifest.read_shard(699)["uri"].to_pylist() == ["/lake/000699.jpg"]


def test_threads_read_shards_of_one_manifest_side_by_side(tmp_path: Path):
    manifest = write_manifest(entries(2000), Folder(str(tmp_path)), source="lake", largest_shard=10)
    shards = [*range(manifest.shards)] * 5
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(manifest.read_shard, shards))
    assert [table["shard"].unique().to_pylist() for table in read] == [[shard] for shard in shards]


@pytest.mark.s3
def test_a_shard_of_a_store_costs_its_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with s3_server(tmp_path):
        s3fs.S3FileSystem().mkdir("manifests")
        folder = Folder("s3://manifests/lake")
        manifest = write_manifest(entries(5000), folder, source="lake", largest_shard=100)
        manifest.read_shard(0)  # the footer is kept
        requests = []
        fetch = s3fs.core.S3File._fetch_range

        def counting(file: s3fs.core.S3File, start: int, end: int) -> bytes:
            requests.append(end - start)
            return fetch(file, start, end)

        monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counting)
        assert len(manifest.read_shard(20)) == 32
        size = folder.fs.size(folder.path(manifest.files[0].name))
    assert len(requests) == 1
    assert requests[0] < size / 20


def test_identity_depends_on_uri_and_member():
    assert image_id("a") == image_id("a")
    assert len({image_id("a"), image_id("b"), image_id("a", ""), image_id("a", "b"), image_id("ab")}) == 5


def test_command_lists_a_folder_once(tmp_path: Path):
    (tmp_path / "lake").mkdir()
    for name in ("a.jpg", "b.jpg", "c.txt"):
        (tmp_path / "lake" / name).touch()
    options = ManifestOptions(source=str(tmp_path / "lake"), manifest=str(tmp_path / "manifest"))
    assert (run(options).images, run(options).skipped) == (2, 1)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="another folder"):
        run(ManifestOptions(source=str(tmp_path / "other"), manifest=str(tmp_path / "manifest")))


def test_no_images_is_an_error_that_says_what_was_there(tmp_path: Path):
    (tmp_path / "c.txt").touch()
    with pytest.raises(UserError, match="1 file of another name was passed over"):
        run(ManifestOptions(source=str(tmp_path), manifest=str(tmp_path / "manifest")))
    assert find_manifest(str(tmp_path / "manifest")) is None


def test_a_newer_format_is_refused(tmp_path: Path):
    folder = Folder(str(tmp_path))
    write_manifest(entries(1), folder, source="lake", largest_shard=1)
    folder.write_json("manifest.json", {**folder.read_json("manifest.json"), "format_version": 99})
    with pytest.raises(UserError, match="update grepr"):
        find_manifest(str(tmp_path))


def test_a_digest_tells_manifests_apart(tmp_path: Path):
    photos = [Entry(f"{i}.jpg", etag=str(i)) for i in range(5)]

    def digest(images: list[Entry], *, shard: int = 2, name: str = "manifest") -> str:
        written = write_manifest(images, Folder(str(tmp_path / name)), source="lake", largest_shard=shard)
        found = find_manifest(str(tmp_path / name))
        assert found is not None
        assert found.digest == written.digest
        return found.digest

    same = digest(photos)
    assert digest(photos, name="elsewhere") == same
    swapped = [*photos[:4], Entry("9.jpg", etag="4")]
    others = [digest(swapped), digest([*photos[:4], Entry("4.jpg", etag="9")]), digest(photos, shard=3)]
    assert len({same, *others}) == 4
    folder = Folder(str(tmp_path / "manifest"))
    record = folder.read_json("manifest.json")
    del record["digest"]  # as an earlier version writes it
    folder.write_json("manifest.json", record)
    assert find_manifest(folder.url).digest == find_manifest(folder.url).digest


def test_a_manifest_of_an_earlier_version_has_no_paths(tmp_path: Path):
    of_now = [Entry(f"/lake/{i}.jpg", path=f"{i}.jpg") for i in range(3)]
    manifest = write_manifest(of_now, Folder(str(tmp_path)), source="lake", largest_shard=10)
    assert manifest.read_shard(0)["path"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg"]
    file = tmp_path / manifest.files[0].name
    pq.write_table(pq.read_table(file).drop_columns("path"), file)
    _metadata.cache_clear()
    before = find_manifest(str(tmp_path))
    assert before is not None
    assert before.read_shard(0).schema.equals(SCHEMA)
    assert before.read_shard(0)["path"].to_pylist() == [None] * 3
    assert before.digest == manifest.digest
