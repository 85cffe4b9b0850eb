"""What was found: tables that are printed, and JSON that is written anew after every row."""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

#: Cells by column. ``right`` is for what has to hold.
Row = dict[str, Any]


class Report:
    """The tables of a run.

    Args:
        folder: For the file ``CARD-DATE.json``.
        machine: As :func:`machine` tells it.

    Attributes:
        path: Of the file.
        tables: Rows, by table.
    """

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        self._began = time.monotonic()
        card = "-".join(str(machine.get("card", machine["processor"])).replace("/", " ").split())
        self.path = folder / f"{card}-{now:%Y-%m-%d}.json"
        self.tables: dict[str, list[Row]] = {}
        self._facts: dict[str, Any] = {"machine": machine, "began": now.isoformat(timespec="seconds")}
        self._left_out: list[dict[str, str]] = []
        self._not_right: list[dict[str, str]] = []
        self._printing: str | None = None
        print(f"{cell(machine)}\n", flush=True)
        self._write(finished=False)

    @property
    def right(self) -> bool:
        """Whether all that was looked at is as it has to be."""
        return not self._not_right

    def add(self, table: str, row: Row) -> None:
        """Takes a row in."""
        self.tables.setdefault(table, []).append(row)
        if row.get("right") is False:
            self._not_right.append({"table": table, "what": cell(row)})
        if table != self._printing or list(row) != self._columns:
            self._printing, self._columns = table, list(row)
            print(f"\n{table}\n\n| {' | '.join(row)} |\n{'|---' * len(row)}|")
        print(f"| {' | '.join(map(cell, row.values()))} |", flush=True)
        self._write(finished=False)

    def leave_out(self, table: str, name: str, reason: str) -> None:
        """Notes that something was not measured."""
        self._note(self._left_out, table, name, reason, word="left out")

    def fail(self, table: str, name: str, reason: str) -> None:
        """Notes that a measurement failed, which is not right."""
        self._note(self._not_right, table, name, reason, word="failed")

    def finish(self) -> None:
        """Notes that all measurements had their turn."""
        self._write(finished=True)

    def _note(self, notes: list[dict[str, str]], table: str, name: str, reason: str, *, word: str) -> None:
        notes.append({"table": table, "what": name, "reason": reason})
        self._printing = None
        print(f"\n{table}, {name}: {word}: {reason}", flush=True)
        self._write(finished=False)

    def _write(self, *, finished: bool) -> None:
        facts = self._facts | {
            "seconds": round(time.monotonic() - self._began, 1),
            "finished": finished,
            "tables": self.tables,
            "left_out": self._left_out,
            "not_right": self._not_right,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def machine(device: torch.device) -> dict[str, Any]:
    """Says what is measured on."""
    facts = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        **{name: version(name) for name in ("torch", "numpy", "pillow")},
        "python": platform.python_version(),
    }
    if device.type != "cuda":
        return facts
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
        driver, memory = told.split(", ")[1:3]
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        driver, memory = "unknown", "unknown"
    return {
        "card": torch.cuda.get_device_name(device),
        "driver": driver,
        "memory": memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **facts,
    }


def cell(value: object) -> str:
    """Writes a value for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 0.99 else f"{value:.4g}"
    return str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine() or sys.platform)
