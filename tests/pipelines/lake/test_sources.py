import os
from pathlib import Path

import fsspec
import pytest

from grepr_core.errors import UserError
from pipelines.lake.sources import Entry, Listing, path_to_uri, uri_to_path
from pipelines.lake.sources.entry import path_from


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def uris(source: str | Path, **options: bool) -> list[str]:
    return [entry.uri for entry in Listing(str(source), **options)]


def test_a_folder_lists_images_in_a_stable_order(tmp_path: Path):
    for name in ("b.jpg", "a/z.PNG", "a/y.jpeg", "c.heic", "é.webp", "a-b.gif"):
        touch(tmp_path / name)
    listed = uris(tmp_path)
    assert listed == uris(tmp_path)
    assert sorted(listed) == sorted(
        str(tmp_path / name) for name in ("b.jpg", "a/z.PNG", "a/y.jpeg", "c.heic", "é.webp", "a-b.gif")
    )


def test_files_of_other_names_are_counted_not_listed(tmp_path: Path):
    for name in ("a.jpg", "notes.txt", ".hidden.jpg", ".git/x.jpg", "README"):
        touch(tmp_path / name)
    listing = Listing(str(tmp_path))
    assert [entry.uri for entry in listing] == [str(tmp_path / "a.jpg")]
    assert listing.skipped == 4  # a hidden folder is one
    assert len(uris(tmp_path, all_files=True)) == 5


def test_relative_paths_and_file_urls_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path / "lake/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert uris("lake") == uris(f"file://{tmp_path}/lake") == [str(tmp_path / "lake/a.jpg")]


def test_glob_takes_what_it_matches(tmp_path: Path):
    for name in ("a/1.jpg", "a/b/2.jpg", "a/3.dat"):
        touch(tmp_path / name)
    assert uris(f"{tmp_path}/**/*.jpg") == [str(tmp_path / "a/1.jpg"), str(tmp_path / "a/b/2.jpg")]
    assert uris(f"{tmp_path}/a/*.dat") == [str(tmp_path / "a/3.dat")]


def test_a_folder_named_like_a_glob_is_a_folder(tmp_path: Path):
    touch(tmp_path / "2024 [best]/a.jpg")
    assert uris(tmp_path / "2024 [best]") == [str(tmp_path / "2024 [best]/a.jpg")]


def test_a_single_file(tmp_path: Path):
    assert uris(touch(tmp_path / "a.jpg")) == [str(tmp_path / "a.jpg")]


def test_links(tmp_path: Path):
    touch(tmp_path / "lake/a.jpg")
    (tmp_path / "lake/loop").symlink_to(tmp_path / "lake")
    (tmp_path / "lake/self.jpg").symlink_to("self.jpg")
    (tmp_path / "lake/broken.jpg").symlink_to("nowhere")
    touch(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "lake/link").symlink_to(tmp_path / "elsewhere")
    names = {os.path.relpath(uri, tmp_path / "lake") for uri in uris(tmp_path / "lake")}
    assert names == {"a.jpg", "link/b.jpg", "self.jpg", "broken.jpg"}


