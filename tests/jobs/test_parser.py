"""Help and complaints of the command line, as people read them."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest

from jobs.cli import COMMANDS, parse
from jobs.exit_codes import FAILED, WRONG_USAGE
from jobs.option_fields import subcommands
from jobs.parser import CommandLine
from pipelines.options.shown import Value

#: Every command, with those below others.
PATHS = []
for name, (kind, _) in COMMANDS.items():
    _, below = subcommands(kind) or ("", {})
    PATHS += [(name, command) for command in below] or [(name,)]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_is_in_words_and_fits(
    path: tuple[str, ...], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = said(capsys, *path, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= width
    assert not re.search(r"\bNone\b|\bINT\b|\bSTR\b|\bFLOAT\b|Options\b.*Error|<class", out)
    headings = re.findall(r"^(\w+):$", out, re.MULTILINE)
    assert headings == [title for title in ("Options", "Reading", "Engine", "Advanced") if title in headings]
    assert headings[0] == "Options"
    for explanation in re.split(r"^  (?=-)", out, flags=re.MULTILINE)[1:]:
        assert len(re.findall(r"[Dd]efault", explanation)) <= 1, explanation


def test_what_is_needed_comes_first_and_flags_tell_what_they_do(capsys: pytest.CaptureFixture[str]):
    _, out, _ = said(capsys, "fit", "--help")
    assert out.startswith("Usage: grepr fit RATINGS --images FOLDER --output FOLDER [OPTIONS]\n")
    assert re.search(r"Options:\n  --images FOLDER or URL .*\n.*--output FOLDER or URL", out)
    _, out, _ = said(capsys, "report", "--help")
    assert re.search(r"--no-thumbnails +Show no ", out)


@pytest.mark.parametrize("path", [(), *PATHS], ids=" ".join)
def test_help_is_a_command_too(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert said(capsys, "help", *path) == said(capsys, *path, "--help")
    if not path:
        assert said(capsys) == said(capsys, "--help")


def test_version(capsys: pytest.CaptureFixture[str]):
    assert said(capsys, "--version") == (0, f"grepr {version('grepr')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("scroe a b", "grepr: no command 'scroe'; did you mean score?"),
        ("pretrain lov a", "grepr pretrain: no command 'lov'; did you mean low?"),
        ("show grepr-lite", "grepr: no command 'show'; did you mean model show?"),
        ("help evalaute", "grepr: no command 'evalaute'; did you mean evaluate?"),
        ("score a b --worker 3", "grepr score: no option --worker; did you mean --workers?"),
        ("report a --top 3", "grepr report: no option --top"),
        ("score", "grepr score: SOURCE and OUT are missing"),
        ("fit a --output b", "grepr fit: --images is missing"),
        ("score a b c.jpg", "grepr score: 'c.jpg' is one word too many: SOURCE is 'a' and OUT is 'b'"),
        ("score a b --workers 1.5", "grepr score: --workers: '1.5' is no whole number"),
        ("filter a --output b --min-score good", "grepr filter: --min-score: 'good' is no number"),
        ("score a b --workers", "grepr score: --workers needs a value, NUMBER"),
        ("filter a --output --top 3", "grepr filter: --output needs a value, FOLDER or URL"),
        ("score a b --plan=yes", "grepr score: --plan takes no value"),
        ("score a b --device gpu", "grepr score: --device: 'gpu' is none of auto, cpu, cuda"),
        ("score a b --within 10", "grepr score: --within: '10' is no duration such as 90s, 45m, 10h or 2d"),
        ("score a b --storage-options [1]", "grepr score: --storage-options: '[1]' is no JSON object such as"),
        ("score a b --workers 0", "grepr score: --workers must be at least 1"),
    ],
)
def test_a_complaint_is_of_its_command_and_tells_where_to_look(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
):
    code, out, err = said(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.endswith(f"'{message.partition(':')[0]} --help' shows more\n")


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Try an option with and without a value."""

    within: Annotated[int | None, Value("BITS", bare="6")] = None
    """How many."""

    flag: bool = False
    """Another."""


def test_an_option_may_do_without_its_value(capsys: pytest.CaptureFixture[str]):
    line = CommandLine("grepr", "Trial.", {"try": Bare})
    assert line.parse(["try"]) == Bare()
    assert line.parse(["try", "--within", "--flag"]) == Bare(within=6, flag=True)
    assert line.parse(["try", "--within"]) == Bare(within=6)
    assert line.parse(["try", "--within", "3"]) == Bare(within=3)
    with pytest.raises(SystemExit):
        line.parse(["try", "--help"])
    assert "--within [BITS]" in capsys.readouterr().out


def test_values_are_what_they_were():
    options = parse(
        ["score", "a", "b", "--members", "*.jpg", "--members", "!*.x.jpg", "--max_pixels", "4096", "--plan"]
    )
    assert options.members == ("*.jpg", "!*.x.jpg")
    assert (options.max_pixels, options.plan, options.update, options.within) == (4096, True, False, 36000.0)
    low = ["pretrain", "low", "a", "--output", "b"]
    assert parse([*low, "--final-learning-rate", "None"]).stage.final_learning_rate is None
    assert parse(low).stage.final_learning_rate == 1e-6
    assert parse(["evaluate", "a", "--images", "b", "--no-zero-shot"]).zero_shot is False
    assert parse(["filter", "a", "--output=b", "--min-score", "-0.5"]).min_score == -0.5
    # What arguments are called in the dataclasses is a value like any other.
    assert parse(["score", "source", "output", "--since", "output", "--model", "source"]).since == "output"
    assert parse(["report", "scores", "--compare=scores", "--title", "scores"]).title == "scores"
    submitted = parse(["submit", "--address", "http://a:1", "--", "score", "a", "b", "--workers", "2", "--", "c"])
    assert submitted.command == ("score", "a", "b", "--workers", "2", "--", "c")


@pytest.mark.parametrize("arguments", [("--help",), ("score", "--help"), ("model", "show", "grepr-lite"), ("fly",)])
def test_nobody_has_to_read_to_the_end(arguments: tuple[str, ...]):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "grepr", *arguments]
    unread = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    read = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert (unread.returncode, unread.stderr) == (read.returncode, read.stderr)
    assert subprocess.run(command, stdout=writer, stderr=writer, check=False).returncode == read.returncode
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_results_that_cannot_be_written_are_told_and_what_is_told_may_be_lost():
    command = [sys.executable, "-m", "grepr", "model", "verify", "grepr-lite"]
    with open("/dev/full", "wb") as full:
        unwritten = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert unwritten.returncode == FAILED
        assert "No space left on device" in unwritten.stderr
        assert "Traceback" not in unwritten.stderr
        shown = subprocess.run([*command[:3], "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert shown.returncode == FAILED
        assert "Traceback" not in shown.stderr
        code = subprocess.run([*command[:3], "fly"], stderr=full, check=False).returncode
        assert code == WRONG_USAGE


def test_help_takes_no_value(capsys: pytest.CaptureFixture[str]):
    for arguments in (["--help=3"], ["score", "--help=3"]):
        with pytest.raises(SystemExit) as ended:
            parse(arguments)
        assert ended.value.code == WRONG_USAGE
        assert "--help takes no value" in capsys.readouterr().err
