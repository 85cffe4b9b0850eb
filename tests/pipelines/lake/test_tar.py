import io
import tarfile
from pathlib import Path

import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import find_or_make_manifest, run
from pipelines.lake.sources import Entry, Listing, files, listing, places, tar
from pipelines.options import ManifestOptions


def make_tar(path: Path, names: list[str], tar_format: int = tarfile.PAX_FORMAT) -> dict[str, bytes]:
    contents = {name: f"content of {name}".encode() * 50 for name in names}
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere.jpg"
        archive.addfile(link)
    return contents


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_lie_where_the_listing_says(tmp_path: Path, tar_format: int):
    names = ["000.jpg", "000.json", "d/ü %.png", "long/" * 40 + "x.jpg"]
    contents = make_tar(tmp_path / "a.tar", names, tar_format)
    listing = Listing(str(tmp_path / "a.tar"))
    listed = list(listing)
    assert [e.member for e in listed] == [names[0], names[2], names[3]]
    assert listing.skipped == 2
    raw = (tmp_path / "a.tar").read_bytes()
    for e in listed:
        assert e.offset is not None
        assert e.size is not None
        assert raw[e.offset : e.offset + e.size] == contents[e.member or ""]


def test_many_archives_keep_their_order_by_glob_and_by_list(tmp_path: Path):
    for i in range(40):
        make_tar(tmp_path / f"{i:02d}.tar", [f"{j}.jpg" for j in range(3)])
    expected = [(str(tmp_path / f"{i:02d}.tar"), f"{j}.jpg") for i in range(40) for j in range(3)]
    assert [(e.uri, e.member) for e in Listing(str(tmp_path / "*.tar"))] == expected
    (tmp_path / "all.txt").write_text("".join(f"{i:02d}.tar\n" for i in range(40)) + "x.jpg\n")
    listed = [(e.uri, e.member) for e in Listing(str(tmp_path / "all.txt"))]
    assert listed == [*expected, (str(tmp_path / "x.jpg"), None)]


@pytest.mark.parametrize("damage", ["in a member", "in a header", "a header overwritten", "no tar"])
def test_a_broken_archive_gives_what_it_can_and_a_row_of_its_own(tmp_path: Path, damage: str):
    path = tmp_path / "a.tar"
    make_tar(path, [f"{i}.jpg" for i in range(4)])
    raw = bytearray(path.read_bytes())
    whole = list(Listing(str(path)))
    begin = whole[2].offset or 0
    match damage:
        case "in a member":
            raw = raw[: begin + 100]
        case "in a header":
            raw = raw[: begin - 200]
        case "a header overwritten":
            raw[begin - 512 : begin] = b"?" * 512
        case _:
            raw = bytearray(b"no tar at all" * 100)
    path.write_bytes(raw)
    listed = list(Listing(str(path)))
    (tar,) = (e for e in listed if e.member is None)
    assert (tar.uri, tar.size, tar.offset) == (str(path), len(raw), None)
    intact = [e.member for e in listed if e.member and (e.offset or 0) + (e.size or 0) <= len(raw)]
    assert intact == ([] if damage == "no tar" else ["0.jpg", "1.jpg"])