def test_names_that_are_not_utf8_survive(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe 100%.jpg"
    Path(os.fsdecode(path)).write_bytes(b"x")
    (uri,) = uris(tmp_path)
    assert uri.startswith("file:///")
    assert uri.encode().isascii()
    assert Path(uri_to_path(uri)).read_bytes() == b"x"


@pytest.mark.parametrize("path", ["/a b/ü%20?.jpg", "/a\nb'\".jpg", "/🐈.png"])
def test_ordinary_paths_are_their_own_uri(path: str):
    assert path_to_uri(path) == uri_to_path(path) == path


def test_size_and_etag_follow_the_file(tmp_path: Path):
    path = touch(tmp_path / "a.jpg", b"12345")
    (before,) = Listing(str(path))
    assert before.size == 5
    path.write_bytes(b"123456")
    (after,) = Listing(str(path))
    assert after.etag != before.etag


def test_other_file_systems():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sources-lake/a.jpg", b"123")
    fs.pipe_file("/sources-lake/b/c.png", b"1")
    fs.pipe_file("/sources-lake/b/notes.txt", b"1")
    listing = Listing("memory://sources-lake")
    assert list(listing) == [Entry("memory:///sources-lake/a.jpg", 3), Entry("memory:///sources-lake/b/c.png", 1)]
    assert listing.skipped == 1
    assert uris("memory://sources-lake/**/*.png") == ["memory:///sources-lake/b/c.png"]


def test_a_missing_source_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        uris(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        uris("memory://nowhere")


def test_names_with_a_tilde_are_no_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = str(touch(tmp_path / "~tilde.jpg"))
    (tmp_path / "list.txt").write_text("~tilde.jpg\n./~tilde.jpg\n")
    for source in ("./~tilde.jpg", "~tilde.jpg", f"file:{name}", ".", "list.txt"):
        assert uris(source) == [name]


def test_file_urls_in_tables_are_decoded(tmp_path: Path):
    name = str(touch(tmp_path / "my dir/ü.jpg"))
    quoted = name.replace(" ", "%20").replace("ü", "%C3%BC")
    for begin in ("file:", "file://", "FILE://localhost"):
        (tmp_path / "list.txt").write_text(f"{begin}{quoted}\n")
        assert uris(tmp_path / "list.txt") == uris(f"{begin}{quoted}") == [name]


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_a_locale_changes_no_uri(encoding: str, monkeypatch: pytest.MonkeyPatch):
    name = "/lake/é.jpg".encode()
    in_that_locale = name.decode(encoding, "surrogateescape")
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda path: path.decode(encoding, "surrogateescape"))
    assert path_to_uri(in_that_locale) == "/lake/é.jpg"
    assert uri_to_path("/lake/é.jpg") == uri_to_path("file:///lake/%C3%A9.jpg") == in_that_locale


def paths(source: str | Path, **options: bool) -> list[str | None]:
    return [entry.path for entry in Listing(str(source), **options)]


def test_a_path_is_the_same_wherever_the_lake_is(tmp_path: Path):
    lakes = [tmp_path / "lake", tmp_path / "moved" / os.fsdecode(b"\xff lake [1]")]
    for lake in lakes:
        for name in ("a.jpg", "d/é b.jpg", "d/e/c.jpg", os.fsdecode(b"d/\xff%.jpg")):
            touch(lake / name)
        (lake / "d/list.txt").write_text(f"é b.jpg\n./e/c.jpg\n../a.jpg\n{lakes[0]}/d/e/c.jpg\nhttp://h/x.jpg\n")
        touch(lake / "broken.jpg").unlink()
        (lake / "broken.jpg").symlink_to("nowhere")
    everything = ["a.jpg", "broken.jpg", "d/e/c.jpg", "d/é b.jpg", "file:d/%FF%25.jpg"]
    for lake in lakes:
        assert paths(lake) == everything
        assert paths(lake / "d/e/c.jpg") == ["c.jpg"]
        assert paths(lake / "d/list.txt")[:3] == ["é b.jpg", "e/c.jpg", "../a.jpg"]
        assert paths(lake / "d/list.txt")[-1] is None
    assert paths(f"{lakes[0]}/**/*.jpg") == everything
    assert paths(f"{lakes[0]}/[d]/e/*.jpg") == ["d/e/c.jpg"]
    assert paths(f"{lakes[0]}/*/list.txt")[:3] == ["d/é b.jpg", "d/e/c.jpg", "a.jpg"]


def test_paths_on_other_file_systems():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/paths-lake/a.jpg", b"123")
    fs.pipe_file("/paths-lake/b/c.png", b"1")
    assert paths("memory://paths-lake") == paths("memory://paths-lake/**/*.*") == ["a.jpg", "b/c.png"]
    assert paths("memory://paths-lake/b/c.png") == ["c.png"]


@pytest.mark.parametrize(
    ("uri", "root", "expected"),
    [
        ("s3://b/t/a.jpg", "s3://b/t/", "a.jpg"),
        ("s3://b/p/a.jpg", "s3://b/t/", "../p/a.jpg"),
        ("s3://b/a.jpg", "s3://b/", "a.jpg"),
        ("s3://c/a.jpg", "s3://b/", None),
        ("/a.jpg", "s3://b/", None),
        ("s3://b/a.jpg", "/t/", None),
        ("http://h/t/a%20b.jpg?x=1", "http://h/t/", "a%20b.jpg?x=1"),
    ],
)
def test_a_path_leads_from_a_folder_to_an_image(uri: str, root: str, expected: str | None):
    assert path_from(uri, root) == expected


def test_a_file_that_a_glob_finds_twice_is_one(tmp_path: Path):
    touch(tmp_path / "a/b/c.jpg")
    assert uris(f"{tmp_path}/**/**/*.jpg") == [str(tmp_path / "a/b/c.jpg")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.jpg", ["a.jpg", "d/b.jpg", "d/e/c.jpg"]),
        ("**", ["a.jpg", "d/b.jpg", "d/e/c.jpg", "notes"]),
        ("*", ["a.jpg", "notes"]),
        ("d/**", ["d/b.jpg", "d/e/c.jpg"]),
        ("**/e/*", ["d/e/c.jpg"]),
        ("*/b.jpg", ["d/b.jpg"]),
        ("[ad]/*.jp?", ["d/b.jpg"]),
        (".*/*.jpg", [".h/x.jpg"]),
        ("**/.*", ["d/.y.jpg"]),
        ("*/nowhere/*", []),
    ],
)
def test_globs_match_as_in_a_shell(tmp_path: Path, pattern: str, expected: list[str]):
    for name in ("a.jpg", "notes", "d/b.jpg", "d/e/c.jpg", ".h/x.jpg", "d/.y.jpg"):
        touch(tmp_path / name)
    (tmp_path / "d/e/loop").symlink_to(tmp_path / "d")
    assert uris(f"{tmp_path}/{pattern}") == [f"{tmp_path}/{name}" for name in expected]


def test_a_folder_that_a_glob_cannot_search_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path / "d/a.jpg")
    touch(tmp_path / "e/b.jpg")
    listdir = os.listdir

    def refuse(folder: str) -> list[str]:
        if folder == f"{tmp_path}/d":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    for source in (tmp_path, f"{tmp_path}/**/*.jpg", f"{tmp_path}/*/*.jpg", f"{tmp_path}/d/*"):
        assert uris(source)[0] == f"{tmp_path}/d"
