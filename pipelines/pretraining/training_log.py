"""What a training run tells of itself: its loss curve, the metrics of its epochs, TensorBoard, lines for people."""

import json
import logging
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from grepr_core.storage import Folder, is_local
from pipelines.pretraining.checkpoints import Position

log = logging.getLogger(__name__)

EPOCHS_FILE = "epochs.json"
HISTORY_FOLDER = "history"
TENSORBOARD_FOLDER = "tensorboard"
#: Seconds between lines within an epoch.
LOG_SECONDS = 30.0


class TrainingLog:
    """The log of one run, kept by one worker.

    ``history/epoch=NNNN.jsonl`` holds a line a step, ``epochs.json`` the metrics of every epoch. Both are written
    whole, before the checkpoint that belongs to them; what an interrupted run has told of later steps is dropped.

    Args:
        output: Folder of the run.
        start: Where training goes on.
        epochs: Epochs in all.
        steps_per_epoch: Steps of each.
        images_per_step: Images that go through the network in a step, over all workers.
    """

    def __init__(
        self, output: Folder, start: Position, *, epochs: int, steps_per_epoch: int, images_per_step: int
    ) -> None:
        self._output = output
        self._start = start
        self._epochs, self._steps, self._images = epochs, steps_per_epoch, images_per_step
        self._history = [row for row in self._read_history(start.epoch) if row["step"] <= start.total]
        finished = output.read_json(EPOCHS_FILE) if output.exists(EPOCHS_FILE) else []
        self._finished: list[dict[str, Any]] = finished[: start.epoch]
        self._pending: list[Tensor] = []
        # Event files grow by appending, which object stores cannot do.
        self._events = None if is_local(output.url) else tempfile.TemporaryDirectory(prefix="grepr-")
        folder = self._events.name if self._events else f"{output.url}/{TENSORBOARD_FOLDER}"
        self._board = SummaryWriter(folder, purge_step=start.total + 1 if start.total else None)
        self._began = self._shown = time.monotonic()
        self._busy = 0.0
        self._busy_steps = 0

    def step(self, position: Position, loss: Tensor, learning_rate: float, seconds: float) -> None:
        """Takes in a step.

        Args:
            position: After it.
            loss: Of the global batch, a scalar; it is not looked at before :meth:`flush`, so that a GPU need not wait.
            learning_rate: Of the step.
            seconds: It took.
        """
        self._history.append({"step": position.total, "epoch": position.epoch, "learning_rate": learning_rate})
        self._pending.append(loss)
        self._busy += seconds
        self._busy_steps += 1
        if time.monotonic() - self._shown >= LOG_SECONDS:
            self._shown = time.monotonic()
            log.info(
                "epoch %d/%d, step %d/%d: loss %.4f, %.1f images/s, %s left",
                *(position.epoch + 1, self._epochs, position.step, self._steps),
                *(loss.item(), self._images_per_second(), self._left(position)),
            )

    def flush(self, epoch: int) -> None:
        """Writes the loss curve as far as it goes.

        Args:
            epoch: The epoch that goes on.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        losses = torch.stack(self._pending).tolist() if self._pending else []
        for row, loss in zip(self._history[len(self._history) - len(losses) :], losses, strict=True):
            row["loss"] = loss
            self._board.add_scalar("train/loss", loss, row["step"])
            self._board.add_scalar("train/learning_rate", row["learning_rate"], row["step"])
        self._pending.clear()
        if not all(torch.tensor(losses).isfinite()):
            raise FloatingPointError(
                "the loss is no longer a finite number; start anew in another --output with a smaller --learning-rate, "
                "a longer warm-up or --precision fp32"
            )
        lines = "".join(json.dumps(row) + "\n" for row in self._history)
        self._output.write(_history_name(epoch), lines.encode())
        self._publish_events()

    def epoch(self, position: Position, metrics: dict[str, float]) -> dict[str, Any]:
        """Takes in the end of an epoch.

        Args:
            position: After its last step, which :meth:`flush` has seen.
            metrics: Of validation.

        Returns:
            All that is told of the epoch.
        """
        losses = [row["loss"] for row in self._history]
        record = {
            "epoch": position.epoch + 1,
            "step": position.total,
            "loss": sum(losses) / len(losses),
            "learning_rate": self._history[-1]["learning_rate"],
            "images_per_second": round(self._images_per_second(), 2),
            **metrics,
        }
        self._finished.append(record)
        self._output.write_json(EPOCHS_FILE, self._finished)
        for name, value in metrics.items():
            self._board.add_scalar(f"validation/{name}", value, position.total)
        self._board.add_scalar("train/images_per_second", record["images_per_second"], position.total)
        self._publish_events()
        told = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
        log.info(
            "epoch %d/%d: loss %.4f, learning rate %.3g, %.1f images/s%s, %s left",
            *(record["epoch"], self._epochs, record["loss"], record["learning_rate"], record["images_per_second"]),
            *(told, self._left(position)),
        )
        self._history = []
        self._busy, self._busy_steps = 0.0, 0
        self._shown = time.monotonic()
        return record

    def close(self) -> None:
        """Ends TensorBoard's file."""
        self._board.close()
        if self._events:
            self._events.cleanup()

    def _images_per_second(self) -> float:
        return self._busy_steps * self._images / max(self._busy, 1e-9)

    def _left(self, position: Position) -> timedelta:
        """Time left at the mean pace so far, validation and checkpoints included."""
        pace = (time.monotonic() - self._began) / (position.total - self._start.total)
        return timedelta(seconds=round(pace * (self._epochs * self._steps - position.total)))

    def _read_history(self, epoch: int) -> list[dict[str, Any]]:
        name = _history_name(epoch)
        return read_history(self._output, epoch) if self._output.exists(name) else []

    def _publish_events(self) -> None:
        self._board.flush()
        if self._events:
            for path in Path(self._events.name).iterdir():
                self._output.write(f"{TENSORBOARD_FOLDER}/{path.name}", path.read_bytes())


def read_history(output: Folder, epoch: int) -> list[dict[str, Any]]:
    """Reads the loss curve of an epoch.

    Args:
        output: Folder of the run.
        epoch: From 0.

    Returns:
        One row a step with ``step`` (from 1, over all epochs), ``epoch``, ``loss`` and ``learning_rate``.
    """
    return [json.loads(line) for line in output.read(_history_name(epoch)).decode().splitlines()]


def _history_name(epoch: int) -> str:
    return f"{HISTORY_FOLDER}/epoch={epoch:04d}.jsonl"