def test_a_name_that_comes_twice_is_two_images(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (b"1", b"22"):
            info = tarfile.TarInfo("x.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [(e.member, e.size) for e in Listing(str(tmp_path / "a.tar"))] == [("x.jpg", 1), ("2#x.jpg", 2)]


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **header: object) -> None:
    info = tarfile.TarInfo(name)
    for key, value in header.items():
        setattr(info, key, value)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_links_are_images_of_what_they_lead_to(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    hard, soft = {"type": tarfile.LNKTYPE}, {"type": tarfile.SYMTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "early.jpg", linkname="d/late.jpg", **soft)
        add(archive, "last.jpg", linkname="a.jpg", **soft)
        add(archive, "./a.jpg", b"one")
        add(archive, "b.jpg", linkname="a.jpg", **hard)
        add(archive, "c.jpg", linkname="b.jpg", **hard)
        add(archive, "a.jpg", b"two two")
        add(archive, "d/a.jpg", linkname="../a.jpg", **soft)
        add(archive, "d/late.jpg", b"three")
        add(archive, "gone.jpg", linkname="nowhere.jpg", **hard)
        add(archive, "loop.jpg", linkname="loop.jpg", **soft)
        add(archive, "round.jpg", linkname="round2.jpg", **soft)
        add(archive, "round2.jpg", linkname="round.jpg", **soft)
        add(archive, "notes", linkname="nowhere", **soft)
        add(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
        add(archive, "empty.jpg")
    raw = (tmp_path / "a.tar").read_bytes()
    listing = Listing(str(tmp_path / "a.tar"))
    found = {e.member: raw[e.offset or 0 :][: e.size] for e in listing}
    assert found == {
        **{"./a.jpg": b"one", "b.jpg": b"one", "c.jpg": b"one", "a.jpg": b"two two", "d/a.jpg": b"two two"},
        **{"early.jpg": b"three", "last.jpg": b"two two", "d/late.jpg": b"three", "empty.jpg": b""},
    }
    assert listing.skipped == 6
    assert "4 members of archives are passed over: links to what is not in their archive" in caplog.text
    assert "1 member of an archive is passed over: no files in one piece" in caplog.text


def test_a_sparse_member_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "a.jpg", b"1")
        add(archive, "sparse.jpg", pax_headers={})
        add(archive, "b.jpg", b"2")
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    header = raw.index(b"sparse.jpg")
    raw[header + 156 : header + 157] = tarfile.GNUTYPE_SPARSE
    raw[header + 386 : header + 410] = b"%011o\0%011o\0" % (0, 0)
    raw[header + 483 : header + 495] = b"%011o\0" % 5
    raw[header + 148 : header + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw[header : header + 512]))[0]
    (tmp_path / "a.tar").write_bytes(raw)
    assert [e.member for e in Listing(str(tmp_path / "a.tar"))] == ["a.jpg", "b.jpg"]
    assert "1 member of an archive is passed over: no files in one piece" in caplog.text


@pytest.mark.parametrize("zeros", [0, 512, 100 * 512])
def test_archives_that_were_joined_are_read_to_their_end(tmp_path: Path, caplog: pytest.LogCaptureFixture, zeros: int):
    contents = make_tar(tmp_path / "1.tar", ["1.jpg"], tarfile.GNU_FORMAT) | make_tar(tmp_path / "2.tar", ["2.jpg"])
    joined = (tmp_path / "1.tar").read_bytes() + bytes(zeros) + (tmp_path / "2.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(joined)
    listed = list(Listing(str(tmp_path / "a.tar")))
    assert {e.member: joined[e.offset or 0 :][: e.size] for e in listed} == contents
    (tmp_path / "a.tar").write_bytes(joined + b"\0" * 512 + b"?" * 700)
    assert [e.member for e in Listing(str(tmp_path / "a.tar"))] == ["1.jpg", "2.jpg"]
    assert f"a.tar: what follows its end, from byte {len(joined) + 512} on, is no archive" in caplog.text


def test_compressed_archives_are_refused(tmp_path: Path):
    for name in ("a.tar.gz", "a.tgz"):
        with pytest.raises(UserError, match=f"{name}: .*unpack"):
            list(Listing(str(tmp_path / name)))


def test_a_folder_of_archives_says_how_to_name_them(tmp_path: Path):
    lake = tmp_path / "lake"
    lake.mkdir()
    for i in range(3):
        make_tar(lake / f"{i}.tar", ["x.jpg"])
    with pytest.raises(UserError, match=r"3 \.tar files: name them with a glob such as '.*lake/\*\.tar'"):
        run(ManifestOptions(source=str(lake), manifest=str(tmp_path / "manifest")))


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path: Path):
    (tmp_path / "photos.tar").mkdir()
    (tmp_path / "photos.tar/a.jpg").touch()
    (entry,) = Listing(str(tmp_path / "photos.tar"))
    assert isinstance(entry, Entry)
    assert entry.uri.endswith("a.jpg")


def sample(path: Path) -> None:
    """A tar as WebDataset has it: of each sample several members."""
    make_tar(path, [f"d/{i}{kind}" for i in range(2) for kind in (".jpg", ".json", ".mask.png", ".img")] + ["._0.jpg"])


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ((), ["d/0.jpg", "d/0.mask.png", "d/1.jpg", "d/1.mask.png"]),
        (("*.jpg",), ["d/0.jpg", "d/1.jpg"]),
        (("!*.mask.png",), ["d/0.jpg", "d/1.jpg"]),
        (("*.img", "d/0.jpg"), ["d/0.jpg", "d/0.img", "d/1.img"]),
        (("*.png", "*.jpg", "!1.*"), ["d/0.jpg", "d/0.mask.png"]),
        (("[0-9].jpg",), ["d/0.jpg", "d/1.jpg"]),
        (("**/0.*", "!*.json"), ["d/0.jpg", "d/0.mask.png", "d/0.img"]),
    ],
)
def test_globs_say_which_members_count(tmp_path: Path, globs: tuple[str, ...], expected: list[str]):
    sample(tmp_path / "a.tar")
    listing = Listing(str(tmp_path / "*.tar"), members=globs)
    assert [e.member for e in listing] == expected
    assert listing.skipped == 9 + 1 - len(expected)  # a link among them
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "folder", filter="fully_trusted")
    (tmp_path / "folder/link.jpg").unlink()
    (tmp_path / "list.txt").write_text("a.tar\n")
    assert [e.member for e in Listing(str(tmp_path / "list.txt"), members=globs)] == expected
    assert {e.path for e in Listing(str(tmp_path / "folder"), members=globs)} == set(expected)


