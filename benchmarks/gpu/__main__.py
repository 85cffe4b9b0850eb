"""Whether scores on a GPU are right, how fast they come, and what bounds them: one command, some minutes.

right   scores and features beside those of the CPU in float32, by precision and batch, and twice the same; pixels that
        threads decode beside a busy GPU; zero-shot scores; pytest -m gpu
fast    the forward pass beside what the card can do at most; the scorer fed from memory and from disk, by threads and
        processes; synchronisations; steps of pretraining
whole   grepr score on a folder, with --pipeline, where Ray is installed

Photographs are made unless a folder is given. The most important comes first, every measurement takes its share of the
time that is left, and what there is no time for is named. Tables are printed; the same is in CARD-DATE.json, which is
written anew after every row, so that a run that is cut leaves what it has. Exit code 1: something is not right.

Example: python -m benchmarks.gpu --minutes 8
"""

import argparse
import faulthandler
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.feeding import Feeding
from benchmarks.gpu.forward import Forward
from benchmarks.gpu.photographs import find_photographs, make_photographs
from benchmarks.gpu.report import Report, machine
from benchmarks.gpu.right import Right
from benchmarks.gpu.steps import Setting, Step, carry_out
from benchmarks.gpu.training import Training
from benchmarks.gpu.whole import Whole
from grepr_core.bundles.bundle import load_bundle
from grepr_core.encoders.inference import resolve_device
from grepr_core.encoders.precision import Precision, has_bf16

#: Of a folder; as many as are made of both kinds of usual size.
MOST = 384
#: What hangs is ended with its stack so long after the time is over.
GRACE = 60


def main(arguments: list[str] | None = None) -> int:
    """Runs the measurements.

    Args:
        arguments: Of the command line; those of the process if None.

    Returns:
        The exit code.
    """
    began = time.monotonic()
    options = _parser().parse_args(arguments)
    faulthandler.dump_traceback_later(options.minutes * 60 + GRACE, exit=True, file=sys.__stderr__)
    try:
        device = resolve_device(options.device)
        with tempfile.TemporaryDirectory() as temporary:
            report = Report(options.output, machine(device))
            setting = _setting(options, device, Path(temporary))
            left = options.minutes * 60 - (time.monotonic() - began)
            carry_out(_steps(setting, options.pipeline), report, seconds=left, quick=options.quick)
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"\n{'all is right' if report.right else 'NOT ALL IS RIGHT'}; {report.path}")
    return 0 if report.right else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photographs in place of made ones")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the program itself")
    parser.add_argument("--quick", action="store_true", help="everything as small as can be: the figures mean nothing")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it (%(default)g)")
    parser.add_argument("--pipeline", action="store_true", help="grepr score too, which needs Ray")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results"), help="folder of the JSON (%(default)s)"
    )
    return parser


def _setting(options: argparse.Namespace, device: torch.device, folder: Path) -> Setting:
    precisions: list[Precision] = ["bf16", "fp32"] if has_bf16(device.type) else ["fp32"]
    return Setting(
        device=device,
        quick=options.quick,
        bundle=load_bundle("grepr-lite"),
        kinds=find_photographs(options.photos, MOST)
        if options.photos
        else make_photographs(folder / "photographs", quick=options.quick),
        folder=folder,
        precisions=precisions,
    )


def _steps(setting: Setting, pipeline: bool) -> list[Step]:
    right, forward, feeding = Right(setting), Forward(setting), Feeding(setting)
    return [
        *right.first_steps(),
        *forward.first_steps(),
        *feeding.first_steps(),
        *(Whole(setting).steps() if pipeline else ()),
        *right.more_steps(),
        *feeding.more_steps(),
        *Training(setting).steps(),
        *forward.more_steps(),
    ]


if __name__ == "__main__":
    sys.exit(main())
