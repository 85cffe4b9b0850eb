"""Training a stage of pretraining on Ray Train: in this process, or in processes that Ray replaces when they die.

What a run computes depends on its settings alone, not on the number of workers nor on how often it was interrupted:
the order of examples and all that is drawn come from (seed, epoch, example); the batch is divided into micro-batches,
each of which belongs wholly to one worker; gradients and running statistics are means over all of them.
"""

import contextlib
import hashlib
import json
import logging
import math
import platform
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow.fs
import ray
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.util.queue import Queue
from torch import Tensor, nn

from grepr_core.encoders.inference import resolve_device, resolve_dtype
from grepr_core.errors import UserError
from grepr_core.pretraining.batches import prepared_batches
from grepr_core.pretraining.step import Batch, TrainingStep
from grepr_core.storage import Folder, is_local
from pipelines.options import TrainingOptions
from pipelines.pretraining.checkpoints import Position, load_checkpoint, save_checkpoint
from pipelines.pretraining.training_log import EPOCHS_FILE, TrainingLog
from pipelines.running.cores import available_cores
from pipelines.running.placement import PlacementWatch
from pipelines.running.precision import recorded_precision, settle_precision
from pipelines.running.run_files import RUN_FILE
from pipelines.running.session import cluster_address, ray_session
from pipelines.running.settings import check_settings, option_defaults
from pipelines.running.workers import Workers, cluster_workers
from pipelines.telling.activity import activity
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINTS_FOLDER = "checkpoints"
RAY_FOLDER = "ray"


class Stage(ABC):
    """What is particular to a stage of pretraining.

    It is pickled to every worker, so it holds addresses and numbers, not data.

    Attributes:
        name: Of the stage.
        examples: Number of training examples.
        images_per_example: Images that one example sends through the network, for the speed.
        micro_batch: Examples in a forward pass, which share statistics of batch normalisation; None for a worker's
            whole share of the batch, where nothing in the module depends on the others in a forward pass.
    """

    name: str
    examples: int
    images_per_example: int
    micro_batch: int | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Gives all that the result depends on beside :class:`TrainingOptions`, as JSON's types."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Makes the module with its initial weights, in the mode it is trained in.

        Only parameters that require gradients are trained.
        """

    @abstractmethod
    def example(self, epoch: int, index: int) -> Batch:
        """Prepares an example; called in several threads at once.

        Args:
            epoch: From 0.
            index: Of the example, below ``examples``. What is drawn comes from :func:`generator`.

        Returns:
            Tensors on the CPU. Those of a micro-batch are stacked, so that all examples have the same shapes.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Computes the loss of a micro-batch, under autocast where the precision is bf16.

        The loss of a step is the mean over its micro-batches. A loss over the whole batch is the same in all workers,
        which gather features with gradients; ``DistributedDataParallel`` takes the mean of their gradients.

        Args:
            model: The module, wrapped by ``DistributedDataParallel`` where there are several workers; channels-last.
            batch: Stacked examples on the model's device.

        Returns:
            A scalar.
        """

    @abstractmethod
    def validate(self, module: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        """Measures quality at the end of an epoch, in one worker. Leaves the module as it is.

        Args:
            module: The module, not wrapped.
            dtype: What the run computes in.

        Returns:
            Metrics by name.
        """

    @abstractmethod
    def save(self, module: nn.Module, output: Folder) -> None:
        """Writes the weights that are the stage's result; called at the end of every epoch, in one worker."""


@dataclass(frozen=True)
class TrainingRecord:
    """What ``run.json`` says of a finished run.

    Attributes:
        format_version: Of this record.
        settings: What the result depends on.
        versions: Of grepr and what it computes with.
        epochs: Loss, learning rate, speed and metrics of validation of every epoch.
        finished: When, in UTC.
    """

    format_version: int
    settings: dict[str, Any]
    versions: dict[str, str]
    epochs: list[dict[str, Any]]
    finished: str


def generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Makes the generator of all that is drawn for one example in one epoch."""
    state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def learning_rate(step: int, options: TrainingOptions, steps_per_epoch: int) -> float:
    """Gives the learning rate of a step: linear warm-up, then half a cosine.

    Args:
        step: From 0, over all epochs.
        options: With peak, end, warm-up and epochs.
        steps_per_epoch: Steps of an epoch.

    Returns:
        The learning rate; where there is no final one, it is constant after the warm-up.
    """
    total, warmup = options.epochs * steps_per_epoch, round(options.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    final = options.learning_rate if options.final_learning_rate is None else options.final_learning_rate
    return final + (options.learning_rate - final) * (1 + math.cos(math.pi * progress)) / 2


def train(stage: Stage, options: TrainingOptions) -> TrainingRecord:
    """Trains a stage, or goes on where an earlier run of the same command ended.

    Args:
        stage: What to train.
        options: How.

    Returns:
        The record that ``run.json`` holds.

    Raises:
        UserError: The output holds another run, there are too few examples, or the workers asked for cannot be had.
    """
    # Before settings are written, so that a better try may use the same output.
    _check_batch(stage, options)
    output = Folder(options.output, options.storage_options)
    precision = recorded_precision(options.precision, output)
    settings = _settings(stage, replace(options, precision=precision))
    check_settings(output, settings, defaults=option_defaults(type(options)), holds="a run")
    if output.exists(RUN_FILE):
        log.info("%s: finished already; name another output to train anew", output.url)
        return output.read_record(RUN_FILE, TrainingRecord)
    # Ray Train tells of each report, and that it runs in this process.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _workers(stage, options) as workers:
        precision = settle_precision(output, settings, workers or resolve_device(options.device).type)
        job = _Job(stage, replace(options, precision=precision), output, workers)
        name = f"{stage.name}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}"
        where = "in this process" if workers is None else f"with {workers}"
        epochs = counted(options.epochs, "epoch")
        with activity(f"training on {counted(stage.examples, 'example')} for {epochs} {where}"):
            if workers is None:
                _trainer(job, name).fit()
            else:
                _fit_on_ray(job, workers, name)
    record = TrainingRecord(
        format_version=FORMAT_VERSION,
        settings=settings,
        versions={name: version(name) for name in ("grepr", "ray", "torch")} | {"python": platform.python_version()},
        epochs=output.read_json(EPOCHS_FILE),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    output.write_json(RUN_FILE, asdict(record))
    return record


def _settings(stage: Stage, options: TrainingOptions) -> dict[str, Any]:
    names = ("epochs", "batch", "learning_rate", "final_learning_rate", "warmup_epochs", "weight_decay")
    common = {name: getattr(options, name) for name in (*names, "seed", "precision")}
    return {"stage": stage.name, "examples": stage.examples, **common, **stage.settings()}


@dataclass(frozen=True)
class _Job:
    """All that a worker needs; ``workers`` is None where training runs in this process."""

    stage: Stage
    options: TrainingOptions
    output: Folder
    workers: Workers | None


@contextlib.contextmanager
def _workers(stage: Stage, options: TrainingOptions) -> Iterator[Workers | None]:
    """Plans the processes, with Ray running where it is needed; None stands for this process."""
    named = cluster_address(options.address) is not None or ray.is_initialized()
    no_gpu = options.device == "cpu" or not (named or torch.cuda.is_available())
    if options.num_workers == 0 or (options.num_workers is None and no_gpu):
        yield None
        return
    with ray_session(options.address):
        if options.num_workers is None:
            available = cluster_workers(options.device, None)
            if not available.gpus:
                yield None
                return
            parts = options.batch // (stage.micro_batch or 1)
            count = max(n for n in range(1, available.count + 1) if parts % n == 0)
        else:
            count = options.num_workers
        _check_share(stage, options, count)
        yield cluster_workers(
            options.device, count, option="--num-workers", autoscaling=options.autoscaling, together=True
        )


def _check_batch(stage: Stage, options: TrainingOptions) -> None:
    if stage.examples < options.batch:
        raise UserError(
            f"{counted(stage.examples, 'example')} for --batch {options.batch} are too few; add photographs"
        )
    if options.batch % (stage.micro_batch or 1):
        raise UserError(f"--batch {options.batch} is no multiple of --micro-batch {stage.micro_batch}")


def _check_share(stage: Stage, options: TrainingOptions, workers: int) -> None:
    size = stage.micro_batch or 1
    if options.batch // size % workers:
        what = "micro-batches" if stage.micro_batch else "photographs"
        raise UserError(
            f"--num-workers {workers}: the {options.batch // size} {what} of a batch cannot be divided among so many "
            "evenly; change --num-workers or --batch"
        )


def _trainer(job: _Job, name: str, lines: Queue | None = None) -> TorchTrainer:
    workers, output = job.workers, job.output
    path = output.path(RAY_FOLDER)
    return TorchTrainer(
        _train_loop,
        train_loop_config={"job": job, "lines": lines},
        scaling_config=ScalingConfig(
            num_workers=workers.count if workers else 0,
            use_gpu=bool(workers and workers.gpus),
            resources_per_worker=workers.bundle if workers else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=pyarrow.fs.LocalFileSystem()
            if is_local(output.url)
            else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(output.fs)),
            failure_config=FailureConfig(max_failures=job.options.max_failures),
        ),
    )


def _fit_on_ray(job: _Job, workers: Workers, name: str) -> None:
    """Trains on Ray, passes on what the workers log, and says what they wait for where they cannot begin.

    The trainer runs in a thread, since in the main thread it would take Ctrl-C for itself and end with exit code 0.
    """
    lines = Queue(actor_options={"num_cpus": 0})
    done: Future[None] = Future()

    def fit() -> None:
        try:
            _trainer(job, name, lines).fit()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=fit, daemon=True).start()
    watch = PlacementWatch(workers)
    while not done.done() or not lines.empty():
        try:
            log.info("%s", lines.get(timeout=0.5))
        except queue.Empty:
            if (placed := _placed()) is not None:
                watch.look(workers.count if placed else 0)
    lines.shutdown()
    done.result()


def _placed() -> bool | None:
    """Tells whether the workers of this job have their places; None while Ray Train does not ask for any.

    It gives up every minute, asks again soon, and is silent about it.
    """
    own = ray.get_runtime_context().get_job_id()
    groups = ray.util.placement_group_table().values()
    # The id of a placement group ends with its job's.
    states = {group["state"] for group in groups if group["placement_group_id"].endswith(own)}
    if "CREATED" in states:
        return True
    return False if states & {"PENDING", "RESCHEDULING"} else None


class _LinesHandler(logging.Handler):
    """Sends what a worker logs to the command, which alone has a console."""

    def __init__(self, lines: Queue) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(self.format(record))


def _train_loop(config: dict[str, Any]) -> None:
    """What every worker does."""
    job: _Job = config["job"]
    package = logging.getLogger(__package__)
    handler = _LinesHandler(config["lines"]) if config["lines"] is not None else None
    if handler is not None:
        package.setLevel(logging.INFO)
        package.addHandler(handler)
    try:
        _Worker(job).run()
    finally:
        if handler is not None:
            package.removeHandler(handler)


class _Worker:
    """One worker's part of a run."""

    def __init__(self, job: _Job) -> None:
        self._stage, self._options, self._output = job.stage, job.options, job.output
        self._checkpoints = job.output.child(CHECKPOINTS_FOLDER)
        context = ray.train.get_context()
        self._rank, self._world = context.get_world_rank(), context.get_world_size()
        if job.workers is None:
            self._device = resolve_device(job.options.device)
            self._threads = available_cores()
        else:
            self._device = get_device() if job.workers.gpus else torch.device("cpu")
            self._threads = job.workers.cpus
            torch.set_num_threads(job.workers.cpus)
        self._dtype = resolve_dtype(job.options.precision, self._device)
        self._steps = job.stage.examples // job.options.batch

        self._module = job.stage.build().to(self._device).to(memory_format=torch.channels_last)
        model = prepare_model(
            self._module, move_to_device=self._device, parallel_strategy_kwargs={"broadcast_buffers": False}
        )
        self._step = TrainingStep(model, job.stage.loss, dtype=self._dtype, weight_decay=job.options.weight_decay)
        self._position = load_checkpoint(self._checkpoints, self._module, self._step.optimizer)
        self._log = self._open_log() if self._rank == 0 else None

    def _open_log(self) -> TrainingLog:
        if self._position.total:
            log.info("going on from step %d of %d", self._position.total, self._options.epochs * self._steps)
        return TrainingLog(
            self._output,
            self._position,
            epochs=self._options.epochs,
            steps_per_epoch=self._steps,
            images_per_step=self._options.batch * self._stage.images_per_example,
        )

    def run(self) -> None:
        """Trains from the newest checkpoint to the end."""
        try:
            for epoch in range(self._position.epoch, self._options.epochs):
                self._train_epoch(epoch)
                self._end_epoch()
        finally:
            if self._log:
                self._log.close()

    def _train_epoch(self, epoch: int) -> None:
        shares = (share.tolist() for share in self._shares(epoch)[self._position.step :])
        began = time.monotonic()
        ready = prepared_batches(
            partial(self._stage.example, epoch), shares, threads=self._threads, pinned=self._device.type == "cuda"
        )
        for batches in ready:
            rate = learning_rate(self._position.total, self._options, self._steps)
            loss = self._step(batches, rate)
            self._position = replace(self._position, step=self._position.step + 1, total=self._position.total + 1)
            if self._log:
                self._log.step(self._position, loss, rate, time.monotonic() - began)
            if self._log and self._position.total % self._options.checkpoint_steps == 0:
                self._log.flush(epoch)
                save_checkpoint(self._checkpoints, self._position, self._module, self._step.optimizer)
            began = time.monotonic()

    def _end_epoch(self) -> None:
        record: dict[str, Any] = {"epoch": self._position.epoch + 1}
        after = Position(self._position.epoch + 1, 0, self._position.total)
        if self._log:
            self._log.flush(self._position.epoch)
            record = self._log.epoch(self._position, self._stage.validate(self._module, self._dtype))
            self._stage.save(self._module, self._output)
            save_checkpoint(self._checkpoints, after, self._module, self._step.optimizer)
        self._position = after
        # The others wait here while the first validates.
        ray.train.report(record)

    def _shares(self, epoch: int) -> list[NDArray[np.intp]]:
        """This worker's part of each batch of an epoch, (micro-batches, examples in each)."""
        order = np.random.default_rng([self._options.seed, epoch]).permutation(self._stage.examples)
        batches = order[: self._steps * self._options.batch].reshape(self._steps, self._world, -1)
        mine = batches[:, self._rank]
        return list(mine.reshape(self._steps, -1, self._stage.micro_batch or mine.shape[1]))
