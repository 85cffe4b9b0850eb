"""Encoded images in, scores out: the only thing a pipeline needs to know of the method."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grepr_core.bundle import Bundle
from grepr_core.high_level import HighLevelEncoder
from grepr_core.images import Failure, Limits, Photo, Status, decode
from grepr_core.inference import Precision, prepare, resolve_device, resolve_dtype
from grepr_core.zero_shot import DISTANCES, combined_score, high_level_score, low_level_distance, low_level_score

T = TypeVar("T")

#: Shortest side that every encoder takes: all of them halve it five times.
LEAST_SIDE = 32
#: Pixels encoded together on a GPU: 32 photographs of 512 x 512.
GPU_BATCH_PIXELS = 32 * 512 * 512
#: Decoded pixels that may wait for others of their size, in batches.
WAITING_BATCHES = 4


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What becomes of one image. Either ``score`` or ``error`` is given, never both.

    Only a bundle that has no way to a score yet leaves both out, and gives features alone.

    Attributes:
        status: ``scored``, or why not.
        error: The reason in words, None when scored.
        score: Predicted quality on the scale of the bundle, higher is better.
        score_low: Zero-shot score of the low-level path, in (0, 1); None where the bundle lacks it.
        score_high: Zero-shot score of the high-level path, in (0, 1); None where the bundle lacks it.
        score_lower: Lower end of the prediction interval; None where not calibrated.
        score_upper: Upper end of it.
        width: Of the upright image in full size, in pixels; None where it could not be told.
        height: Likewise.
        scored_pixels: Pixels that the model saw.
        bytes: Encoded size; None where the image could not be read.
        features: (D,) float32 features; None unless scored.
    """

    status: Status
    error: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    score_lower: float | None = None
    score_upper: float | None = None
    width: int | None = None
    height: int | None = None
    scored_pixels: int | None = None
    bytes: int | None = None
    features: NDArray[np.float32] | None = None

    @classmethod
    def from_failure(cls, failure: Failure, size: int | None = None) -> Self:
        """Makes the row of an image that could not be scored.

        Args:
            failure: Why.
            size: Encoded size, where known.

        Returns:
            The row.
        """
        return cls(status=failure.status, error=failure.error, width=failure.width, height=failure.height, bytes=size)


@dataclass(frozen=True, slots=True)
class _Waiting:
    index: int
    size: int
    photo: Photo


