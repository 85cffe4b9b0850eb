"""A model, and photographs of any kind to rows."""

import functools
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from grepr.inputs import at, check_kinds, is_one, taken
from grepr.rows import Row
from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Limits
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.scorer import Content
from grepr_core.scoring.scorer import Scorer as ModelScorer
from pipelines.running.cores import available_cores

if TYPE_CHECKING:
    from grepr.inputs import Photograph
    from grepr.reading import Files, Reader

#: Images that a GPU takes in one go, as it does of a shard: enough for full batches of all shapes.
GPU_CHUNK = 1000
_STARTING, _LOADING = threading.Lock(), threading.Lock()
#: All there are, for what a fork does to them.
_SCORERS: "weakref.WeakSet[Scorer]" = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How a model is loaded and used, as :func:`load` takes it."""

    device: str
    precision: Precision
    max_pixels: int | None
    zero_shot: bool
    limits: Limits
    timeout: float
    storage_options: Mapping[str, Any] | None
    threads: int | None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise ValueError(f"device={self.device!r}: expected is 'auto', 'cpu' or 'cuda'")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision={self.precision!r}: expected is one of {', '.join(get_args(Precision))}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device={self.device!r}: PyTorch sees no GPU; leave it out, or give 'cpu'")
        if not isinstance(self.limits, Limits):
            raise TypeError(
                f"limits={self.limits!r}: expected is grepr.Limits(max_pixels=..., max_bytes=..., min_side=...)"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads}: at least 1 is needed")
        if self.max_pixels is not None and self.max_pixels < (least := self.limits.min_side**2):
            raise ValueError(f"max_pixels={self.max_pixels}: at least the square of the least side is needed, {least}")


class Scorer:
    """A model, ready to score; safe to use from several threads.

    On the CPU as many photographs are computed at a time as there are cores, each by one thread, whatever number of
    threads PyTorch has for all else. A GPU takes many together.

    A photograph is a path or URL, the bytes of a file or a file opened for reading them, an image of Pillow, an
    (H, W, 3) array, or a (3, H, W) tensor: uint8, uint16, or floating point in 0 to 1. Arrays and tensors may be
    (H, W) grey, and have four channels, of which the last is opacity.

    Attributes:
        model_id: Hash of the model.
        feature_size: Length D of the feature vectors.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, model: str | os.PathLike[str], options: _Options) -> None:
        """Loads the model; see :func:`load`."""
        usual_threads = torch.get_num_threads()
        self._threads = options.threads or min(usual_threads, available_cores())
        bundle = load_bundle(os.fspath(model))
        self._make = functools.partial(
            ModelScorer,
            bundle,
            device=options.device,
            precision=options.precision,
            limits=options.limits,
            max_pixels=options.max_pixels,
            zero_shot=options.zero_shot,
            decode_threads=self._threads,
        )
        self._scorer = self._make(features=False)
        self.model_id = bundle.model_id
        self.feature_size = self._scorer.feature_size
        self.device = "cuda" if self._scorer.is_on_gpu else "cpu"
        self._model, self._options = model, options
        self._usual_threads = usual_threads
        self._is_forked = False
        self._start()
        _SCORERS.add(self)

    def _start(self) -> None:
        """Makes what has threads or locks, in the process that is to score."""
        self.__dict__.pop("_reader", None)
        self._gpu_turn = threading.RLock()
        self._pool = ThreadPoolExecutor(self._threads, "score", _use_one_thread, (self._usual_threads,))

    def __reduce__(self) -> tuple[type["Scorer"], tuple[str | os.PathLike[str], _Options]]:
        """Pickles by what it was made of: another process loads the model."""
        return Scorer, (self._model, self._options)

    @overload
    def score(self, photos: "Photograph", *, features: bool = False) -> Row: ...  # type: ignore[overload-overlap]
    @overload
    def score(self, photos: "Iterable[Photograph]", *, features: bool = False) -> list[Row]: ...
    def score(self, photos: object, *, features: bool = False) -> Row | list[Row]:
        """Scores one photograph, or several.

        ```python
        scorer = grepr.load()
        scorer.score("a.jpg").score
        scorer.score(["a.jpg", Path("b.png"), Image.open("c.webp")])
        ```

        Args:
            photos: A photograph, see :class:`Scorer`; or an iterable of them, as a batch of arrays or tensors is.
            features: Whether the rows have the features.

        Returns:
            A row; of an iterable a list of them in order. What cannot be read has a row that says why.

        Raises:
            TypeError: Something is no photograph; says what it is.
            ValueError: An array or tensor has a shape, type or values that no photograph has.
        """
        if is_one(photos):
            return next(self.stream([photos], features=features))  # type: ignore[list-item]
        return list(self.stream(photos, features=features))  # type: ignore[arg-type]

    def stream(self, photos: "Iterable[Photograph]", *, features: bool = False) -> Iterator[Row]:
        """Scores photographs while they come, in memory that does not grow with their number.

        ```python
        for row in scorer.stream(Path("Pictures").rglob("*.jpg")):
            print(row.uri, row.score)
        ```

        Args:
            photos: They are taken as they are needed; of paths and URLs up to 64 ahead, while their files
                have no more than 128 MB, so that reading does not hold up the model; for a GPU up to 512 files or
                256 MB, and up to 1,000 photographs before the first row.
            features: Whether the rows have the features.

        Yields:
            A row for each, in order.

        Raises:
            TypeError: As :meth:`score`: of a list, tuple, array or Series before the first row, else once it is taken,
                which is ahead of the rows.
            ValueError: Likewise, once it is taken.
            RuntimeError: The process is a fork of one that uses a GPU.
        """
        if self._is_forked and self._scorer.is_on_gpu:
            raise RuntimeError(
                "a forked process cannot use the GPU that the scorer is on; start processes by 'spawn', as by "
                "multiprocessing.get_context('spawn')"
            )
        check_kinds(photos)
        scorer = self._scorer_with_features if features else self._scorer
        given = self._read(photos)
        scored = self._together(scorer, given) if scorer.is_on_gpu else self._side_by_side(scorer, given)
        for uri, score in scored:
            yield Row.of(score, uri=uri, model_id=self.model_id, features=features)

    def features(self, photos: "Photograph | Iterable[Photograph]") -> NDArray[np.float32]:
        """Gives what the model makes its score of, for a model of one's own.

        Args:
            photos: As for :meth:`score`.

        Returns:
            (D,) float32 of one photograph, (N, D) of several; NaN where one could not be read.
        """
        nothing = np.full(self.feature_size, np.nan, np.float32)
        several = self.stream([photos] if is_one(photos) else photos, features=True)  # type: ignore[arg-type, list-item]
        found = [nothing if row.features is None else row.features for row in several]
        return found[0] if is_one(photos) else np.stack(found) if found else np.empty((0, nothing.size), np.float32)

    @functools.cached_property
    def _scorer_with_features(self) -> ModelScorer:
        """The same, unless features take a forward pass of their own, which scores alone do without."""
        return self._scorer if self._scorer.gives_features else self._make(features=True)

    @functools.cached_property
    def _reader(self) -> "Reader":
        from grepr.reading import Reader  # noqa: PLC0415 - who scores pixels need not wait for it

        return Reader(
            limits=self._options.limits,
            timeout=self._options.timeout,
            storage_options=self._options.storage_options,
            on_gpu=self._scorer.is_on_gpu,
        )

    def _read(self, photos: "Iterable[Photograph]") -> "Iterator[_Given]":
        """Has files read ahead; what is in memory already is taken one at a time."""
        ahead: Files | None = None
        for index, photo in enumerate(photos):
            try:
                found = taken(photo)
            except (TypeError, ValueError) as error:
                raise at(index, error) from None
            if isinstance(found, str):
                if ahead is None:
                    ahead = self._reader.files()
                ahead.ask(found)
                while ahead.are_enough:
                    yield _Given(*ahead.take())
                continue
            while ahead:
                yield _Given(*ahead.take())
            yield _Given(None, self._scorer.photo(found) if isinstance(found, Image.Image) else found)
        while ahead:
            yield _Given(*ahead.take())

    def _side_by_side(self, scorer: ModelScorer, given: "Iterator[_Given]") -> Iterator[tuple[str | None, ImageScore]]:
        under_way: deque[tuple[str | None, Future[list[ImageScore]]]] = deque()
        for uri, content in given:
            under_way.append((uri, self._pool.submit(scorer.score, [content])))
            while under_way and (len(under_way) > 2 * self._threads or under_way[0][1].done()):
                yield _result(*under_way.popleft())
        while under_way:
            yield _result(*under_way.popleft())

    def _together(self, scorer: ModelScorer, given: "Iterator[_Given]") -> Iterator[tuple[str | None, ImageScore]]:
        while True:
            uris: list[str | None] = []

            def contents(uris: list[str | None] = uris) -> Iterator[Content]:
                for uri, content in itertools.islice(given, GPU_CHUNK):
                    uris.append(uri)
                    yield content

            with self._gpu_turn:
                scores = scorer.score(contents())
            yield from zip(uris, scores, strict=True)
            if len(uris) < GPU_CHUNK:
                return


