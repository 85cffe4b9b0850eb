"""Settings and records that another version of grepr may have written."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder, from_record
from pipelines.running.settings import changes, check_settings, option_defaults, source_settings

DEFAULTS = {"gpu_decode": False, "limits": {"min_side": 32}}


@dataclass(frozen=True)
class Options:
    source: str
    gpu_decode: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class Record:
    images: int
    changed: int = 0


def test_what_an_earlier_version_did_not_know_was_at_its_default():
    now = {"model": "m", "gpu_decode": False, "limits": {"max_bytes": 5, "min_side": 32}}
    before = {"model": "m", "limits": {"max_bytes": 5}}
    assert changes(before, now, DEFAULTS) == ""
    assert changes(before, now | {"zero_shot": True}, {**DEFAULTS, "zero_shot": False}) == (
        "--zero-shot: then not given, now given"
    )
    other = now | {"limits": {"max_bytes": 6, "min_side": 3}}
    assert changes(before, other, DEFAULTS) == "--max-image-bytes: then 5, now 6; --min-side: then 32, now 3"


def test_none_is_what_was_typed_where_there_is_a_default():
    rate = {"final_learning_rate": 1e-6}
    none = {"final_learning_rate": None}
    assert changes(none, rate, rate) == "--final-learning-rate: then none, now 1e-06"
    assert changes({"column": None}, {"column": "x"}, {"column": None}) == "--column: then not given, now x"


def test_what_only_a_later_version_knows_is_passed_over():
    now = {"model": "m", "limits": {"min_side": 32}}
    assert changes(now | {"colour": "any"} | {"limits": {"min_side": 32, "max_side": 9}}, now) == ""


def test_options_tell_the_defaults_of_settings():
    assert option_defaults(Options) == {"gpu_decode": False, "workers": None}


def test_settings_of_an_earlier_version_are_no_others(tmp_path: Path):
    folder = Folder(str(tmp_path))
    folder.write_json("settings.json", {"model": "m"})
    check_settings(folder, {"model": "m", "gpu_decode": False}, defaults=DEFAULTS, holds="scores")
    with pytest.raises(UserError, match=r"made otherwise \(decoding on the GPU: then not given, now given\)"):
        check_settings(folder, {"model": "m", "gpu_decode": True}, defaults=DEFAULTS, holds="scores")


def test_a_record_of_a_later_version_is_read_without_what_is_unknown(tmp_path: Path):
    assert from_record(Record, {"images": 3, "colour": "any"}) == Record(3)
    folder = Folder(str(tmp_path))
    folder.write_json("run.json", {"images": 3, "changed": 1, "colour": "any"})
    assert folder.read_record("run.json", Record) == Record(3, 1)


@pytest.mark.parametrize("content", [b"", b'{"images": 3', b"\xff\xfe", b"[]", b"null", b'{"changed": 1}'])
def test_a_broken_record_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/run.json: not .*; delete it and run the command that wrote it"):
        Folder(str(tmp_path)).read_record("run.json", Record)


SIGNED = "https://host/photos.csv?author=anna&sig="


def test_sources_that_differ_in_what_is_not_shown_are_two():
    anna, bob = source_settings(SIGNED + "anna"), source_settings(SIGNED + "bob")
    assert "sig=***" in str(anna["source"])
    assert changes(anna, anna) == ""
    assert changes(anna, bob) == f"source: {SIGNED}*** had something else in place of the ***"
    other = source_settings(SIGNED.replace("anna", "bob") + "anna")
    assert changes(anna, other) == f"source: then {SIGNED}***, now {other['source']}"
    assert source_settings("s3://lake/") == {"source": "s3://lake/", "source_digest": None}


def test_a_source_that_an_earlier_version_told_otherwise_is_the_same():
    now = source_settings(SIGNED + "anna")
    assert changes({"source": SIGNED + "anna"}, now) == ""  # in full
    assert changes({"source": f"{SIGNED}***"}, now) == ""  # without a digest
    assert changes({"source": "https://host/photos.csv?author=***&sig=***"}, now) == ""  # with too much left out
    assert changes({"source": SIGNED + "bob"}, now) != ""
    assert changes({"source": "https://host/photos.csv?author=bob&sig=***"}, now) != ""