class Scorer:
    """A bundle, ready to score on one device.

    Scores do not depend on which images are scored together. On the CPU every image is encoded alone, which is also
    fastest: its activations stay in the cache.

    Attributes:
        bundle: The model.
        feature_size: Length of the feature vectors.
        seconds: Time spent so far by step: ``read`` (waiting for the encoded images), ``decode``, ``model``.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        limits: Limits = Limits(),
        max_pixels: int | None = None,
        decode_threads: int = 1,
        batch_pixels: int | None = None,
        zero_shot: bool = True,
    ) -> None:
        """Prepares the encoders.

        Args:
            bundle: The model.
            device: ``auto``, ``cpu`` or ``cuda``.
            precision: ``auto``, ``fp32`` or ``bf16``; makes no difference where the bundle's scores are defined in one.
            limits: Images beyond them are refused.
            max_pixels: Larger images are scaled down to this; by default what the bundle says.
            decode_threads: Threads that decode while a GPU computes. On the CPU decoding and computing take turns.
            batch_pixels: Pixels encoded together at most, one image at least; by default one image on the CPU.
            zero_shot: Whether the low-level zero-shot score is given where the score does not depend on it: its
                overlapping patches cost more than all else.

        Raises:
            ValueError: The device is not there.
        """
        self.bundle = bundle
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = resolve_device(device)
        dtype = resolve_dtype(bundle.resolve_precision(precision), self._device)
        on_gpu = self._device.type == "cuda"
        self._high = prepare(bundle.high, self._device, dtype) if bundle.high else None
        self._low = prepare(bundle.low, self._device, dtype) if bundle.low else None
        self._low_zero_shot = bundle.pristine is not None and (zero_shot or bundle.regressor is None)
        self._limits = limits
        self._max_pixels = max_pixels or bundle.max_pixels
        self._batch_pixels = batch_pixels or (GPU_BATCH_PIXELS if on_gpu else 1)
        self._decode_ahead = 2 * decode_threads
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") if on_gpu else None

    @property
    def feature_size(self) -> int:
        """Length of the feature vectors."""
        return sum(self.bundle.feature_blocks)

    def score(self, encoded: Iterable[bytes | Failure]) -> list[ImageScore]:
        """Scores images.

        Images are taken from the iterable as they are needed, and few are held decoded at a time.

        Args:
            encoded: The content of each image's file, or why it could not be read.

        Returns:
            One result for each, in order.
        """
        scores: dict[int, ImageScore] = {}
        groups: dict[tuple[int, ...], list[_Waiting]] = {}
        for index, (size, image) in enumerate(self._decoded(encoded)):
            if isinstance(image, Failure):
                scores[index] = ImageScore.from_failure(image, size)
                continue
            group = groups.setdefault(image.rgb.shape, [])
            group.append(_Waiting(index, size or 0, image))
            if _pixels(group) >= self._batch_pixels:
                scores |= self._score_group(groups.pop(image.rgb.shape))
            if sum(map(_pixels, groups.values())) > WAITING_BATCHES * self._batch_pixels:
                scores |= self._score_group(groups.pop(max(groups, key=lambda shape: _pixels(groups[shape]))))
        for group in groups.values():
            scores |= self._score_group(group)
        return [scores[index] for index in range(len(scores))]

    def _decoded(self, encoded: Iterable[bytes | Failure]) -> Iterator[tuple[int | None, Photo | Failure]]:
        if self._pool is None:
            yield from map(self._decode, self._contents(encoded))
            return
        ahead: deque[Future[tuple[int | None, Photo | Failure]]] = deque()
        for content in self._contents(encoded):
            ahead.append(self._pool.submit(self._decode, content))
            if len(ahead) > self._decode_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _contents(self, encoded: Iterable[bytes | Failure]) -> Iterator[bytes | Failure]:
        contents = iter(encoded)
        while (content := self._timed("read", lambda: next(contents, None))) is not None:
            yield content

    def _decode(self, content: bytes | Failure) -> tuple[int | None, Photo | Failure]:
        if isinstance(content, Failure):
            return None, content
        image = self._timed("decode", lambda: decode(content, limits=self._limits, scale_to_pixels=self._max_pixels))
        if isinstance(image, Photo) and min(image.rgb.shape[:2]) < LEAST_SIDE:
            height, width, _ = image.rgb.shape
            reason = f"{width} x {height} pixels when the model sees it, which needs {LEAST_SIDE} a side"
            image = Failure(Status.TOO_SMALL, reason, image.width, image.height)
        return len(content), image

    def _timed(self, step: str, action: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return action()
        finally:
            self.seconds[step] += time.perf_counter() - began

    def _score_group(self, group: list[_Waiting]) -> dict[int, ImageScore]:
        photos = [waiting.photo for waiting in group]
        results = self._timed("model", lambda: self._run(np.stack([photo.rgb for photo in photos])))
        return {waiting.index: _finish(waiting, result) for waiting, result in zip(group, results, strict=True)}

    @torch.inference_mode()
    def _run(self, pixels: NDArray[np.uint8]) -> list["_Prediction"]:
        # (N, H, W, 3) in memory is what PyTorch calls channels-last, so the permuted view needs no copy.
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        if self._device.type == "cuda":
            images = images.pin_memory().to(self._device, non_blocking=True)
        images = images.float().div_(255)
        features: list[Tensor] = []
        high: NDArray[np.float64] | None = None
        low: NDArray[np.float64] | None = None
        if self._high is not None:
            features.append(self._high(images))
            if isinstance(self._high, HighLevelEncoder):
                good, bad = self._high.quality_cosines(features[-1]).double().T.cpu().numpy()
                high = high_level_score(good, bad)
        if self._low is not None:
            features.append(self._low.encode_frames(images))
            if self._low_zero_shot:
                assert self.bundle.pristine is not None
                distances = [
                    low_level_distance(self._low, image, self.bundle.pristine, distance=DISTANCES[self.bundle.distance])
                    for image in images
                ]
                low = low_level_score(np.array(distances))
        return self._predict(torch.cat(features, dim=1).cpu().numpy(), low, high)

    def _predict(
        self, features: NDArray[np.float32], low: NDArray[np.float64] | None, high: NDArray[np.float64] | None
    ) -> list["_Prediction"]:
        regressor = self.bundle.regressor
        scores: NDArray[np.float64] | None
        lower = upper = None
        if regressor is not None:
            scores = regressor.predict(features)
            if regressor.interval is not None:
                lower, upper = regressor.interval.bounds(scores)
        elif low is not None and high is not None:
            scores = combined_score(low, high)
        else:
            scores = low if low is not None else high
        missing = [None] * len(features)
        columns = (missing if column is None else column.tolist() for column in (scores, low, high, lower, upper))
        return [_Prediction(*row) for row in zip(*columns, features, strict=True)]


@dataclass(frozen=True, slots=True)
class _Prediction:
    score: float | None
    score_low: float | None
    score_high: float | None
    score_lower: float | None
    score_upper: float | None
    features: NDArray[np.float32]


def _finish(waiting: _Waiting, prediction: _Prediction) -> ImageScore:
    photo = waiting.photo
    if prediction.score is not None and not np.isfinite(prediction.score):
        failure = Failure(Status.CRASHED, "the model gave no finite score", photo.width, photo.height)
        return ImageScore.from_failure(failure, waiting.size)
    return ImageScore(
        status=Status.SCORED,
        score=prediction.score,
        score_low=prediction.score_low,
        score_high=prediction.score_high,
        score_lower=prediction.score_lower,
        score_upper=prediction.score_upper,
        width=photo.width,
        height=photo.height,
        scored_pixels=photo.rgb.shape[0] * photo.rgb.shape[1],
        bytes=waiting.size,
        features=prediction.features,
    )


def _pixels(group: list[_Waiting]) -> int:
    return sum(waiting.photo.rgb.shape[0] * waiting.photo.rgb.shape[1] for waiting in group)
