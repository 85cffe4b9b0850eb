import re
from pathlib import Path

import pytest

from grepr_core.encoders.precision import Precision
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.running import precision
from pipelines.running.precision import check_precision, recorded_precision, settle_precision, shared_precision
from pipelines.running.settings import SETTINGS_FILE, check_settings
from pipelines.running.workers import Workers

ON_CPUS, ON_GPUS = Workers(3, 1, 0, 0), Workers(3, 1, 1, 0)


def output(path: Path, recorded: str | None) -> Folder:
    folder = Folder(str(path))
    if recorded:
        folder.write_json(SETTINGS_FILE, {"precision": recorded})
    return folder


@pytest.mark.parametrize(
    ("asked", "own", "before", "expected"),
    [
        ("auto", "bf16", "fp32", "bf16"),
        ("auto", "fp32", None, "fp32"),
        ("auto", None, "bf16", "bf16"),
        ("auto", None, None, "auto"),
        ("auto", "auto", "bf16", "auto"),  # rows of either may be there already
        ("fp32", "bf16", "bf16", "fp32"),  # refused by the settings, in their words
    ],
)
def test_auto_goes_on_as_the_output_was_begun(
    asked: Precision, own: str | None, before: str | None, expected: str, tmp_path: Path
):
    outputs = output(tmp_path / "out", own), output(tmp_path / "before", before)
    assert recorded_precision(asked, *outputs) == expected
    assert recorded_precision(asked, outputs[0], None) == (expected if own or asked != "auto" else "auto")


@pytest.mark.parametrize(
    ("answers", "expected", "said"),
    [
        ([True, True], "bf16", []),
        ([False, False], "fp32", []),
        ([True, False, True], "fp32", ["1 of 3 machines without bf16, so all work in fp32"]),
        ([], "fp32", []),  # none has answered in time
    ],
)
def test_bf16_is_what_all_machines_have(
    answers: list[bool],
    expected: str,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(precision, "_nodes", lambda _workers: ["a", "b"])
    monkeypatch.setattr(precision, "_answers", lambda _nodes, device: iter(answers) if device == "cuda" else None)
    with caplog.at_level("INFO"):
        assert shared_precision(ON_GPUS) == expected
    assert caplog.messages == said


@pytest.mark.usefixtures("one_ray")
def test_machines_are_asked(monkeypatch: pytest.MonkeyPatch):
    (node,) = precision._nodes(ON_CPUS)
    assert precision._nodes(ON_GPUS) == []
    assert list(precision._answers([node], "cpu")) == [precision.has_bf16("cpu")]
    assert precision._first_answer(ON_CPUS, "cpu") == precision.has_bf16("cpu")
    # The only machine is this one, so this process knows.
    monkeypatch.setattr(precision, "_answers", None)
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "has_bf16", lambda _device, has=has: has)
        assert shared_precision(ON_CPUS) == expected


def test_a_machine_that_cannot_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "has_bf16", lambda _device: False)
    check_precision("fp32", "cpu")
    with pytest.raises(UserError, match=re.compile(r"^the CPU of \S+ has no bf16, .* --precision fp32$")):
        check_precision("bf16", "cpu")
    monkeypatch.setattr(precision, "has_bf16", lambda _device: True)
    check_precision("bf16", "cpu")


def test_what_auto_is_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(str(tmp_path))
    settings = {"source": "photos", "precision": "auto"}
    check_settings(folder, settings, defaults={}, holds="scores")
    assert not folder.exists(SETTINGS_FILE)
    monkeypatch.setattr(precision, "shared_precision", lambda _workers: "bf16")
    assert settle_precision(folder, settings, ON_CPUS) == settings["precision"] == "bf16"
    assert folder.read_json(SETTINGS_FILE) == settings
    # Elsewhere, where the machines have none.
    monkeypatch.setattr(precision, "shared_precision", lambda _workers: "fp32")
    again = {"source": "photos", "precision": recorded_precision("auto", folder)}
    check_settings(folder, again, defaults={}, holds="scores")
    assert settle_precision(folder, again, ON_CPUS) == "bf16"
    with pytest.raises(UserError, match="--precision: then bf16, now fp32"):
        check_settings(folder, {"source": "photos", "precision": "fp32"}, defaults={}, holds="scores")


def test_an_output_of_an_earlier_version_stays_as_it_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = output(tmp_path, "auto")
    settings = {"precision": recorded_precision("auto", folder)}
    check_settings(folder, settings, defaults={}, holds="scores")
    monkeypatch.setattr(precision, "has_bf16", lambda _device: True)
    assert settle_precision(folder, settings, "cpu") == "bf16"
    assert settings == folder.read_json(SETTINGS_FILE) == {"precision": "auto"}
