"""The command line without its programs: help, wrong usage, exit codes."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import cli
from jobs.cli import COMMANDS, main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(autouse=True)
def keep_standard_error(monkeypatch: pytest.MonkeyPatch):
    # The command line moves the descriptor, which in these tests is pytest's.
    monkeypatch.setattr("jobs.cli._mute_libraries", lambda: None)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example: grepr {command}" in out


def test_help_is_instant_because_it_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from jobs.cli import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'torch', 'ray', 'pandas', 'pyarrow'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_a_command_that_only_drives_waits_for_no_pytorch():
    program = "import sys, pipelines.scoring.nightly\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_on_what_is_there_wait_for_no_pytorch_and_no_ray():
    program = (
        "import sys, grepr_core.bundles.bundle_files, pipelines.lake.manifest, pipelines.selection.filter\n"
        "import pipelines.reporting.report\n"
        "sys.exit(str({'torch', 'ray', 'pandas', 'aiohttp'} & sys.modules.keys() or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "SOURCE"),
        (["score", "a"], "OUT"),
        (["score", "a", "b", "--workers", "0"], "--workers must be at least 1"),
        (["score", "a", "b", "--max-pixels", "9"], "--max-pixels"),
        (["score", "a", "b", "--processes-per-gpu", "2", "--device", "cpu"], "--processes-per-gpu"),
        (["score", "a", "b", "--processes-per-gpu", "0"], "--processes-per-gpu"),
        (["score", "a", "b", "--max-failed-fraction", "2"], "between 0 and 1"),
        (["score", "a", "b", "--storage-options", "[]"], "storage-options"),
        (["score", "a", "b", "--storage-options", "{"], "storage-options"),
        (["score", "a", "b", "--nonsense"], "nonsense"),
        (["filter", "a"], "--output"),
        (["filter", "a", "--output", "b"], "nothing to select by"),
        (["filter", "a", "--output", "b", "--min-score", "0.5", "--top-fraction", "0.1"], "exclude each other"),
        (["filter", "a", "--output", "b", "--top", "3", "--format", "zip"], "zip"),
        (["report", "/nowhere"], "there is no such folder, or nothing in it"),
        (["report", "/nowhere", "--output", "a.html"], "there is no such folder, or nothing in it"),
        (["model", "build", "--output", "a"], "--low, --high or both"),
        (["model", "import", "--low", "a", "--output", "b"], "--low and --pristine go together"),
        (["fly"], "fly"),
    ],
)
def test_wrong_usage_names_what_is_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in out + err


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
@pytest.mark.parametrize(
    "command",
    [
        ("score", "a", "b"),
        ("nightly", "a", "b"),
        ("filter", "a", "--output", "b", "--top", "1"),
        ("label", "a", "--output", "b"),
        ("fit", "a", "--images", "b", "--output", "c"),
        ("evaluate", "a", "--images", "b"),
        ("pretrain", "low", "a", "--output", "b"),
        ("pretrain", "high", "a", "--output", "b"),
    ],
)
def test_a_command_does_not_work_through_a_client(
    command: tuple[str, ...], address: str, capsys: pytest.CaptureFixture[str]
):
    code, out, err = run(capsys, *command, "--address", address)
    assert code == 2
    said = " ".join((out + err).replace("│", " ").split())
    assert f"--address {address}: a command does not work through Ray's client" in said
    assert "grepr submit --address" in said


@pytest.mark.parametrize(
    "command",
    [
        ("score", "{here}", "{here}/out"),
        ("score", "{here}", "{here}/out", "--plan"),
        ("nightly", "{here}", "{here}/out"),
        ("label", "{here}", "--output", "{here}/out"),
        ("fit", "{here}/a.csv", "--images", "{here}", "--output", "{here}/out"),
        ("evaluate", "{here}/a.csv", "--images", "{here}"),
        ("pretrain", "low", "{here}", "--output", "{here}/out"),
    ],
    ids=" ".join,
)
def test_without_a_gpu_nothing_is_made_for_one(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    code, _, err = run(capsys, *(word.format(here=tmp_path) for word in command), "--device", "cuda")
    assert code == 2
    assert err.startswith("grepr: --device cuda: this machine shows no GPU")
    assert not list(tmp_path.iterdir())


def test_a_cluster_may_have_the_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cli._check_device(cli.parse(["score", "a", "b", "--device", "cuda", "--address", "head:6379"]))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # as in a job
    cli._check_device(cli.parse(["score", "a", "b", "--device", "cuda"]))


def test_errors_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, "score", str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert code == 2
    assert err.startswith("grepr: ")
    assert "no such file or folder" in err
    code, _, err = run(capsys, "score", str(tmp_path), str(tmp_path / "out"), "--model", str(tmp_path / "nothing"))
    assert code == 2
    assert "no model bundle" in err
    assert "grepr-lite" in err


def test_a_failure_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.lake.manifest.write_manifest", fail)
    code, _, err = run(capsys, "manifest", str(tmp_path), str(tmp_path / "manifest"))
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err
    monkeypatch.setenv("GREPR_DEBUG", "1")
    with pytest.raises(OSError, match="No space"):
        main(["manifest", str(tmp_path), str(tmp_path / "manifest")])


def test_what_is_told_holds_no_secrets_of_urls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    source = "http://me:SECRET@127.0.0.1:9/a.csv?sig=SECRET"

    def log_and_fail(*_: object, **__: object) -> None:
        logging.getLogger("pipelines.lake").warning("%s: warned", source)
        raise OSError(f"{source}: failed")

    monkeypatch.setattr("pipelines.lake.manifest.write_manifest", log_and_fail)
    code, _, err = run(capsys, "manifest", source, str(tmp_path / "manifest"))
    assert code == 1
    assert "warned" in err
    assert "failed" in err
    assert "SECRET" not in err


def test_manifest_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a.jpg", "b.png", "notes.txt"):
        (tmp_path / name).touch()
    code, out, _ = run(capsys, "manifest", str(tmp_path), str(tmp_path / "manifest"))
    assert code == 0
    assert out == "2 images in 1 shard; 1 file of another name or kind passed over\n"


def test_model_commands(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "model", "show", "grepr-lite")
    assert code == 0
    assert "BIQ2021" in out
    assert "ratings: 5300" in out
    code, out, _ = run(capsys, "model", "verify", "grepr-lite")
    assert code == 0
    assert "intact" in out


@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1"])
def test_a_command_is_in_utf8_whatever_the_locale(locale: str):
    program = "import sys, jobs.cli\njobs.cli._begin_in_utf8()\nsys.stdout.buffer.write(sys.argv[1].encode())"
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program, "é"], capture_output=True, check=False, env=environment)
    assert done.stdout.decode() == "é", done.stderr


def test_scoring_ends_with_what_ails_the_photos(capsys: pytest.CaptureFixture[str]):
    record = SimpleNamespace(
        images=9, counts={"scored": 9}, images_per_second=None, failed_fraction=0, reasons={"blur": 1, "not_photo": 3}
    )
    options = SimpleNamespace(output="scores", max_failed_fraction=0.05)
    cli._scored(record, options)
    assert "What ails them most: not_photo 3, blur 1" in capsys.readouterr().out
    record.reasons = {}
    cli._scored(record, options)
    assert "ails" not in capsys.readouterr().out
