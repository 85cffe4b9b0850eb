"""The command line ``grepr``. Each command's program is imported when it runs, so help is instant."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from grepr_core.errors import Unavailable, UserError, without_secrets
from jobs.exit_codes import DONE, FAILED, INTERRUPTED, TOO_MANY_FAILED, WRONG_USAGE
from jobs.heartbeat import heartbeat
from jobs.parser import CommandLine
from jobs.streams import open_log, outlive_readers
from pipelines.options import (
    DemoOptions,
    EvaluateOptions,
    FilterOptions,
    FitOptions,
    LabelOptions,
    ManifestOptions,
    ModelBuildOptions,
    ModelImportOptions,
    ModelOptions,
    ModelShowOptions,
    ModelVerifyOptions,
    NightlyOptions,
    PretrainHighOptions,
    PretrainOptions,
    ReportOptions,
    ScoreOptions,
    ScoringOptions,
    SubmitOptions,
    TrainingOptions,
)
from pipelines.running.run_files import HIGH_WEIGHTS_FILE, LOW_WEIGHTS_FILE
from pipelines.telling.words import counted

if TYPE_CHECKING:
    from pipelines.scoring.run_record import RunRecord

#: Where in an output the rows are.
SCORES = "scores"
#: Variable that tells Python to be in UTF-8 mode.
_UTF8_MODE = "PYTHONUTF8"

DESCRIPTION = """Scores the perceptual quality of every photo in a lake.

Start with: grepr demo demo/

Then: grepr score ~/Pictures scores/

