"""Options that many commands share, and their kinds of value."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from grepr_core.encoders.precision import Precision
from grepr_core.web.access import ALLOW_LINK_LOCAL, WebAccess
from pipelines.options.shown import ADVANCED, ENGINE, READING, Bundle, Column, Fraction, Seconds, Value

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    try:
        return float(number) * _SECONDS[unit]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{text!r} is no duration such as 90s, 45m, 10h or 2d") from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is no JSON object such as '{{\"anon\": true}}'")
    return value


Duration = Annotated[float, Value("DURATION", _duration)]
StorageOptions = Annotated[Mapping[str, Any], Value("JSON", _json_object)]
Address = Annotated[str, Value("ADDRESS")]
Device = Literal["auto", "cpu", "cuda"]


#: How a command gets to a cluster that this machine is no node of.
HAND_OVER = "grepr submit --address http://HOST:8265 -- COMMAND"


def check_address(address: str | None, named: str | None = None) -> None:
    """Checks that a text may be the address of a Ray cluster.

    Args:
        address: The text; None is none.
        named: How the person gave it, by default as ``--address``.

    Raises:
        ValueError: It is neither 'auto', 'local' nor HOST:PORT.
    """
    if address is None or address in ("auto", "local"):
        return
    named = named or f"--address {address}"
    if address.startswith(("ray://", "http://", "https://")):
        raise ValueError(
            f"{named}: a command does not work through Ray's client or job server; hand it over as a job: {HAND_OVER}"
        )
    port = re.fullmatch(r"(?:[^\s:/]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", address)
    if port is None or not 0 < int(port[1]) < 2**16:
        raise ValueError(f"{named}: neither 'auto', 'local' nor HOST:PORT such as head:6379")


#: Images in a shard once there are many.
LARGEST_SHARD = 1000
#: Of the 64 bits of photos' hashes, how many may differ between near-copies by default (benchmarks/hash_bits.py).
NEAR_BITS = 6
#: And at most; beyond, most of the pairs are of different photos.
MOST_BITS = 10


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """How files are reached."""

    storage_options: Annotated[StorageOptions, READING] = field(default_factory=dict)
    """Credentials and endpoints as fsspec takes them, such as '{"anon": true}'; else those of the environment count. On
    the web, its 'headers' go to the host of the source, and to those that its 'headers_for' lists."""

    allow_link_local: Annotated[bool, READING] = False
    """Read from link-local addresses (169.254.0.0/16, fe80::/10) too, where clouds hand out their machines'
    credentials."""

    def __post_init__(self) -> None:
        """Checks the storage options, and adds to them what whoever reads has to know.

        Raises:
            ValueError: Names the option that cannot be used.
        """
        if self.allow_link_local:
            object.__setattr__(self, "storage_options", {**self.storage_options, ALLOW_LINK_LOCAL: True})
        WebAccess.of(self.storage_options)


@dataclass(frozen=True, kw_only=True)
class NamesOptions:
    """Which files of a source count."""

    all_files: Annotated[bool, READING] = False
    """Take every file of a folder for an image, whatever its name."""

    members: Annotated[tuple[str, ...], Value("GLOB"), READING] = ()
    """Take the members of tar archives, and the files of folders, whose names match this glob, such as '*.jpg'; or with
    ! before it, as '!*.mask.png', those that do not. Give it several times for several globs; one with a slash is for
    the whole path."""

    column: Annotated[Column | None, READING] = None
    """Of a table, the column that names the images or holds them; by default it is told by its name and its values."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(NamesOptions, StoredOptions):
    """How a source is listed."""

    shard_size: Annotated[int, ADVANCED] = LARGEST_SHARD
    """Images in a shard, the unit of retry and of output. The first shards are smaller."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.shard_size < 1:
            raise ValueError("--shard-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(StoredOptions):
    """How images are scored; shared by all commands that score."""

    model: Bundle = "grepr-lite"
    """The model: name of one that ships with grepr, a folder or a URL."""

    device: Annotated[Device, ENGINE] = "auto"
    """Where the model runs; auto takes GPUs where there are any."""

    precision: Annotated[Precision, ENGINE] = "auto"
    """Arithmetic of the model; auto goes on as the output was begun, or takes bf16 where all machines have it."""

    workers: Annotated[int | None, ENGINE] = None
    """Processes; by default one a GPU, or else one a CPU core."""

    processes_per_gpu: Annotated[int, ENGINE] = 1
    """Processes that share a GPU and the CPU cores beside it; more than one where a GPU waits for decoding, since the
    threads of one process hold each other up."""

    address: Annotated[Address | None, ENGINE] = None
    """Ray cluster to use: 'auto' is that of this machine, HOST:PORT the address of its head; by default the one that
    runs this command as a job, or else Ray is started here and stopped at the end, as 'local' says."""

    autoscaling: Annotated[bool, ENGINE] = False
    """The cluster adds nodes for the processes asked for; without this, those that have no place yet begin when nodes
    join. GPU nodes that are still to come need --device cuda."""

    zero_shot: Annotated[bool, ADVANCED] = False
    """Give the low-level zero-shot score too where the score does not depend on it; it costs more than all else."""

    max_pixels: Annotated[int | None, ADVANCED] = None
    """Scale photos to about this many pixels; by default what the model was fitted at."""

    max_image_pixels: Annotated[int, READING] = 250_000_000
    """Refuse images of more pixels (decompression bombs) as too_large; by default 250 million."""

    max_image_bytes: Annotated[int, READING] = 512 * 2**20
    """Refuse larger files as too_large; by default 512 MiB."""

    min_side: Annotated[int, READING] = 32
    """Refuse images with a shorter side as too_small."""

    timeout: Annotated[Seconds, READING] = 60.0
    """Time that reading one image may take before it counts as timeout."""

    hang_timeout: Annotated[Seconds, ENGINE] = 300.0
    """Time that decoding and scoring one image may take before it counts as timeout, and its process is replaced."""

    max_failed_fraction: Annotated[Fraction, ADVANCED] = 0.05
    """Exit with 3 if a larger fraction of the images could not be scored."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        check_address(self.address)
        for name in ("max_image_pixels", "max_image_bytes", "min_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError("--workers must be at least 1")
        if self.processes_per_gpu < 1:
            raise ValueError("--processes-per-gpu must be at least 1")
        if self.processes_per_gpu > 1 and self.device == "cpu":
            raise ValueError("--processes-per-gpu needs a GPU; leave it or --device cpu out")
        if self.max_pixels is not None and self.max_pixels < self.min_side**2:
            raise ValueError(f"--max-pixels must be at least the square of --min-side, {self.min_side**2}")
        for name in ("timeout", "hang_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError("--max-failed-fraction must be between 0 and 1")