class _Given(NamedTuple):
    uri: str | None
    content: Content


def _begin_as_child() -> None:
    """Has scorers work in a forked process, which has the memory of its parent but none of its threads."""
    global _STARTING, _LOADING  # another thread may have held them
    _STARTING, _LOADING = threading.Lock(), threading.Lock()
    for scorer in _SCORERS:
        scorer._is_forked = True
        scorer._start()


os.register_at_fork(after_in_child=_begin_as_child)


def _result(uri: str | None, scored: Future[list[ImageScore]]) -> tuple[str | None, ImageScore]:
    return uri, scored.result()[0]


def _use_one_thread(usual: int) -> None:
    """Has the calling thread compute by itself; PyTorch has a number for each thread, and one for those to come."""
    with _STARTING:
        torch.get_num_threads()  # which takes over the number for threads to come
        torch.set_num_threads(1)
        again = threading.Thread(target=torch.set_num_threads, args=(usual,))
        again.start()
        again.join()


def load(
    model: str | os.PathLike[str] = "grepr-lite",
    *,
    device: str = "auto",
    precision: Precision = "auto",
    max_pixels: int | None = None,
    zero_shot: bool = False,
    limits: Limits = Limits(),
    timeout: float = 60.0,
    storage_options: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Scorer:
    """Loads a model, to be used again and again. The defaults are those of ``grepr score``, and so are the scores.

    ```python
    scorer = grepr.load()
    rows = scorer.score(Path("Pictures").glob("*.jpg"))
    ```

    Args:
        model: ``grepr-lite``, which ships with grepr, or the folder or URL of a model.
        device: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU where there is one.
        precision: ``auto``, ``fp32`` or ``bf16``; ``auto`` takes bf16 where the device has it.
        max_pixels: Area that photographs are seen at, in place of the model's.
        zero_shot: Whether rows have the low-level zero-shot score too, which costs more than all else.
        limits: What is refused as ``too_large`` or ``too_small``.
        timeout: Seconds that reading one file may take.
        storage_options: Credentials and endpoints as fsspec takes them, such as ``{"anon": True}``; else those of the
            environment count. ``headers`` go to the hosts in ``headers_for`` alone.
        threads: CPU cores to use; by default all that PyTorch may.

    Returns:
        The scorer.

    Raises:
        UserError: There is no such model, or it is damaged.
        ValueError: There is no such device, or a number is out of range.
    """
    options = _Options(
        device=device,
        precision=precision,
        max_pixels=max_pixels,
        zero_shot=zero_shot,
        limits=limits,
        timeout=timeout,
        storage_options=storage_options,
        threads=threads,
    )
    return Scorer(model, options)


@functools.cache
def _usual() -> Scorer:
    return load()


@overload
def score(photos: "Photograph", *, features: bool = False) -> Row: ...  # type: ignore[overload-overlap]
@overload
def score(photos: "Iterable[Photograph]", *, features: bool = False) -> list[Row]: ...
def score(photos: object, *, features: bool = False) -> Row | list[Row]:
    """Scores one photograph, or several, with the model that ships with grepr, which stays loaded.

    ```python
    grepr.score("a.jpg").score
    grepr.score(["a.jpg", "https://example.org/b.jpg"])
    ```

    Args:
        photos: A photograph, see :class:`Scorer`, or an iterable of them.
        features: Whether the rows have the features.

    Returns:
        A row; of an iterable a list of them in order. What cannot be read has a row that says why.

    Raises:
        TypeError: Something is no photograph; says what it is.
        ValueError: An array or tensor has a shape, type or values that no photograph has.
    """
    with _LOADING:
        scorer = _usual()
    return scorer.score(photos, features=features)  # type: ignore[call-overload, no-any-return]