Results go to files and standard output, progress to standard error. Exit codes: 0 done; 1 failed, or a server, \
cluster or output was not to be had; 2 wrong usage; 3 done, but more images failed than --max-failed-fraction allows.
"""


def _demo(options: DemoOptions) -> int:
    from pipelines.demo import run

    result = run(options)
    width = max(map(len, result.scores))
    for name, score in result.scores.items():
        _print(f"{name:{width}}  {score:6.3f}")
    _print(
        f"\n{result.ordered} of {result.pairs} distorted versions score below their original. "
        f"Scores: {_below(options.output, SCORES)}, photos: {_below(options.output, 'photos')}, "
        f"to look at: {_below(options.output, 'report.html')}"
    )
    return DONE


def _manifest(options: ManifestOptions) -> int:
    from pipelines.lake.manifest import run

    manifest = run(options)
    passed_over = counted(manifest.skipped, "file of another name or kind", "files of other names or kinds")
    more = f"; {passed_over} passed over" if manifest.skipped else ""
    _print(f"{counted(manifest.images, 'image')} in {counted(manifest.shards, 'shard')}{more}")
    return DONE


def _score(options: ScoreOptions) -> int:
    if options.plan:
        from pipelines.scoring import plan

        _print(plan.to_text(plan.run(options)))
        return DONE
    from pipelines.scoring import score, update

    return _scored(update.run(options) if options.update else score.run(options), options)


def _scored(record: "RunRecord", options: ScoreOptions) -> int:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(record.counts.items()))
    speed = f"; {record.images_per_second:.1f} images/s" if record.images_per_second else ""
    _print(f"{counted(record.images, 'image')}: {counts}{speed}. Scores: {_below(options.output, SCORES)}")
    if record.reasons:
        found = sorted(record.reasons.items(), key=lambda reason: (-reason[1], reason[0]))
        _print(f"What ails them most: {', '.join(f'{name} {count}' for name, count in found)}")
    return _failed_code(record.failed_fraction, options)


def _nightly(options: NightlyOptions) -> int:
    from pipelines.scoring import nightly

    nights = nightly.run(options, datetime.now(UTC))
    codes = [FAILED if record is None else _scored(record, night) for night, record in nights]
    # Photos that an earlier night lists may be gone by now, so of that one it counts only whether it was left.
    return codes[-1] or (FAILED if FAILED in codes else DONE)


def _failed_code(failed_fraction: float, options: ScoringOptions) -> int:
    if failed_fraction <= options.max_failed_fraction:
        return DONE
    logging.error("%.1f %% of the images failed, more than --max-failed-fraction allows", 100 * failed_fraction)
    return TOO_MANY_FAILED


def _filter(options: FilterOptions) -> int:
    from pipelines.selection.distinct import DUPLICATES_FILE
    from pipelines.selection.filter import UNWRITTEN_FILE, run
    from pipelines.selection.rows import FAILED_FILE

    record = run(options)
    between = f", scores {record.lowest_score:.4g} to {record.highest_score:.4g}" if record.selected else ""
    groups = f" in {counted(record.groups, 'group')}" if record.groups is not None else ""
    _print(
        f"{record.selected} of {counted(record.images, 'image')} selected{groups}{between}. "
        f"Rows: {_below(options.output, SCORES)}"
    )
    if record.duplicates:
        images = counted(record.duplicates, "near-copy", "near-copies")
        _print(f"{images} of them left out: {_below(options.output, DUPLICATES_FILE)} says of which")
    if record.without_metadata:
        images = counted(record.without_metadata, "scored image has", "scored images have")
        _print(f"{images} no row in {options.metadata}")
    if record.failed:
        images = counted(record.failed, "image has", "images have")
        _print(f"{images} no score: {_below(options.output, FAILED_FILE)} says why")
    if record.written is None:
        return DONE
    if record.written["changed"]:
        images = counted(record.written["changed"], "image")
        _print(f"{images} changed after being scored; written is what is there now")
    if record.written["failed"]:
        images = counted(record.written["failed"], "image")
        _print(f"{images} could not be written: {_below(options.output, UNWRITTEN_FILE)} says why")
    if record.unwritten_fraction <= options.max_failed_fraction:
        return DONE
    logging.error("more images could not be written than --max-failed-fraction allows")
    return TOO_MANY_FAILED


def _report(options: ReportOptions) -> int:
    from pipelines.reporting.report import run

    result = run(options)
    images = f"{counted(result.images, 'image')}, {result.thumbnails} of them shown"
    _print(f"{result.output}: {result.bytes / 1e6:.1f} MB, {images}. Open it in a browser")
    return DONE


def _pretrain(options: PretrainOptions) -> int:
    if isinstance(options.stage, PretrainHighOptions):
        from pipelines.pretraining import high

        record, weights = high.run(options.stage), HIGH_WEIGHTS_FILE
    else:
        from pipelines.pretraining import low

        record, weights = low.run(options.stage), LOW_WEIGHTS_FILE
    last = record.epochs[-1]
    names = ("order_accuracy", "pseudo_label_spread", "probe_srocc")
    metrics = "".join(f", {name.replace('_', ' ')} {last[name]:.4f}" for name in names if name in last)
    _print(f"{counted(last['epoch'], 'epoch')}, {counted(last['step'], 'step')}: loss {last['loss']:.4f}{metrics}")
    _print(f"Weights: {_below(options.stage.output, weights)}")
    return DONE


def _label(options: LabelOptions) -> int:
    from pipelines.rating.label import run, to_text

    _print(to_text(run(options, announce=_print)))
    return DONE


def _fit(options: FitOptions) -> int:
    from pipelines.models.fit import run, to_json, to_text

    result = run(options)
    _print(json.dumps(to_json(result), indent=2) if options.json else to_text(result))
    return DONE


def _evaluate(options: EvaluateOptions) -> int:
    from pipelines.models.evaluate import run, to_json, to_text

    evaluation = run(options)
    _print(json.dumps(to_json(evaluation), indent=2) if options.json else to_text(evaluation))
    return DONE


def _model(options: ModelOptions) -> int:
    match options.action:
        case ModelShowOptions() as show:
            from grepr_core.bundles.bundle_files import BundleFiles

            card = BundleFiles.read(show.bundle).card()
            _print(json.dumps(card, indent=2, ensure_ascii=False) if show.json else _as_lines(card))
        case ModelVerifyOptions() as verify:
            from grepr_core.bundles.bundle import load_bundle

            _print(f"{verify.bundle}: intact, model id {load_bundle(verify.bundle).model_id}")
        case ModelBuildOptions() | ModelImportOptions() as make:
            from pipelines.models.bundles import build, import_published

            bundle = build(make) if isinstance(make, ModelBuildOptions) else import_published(make)
            _print(f"wrote {make.output}, model id {bundle.model_id}")
    return DONE


def _below(folder: str, name: str) -> str:
    """Gives the path of a file in a folder that a person named, with or without a slash at its end."""
    return f"{folder.rstrip('/')}/{name}"


def _as_lines(value: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", _as_lines(item, indent + "  ")]
        elif isinstance(item, list):
            lines += [f"{indent}{key}:", *(f"{indent}  {_on_one_line(part)}" for part in item)]
        else:
            lines.append(f"{indent}{key}: {item}")
    return "\n".join(lines)


def _on_one_line(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _submit(options: SubmitOptions) -> int:
    command = parse(options.command) if options.command else None
    if isinstance(command, NEEDS_THIS_MACHINE):
        raise UserError(f"{options.command[0]} works on this machine only; it cannot be submitted")
    from jobs.submit import run

    return run(options, command)


#: Options of commands that make no sense as a job.
NEEDS_THIS_MACHINE = (DemoOptions, LabelOptions, SubmitOptions)

COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "demo": (DemoOptions, _demo),
    "score": (ScoreOptions, _score),
    "report": (ReportOptions, _report),
    "filter": (FilterOptions, _filter),
    "label": (LabelOptions, _label),
    "fit": (FitOptions, _fit),
    "evaluate": (EvaluateOptions, _evaluate),
    "manifest": (ManifestOptions, _manifest),
    "nightly": (NightlyOptions, _nightly),
    "model": (ModelOptions, _model),
    "pretrain": (PretrainOptions, _pretrain),
    "submit": (SubmitOptions, _submit),
}


def parse(arguments: Sequence[str] | None = None) -> object:
    """Reads a command line; ends the process with help, or with 2 where it is wrong.

    Args:
        arguments: Without the program's name; by default those of the process.

    Returns:
        The options of the command.
    """
    kinds = {name: options for name, (options, _) in COMMANDS.items()}
    return CommandLine("grepr", DESCRIPTION, kinds).parse(arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    if arguments is None:
        _begin_in_utf8()
        outlive_readers()
    if "GREPR_DEBUG" not in os.environ:
        _mute_libraries()
    # What libraries tell of themselves, such as where they found credentials, is of no interest here.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for package in ("grepr_core", "pipelines", "jobs"):
        logging.getLogger(package).setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = parse(arguments)
        program = next(program for kind, program in COMMANDS.values() if isinstance(options, kind))
        with heartbeat():
            _check_device(options)
            code = program(options)
    except UserError as error:
        code = _complain(str(error), FAILED if isinstance(error, Unavailable) else WRONG_USAGE)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # what is left to do is to end
        code = _complain("interrupted; the same command again goes on where this one ended", INTERRUPTED)
    except Exception as error:
        if "GREPR_DEBUG" in os.environ:
            raise
        code = _complain(f"{type(error).__name__}: {error}\nGREPR_DEBUG=1 shows where", FAILED)
    sys.exit(code)


def _check_device(options: object) -> None:
    of_stage = options.stage if isinstance(options, PretrainOptions) else options
    if isinstance(of_stage, ScoringOptions | TrainingOptions) and of_stage.device == "cuda":
        from pipelines.running.session import check_gpu

        check_gpu(of_stage.device, of_stage.address)


def _begin_in_utf8() -> None:
    """Begins anew in Python's UTF-8 mode where the locale has another encoding.

    The same image would have another name there, and so another id. The processes of Ray inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable or os.environ.get(_UTF8_MODE) == "1":
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, _UTF8_MODE: "1"})  # noqa: S606 - the same program


def _mute_libraries() -> None:
    # Interrupted, an iterator of Ray Data complains from its finaliser that Ray has stopped.
    sys.unraisablehook = lambda _: None
    # Ray's native part writes advice for Ray's developers straight to the descriptor of standard error, and no setting
    # keeps it quiet. Python's own standard error moves to a copy of the descriptor before it is closed to all else.
    sys.stderr = open_log(os.dup(2))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    # A job that is stopped closes Ray as on Ctrl-C.
    raise KeyboardInterrupt


def _complain(message: str, code: int) -> int:
    print(f"grepr: {without_secrets(message)}", file=sys.stderr)  # noqa: T201
    return code


def _print(text: str) -> None:
    print(without_secrets(text), flush=True)  # noqa: T201


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


if __name__ == "__main__":  # scripts of before call it so; python -m grepr is its name now
    main()