def test_globs_hold_for_what_a_source_glob_names(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("a.png", "a.mask.png", "b.raw"):
        (tmp_path / name).touch()
    listing = Listing(str(tmp_path / "*"), members=("!*.mask.png",))
    assert [e.path for e in listing] == ["a.png", "b.raw"]
    assert listing.skipped == 1
    assert "no name matches" not in caplog.text


def test_a_member_named_beside_its_archive_is_taken_once(tmp_path: Path):
    make_tar(tmp_path / "t.tar", ["x.png", "y.png"])
    (tmp_path / "list.txt").write_text("t.tar\nt.tar\tx.png\nt.tar\ty.png\n")
    assert [e.member for e in Listing(str(tmp_path / "list.txt"))] == ["x.png", "y.png"]


def test_an_archive_is_read_once_for_members_among_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_tar(tmp_path / "t.tar", [f"{i}.png" for i in range(9)])
    (tmp_path / "list.txt").write_text("".join(f"t.tar\t{i}.png\n{i}.jpg\n" for i in range(9)))
    opened = []
    monkeypatch.setattr(tar, "open_file", lambda uri, *a, **k: opened.append(uri) or files.open_file(uri, *a, **k))
    found = list(Listing(str(tmp_path / "list.txt")))
    assert [e.member for e in found] == [name for i in range(9) for name in (f"{i}.png", None)]
    assert all(e.offset is not None for e in found[::2])
    assert len(opened) == 1


@pytest.mark.parametrize(("room", "times"), [(100, 3), (10, 11), (0, 15)])
def test_archives_named_again_and_again_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, times: int
):
    for archive in "abc":
        make_tar(tmp_path / f"{archive}.tar", [f"{i}.png" for i in range(10)])
    rows = [(f"{archive}.tar", f"{i}.png") for i in range(10) for archive in "abc"]
    (tmp_path / "list.txt").write_text("".join(f"{uri}\t{member}\n" for uri, member in rows))
    opened = []
    monkeypatch.setattr(tar, "open_file", lambda uri, *a, **k: opened.append(uri) or files.open_file(uri, *a, **k))
    monkeypatch.setattr(listing, "_LOOKED_UP", 6)
    monkeypatch.setattr(places, "MOST_REMEMBERED", room)
    found = list(Listing(str(tmp_path / "list.txt")))
    assert [(Path(e.uri).name, e.member) for e in found] == rows
    assert len(opened) == times
    known = {(e.uri, e.member): (e.offset, e.size) for c in "abc" for e in Listing(str(tmp_path / f"{c}.tar"))}
    assert {(e.uri, e.member): (e.offset, e.size) for e in found} == known


def test_a_glob_that_matches_nothing_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    sample(tmp_path / "a.tar")
    assert len(list(Listing(str(tmp_path / "a.tar"), members=("*.jpg", "!*.msk.png")))) == 2
    assert caplog.text.count("no name matches --members '!*.msk.png'") == 1
    assert "*.jpg'" not in caplog.text
    options = ManifestOptions(source=str(tmp_path / "a.tar"), manifest=str(tmp_path / "m"), members=("*.JPG",))
    with pytest.raises(
        UserError, match=r"no images found \(10 files were passed over, which --members '\*.JPG' does not"
    ):
        run(options)
    for glob in ("**.jpg", "!"):
        with pytest.raises(UserError, match="--members"):
            Listing(str(tmp_path), members=(glob,))


def test_a_manifest_is_of_its_globs(tmp_path: Path):
    sample(tmp_path / "a.tar")
    source, manifest = str(tmp_path / "a.tar"), str(tmp_path / "m")
    assert run(ManifestOptions(source=source, manifest=manifest, members=("*.jpg",))).images == 2
    assert run(ManifestOptions(source=source, manifest=manifest, members=("*.jpg",))).images == 2
    with pytest.raises(UserError, match="by other --all-files, --members or --column; name another folder"):
        run(ManifestOptions(source=source, manifest=manifest))
    of = {"all_files": False, "shard_size": 9, "storage_options": {}}
    again = find_or_make_manifest(manifest, Folder(str(tmp_path / "out")), members=("*.jpg",), **of)
    assert again.images == find_or_make_manifest(manifest, Folder(str(tmp_path / "out")), members=(), **of).images == 2
    with pytest.raises(UserError, match="is a manifest, listed without --members"):
        find_or_make_manifest(manifest, Folder(str(tmp_path / "out")), members=("*.png",), **of)
