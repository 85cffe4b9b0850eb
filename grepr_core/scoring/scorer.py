"""Encoded images in, scores out: the only thing a pipeline needs to know of the method."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.batches import group_by_shape
from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode, photo_from_image
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.decoding.transfer import transfer_to
from grepr_core.encoders.inference import resolve_device, resolve_dtype
from grepr_core.encoders.precision import Precision
from grepr_core.reasons.probes import SEVERITIES
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.model_errors import check_device, free_memory, is_out_of_memory, model_failure_words
from grepr_core.scoring.networks import Networks
from grepr_core.zero_shot.gaussian import DISTANCES, GaussianAccumulator
from grepr_core.zero_shot.scores import combined_score, high_level_score, low_level_score

T = TypeVar("T")

#: The content of an image's file; a photograph that :meth:`Scorer.photo` made; or why there is neither.
Content = bytes | Photo | Failure

#: Shortest side that every encoder takes: all of them halve it five times.
LEAST_SIDE = 32
#: Pixels encoded together on a GPU: 32 photographs of 512 x 512.
GPU_BATCH_PIXELS = 32 * 512 * 512


@dataclass(frozen=True, slots=True)
class _Decoded:
    size: int | None
    image: Photo | Failure
    phash: str | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    index: int
    size: int | None
    photo: Photo
    phash: str | None

    @property
    def pixels(self) -> int:
        height, width = self.shape
        return height * width

    @property
    def enlargement(self) -> float:
        """By how much its sides were enlarged, on average; 1 where they were not."""
        return max(1.0, math.sqrt(self.pixels / (self.photo.width * self.photo.height)))

    @property
    def shape(self) -> tuple[int, int]:
        height, width, _ = self.photo.rgb.shape
        return height, width


class Scorer:
    """A bundle, ready to score on one device.

    Scores do not depend on which images are scored together. On the CPU every image is encoded alone, which is also
    fastest: its activations stay in the cache. A GPU encodes images of one size together, while threads decode and the
    next images travel to it.

    Attributes:
        bundle: The model.
        feature_size: Length of the feature vectors.
        seconds: Time spent so far by step: ``read`` (waiting for the encoded images), ``decode``, ``model``.
        model_failures: Images so far that have no score because the model raised an exception at them alone.
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
        zero_shot: bool = False,
        features: bool = True,
    ) -> None:
        """Prepares the encoders.

        Args:
            bundle: The model.
            device: ``auto``, ``cpu`` or ``cuda``.
            precision: ``auto``, ``fp32`` or ``bf16``; makes no difference where the bundle's scores are defined in one.
            limits: Images beyond them are refused.
            max_pixels: Area that images are seen at, in place of the bundle's.
            decode_threads: Threads that decode while a GPU computes. On the CPU decoding and computing take turns.
            batch_pixels: Pixels encoded together at most, one image at least; by default one image on the CPU.
            zero_shot: Whether the low-level zero-shot score is given where the score does not depend on it: its
                overlapping patches cost more than all else.
            features: Whether the features are given where no score depends on them: without ratings, those of the low
                level take a forward pass of their own.

        Raises:
            ValueError: The device is not there.
        """
        self.bundle = bundle
        self.seconds: dict[str, float] = defaultdict(float)
        self.model_failures = 0
        self._device = resolve_device(device)
        dtype = resolve_dtype(bundle.resolve_precision(precision), self._device)
        on_gpu = self._device.type == "cuda"
        if on_gpu and dtype == torch.float32:
            # For the whole process: convolutions would round to 10 bits, and scores differ in the fourth digit.
            torch.backends.cudnn.allow_tf32 = False
        self._networks = Networks(
            bundle,
            self._device,
            dtype,
            zero_shot=bundle.pristine is not None and (zero_shot or bundle.regressor is None),
            features=features or any(part is not None for part in (bundle.regressor, bundle.axis, bundle.reasons)),
        )
        self._limits = limits
        self._view = bundle.view.at(max_pixels) if max_pixels else bundle.view
        self._batch_pixels = batch_pixels or (GPU_BATCH_PIXELS if on_gpu else 1)
        self._transfer = transfer_to(self._device)
        self._decode_ahead = 2 * decode_threads
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") if on_gpu else None

    @property
    def feature_size(self) -> int:
        """Length of the feature vectors."""
        return sum(self.bundle.feature_blocks)

    @property
    def gives_features(self) -> bool:
        """Whether scores come with the features."""
        return self._networks.gives_features

    @property
    def is_on_gpu(self) -> bool:
        """Whether the model runs on a GPU, which takes images of one size together; a CPU takes one after the other."""
        return self._device.type == "cuda"

    def photo(self, image: Image.Image) -> Photo | Failure:
        """Gives an image that Pillow holds as the model sees it, to be scored.

        Args:
            image: It stays as it is, and is needed no more afterwards.

        Returns:
            The photograph, or why there is none, as for a file.
        """
        return self._timed("decode", lambda: photo_from_image(image, limits=self._limits, view=self._view))

    def score(self, encoded: Iterable[Content]) -> list[ImageScore]:
        """Scores images.

        Images are taken from the iterable as they are needed, and few are held decoded at a time. Where the model
        raises an exception, it is tried with fewer of them; one that fails alone is ``crashed``.

        Args:
            encoded: The content of each image's file, what :meth:`photo` gives, or why it could not be read.

        Returns:
            One result for each, in order.

        Raises:
            DeviceLostError: The device can be used no more.
        """
        scores: dict[int, ImageScore] = {}
        under_way: deque[_Batch] = deque()
        groups = group_by_shape(
            self._photos(encoded, scores),
            shape=lambda waiting: waiting.shape,
            pixels=lambda waiting: waiting.pixels,
            budget=self._batch_pixels,
        )
        for group in groups:
            under_way.append(self._start(group))
            if len(under_way) > self._transfer.batches_in_flight:
                self._finish_next(under_way, scores)
        while under_way:
            self._finish_next(under_way, scores)
        return [scores[index] for index in range(len(scores))]

    def _photos(self, encoded: Iterable[Content], scores: dict[int, ImageScore]) -> Iterator[_Waiting]:
        """Decodes; what fails gets its row at once."""
        for index, found in enumerate(self._decoded(encoded)):
            if isinstance(found.image, Failure):
                scores[index] = ImageScore.from_failure(found.image, found.size)
            else:
                yield _Waiting(index, found.size, found.image, found.phash)

    def _decoded(self, encoded: Iterable[Content]) -> Iterator[_Decoded]:
        if self._pool is None:
            yield from map(self._decode, self._contents(encoded))
            return
        ahead: deque[Future[_Decoded]] = deque()
        for content in self._contents(encoded):
            ahead.append(self._pool.submit(self._decode, content))
            if len(ahead) > self._decode_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _contents(self, encoded: Iterable[Content]) -> Iterator[Content]:
        contents = iter(encoded)
        while (content := self._timed("read", lambda: next(contents, None))) is not None:
            yield content

    def _decode(self, content: Content) -> _Decoded:
        if isinstance(content, Failure):
            return _Decoded(None, content)
        size: int | None = None
        image: Photo | Failure
        if isinstance(content, Photo):
            image = content
        else:
            size = len(content)
            image = self._timed("decode", lambda: decode(content, limits=self._limits, view=self._view))
        if isinstance(image, Failure):
            return _Decoded(size, image)
        height, width, _ = image.rgb.shape
        if min(width, height) < LEAST_SIDE:
            reason = f"{width} x {height} pixels when the model sees it, which needs {LEAST_SIDE} a side"
            return _Decoded(size, Failure(Status.TOO_SMALL, reason, image.width, image.height))
        return _Decoded(size, image, self._timed("decode", lambda: perceptual_hash(image.rgb)))

    def _timed(self, step: str, action: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return action()
        finally:
            self.seconds[step] += time.perf_counter() - began

    def _start(self, group: list[_Waiting]) -> "_Batch":
        """Has a group encoded; a GPU only begins with it. What is raised is raised with the results."""
        try:
            return _Batch(group, self._timed("model", lambda: self._encode([waiting.photo for waiting in group])))
        except Exception as error:
            return _Batch(group, _raising(error))

    def _encode(self, photos: Sequence[Photo]) -> Callable[[], list[Tensor]]:
        """Encodes photographs of one size; gives a function that waits for what :class:`Networks` give, on the CPU."""
        pixels = self._transfer.upload(photos)
        return self._transfer.download(self._networks.encode(pixels), keeping=pixels)

    def _finish_next(
        self, under_way: "deque[_Batch]", scores: dict[int, ImageScore], *, last_try: bool = False
    ) -> None:
        """Adds the scores of the batch that was started first, or of its parts where it failed; alone, a last time."""
        batch = under_way.popleft()
        try:
            scores |= self._finish(batch)
        except Exception as error:
            why = error.with_traceback(None)  # which would hold the tensors of the batch
        else:
            return
        no_room = is_out_of_memory(why)
        if not no_room:
            check_device(self._device)
        if last_try:
            (waiting,) = batch.group
            self.model_failures += 1
            failure = Failure(Status.CRASHED, model_failure_words(why), waiting.photo.width, waiting.photo.height)
            scores[waiting.index] = ImageScore.from_failure(failure, waiting.size)
            return
        while under_way:  # which frees their memory
            self._finish_next(under_way, scores)
        if no_room:
            self._networks.forget()
        part = math.ceil(len(batch.group) / 2) if no_room else 1
        for first in range(0, len(batch.group), part):
            free_memory(self._device)
            again = deque([self._start(batch.group[first : first + part])])
            self._finish_next(again, scores, last_try=part == 1)

    def _finish(self, batch: "_Batch") -> dict[int, ImageScore]:
        enlargement = np.array([waiting.enlargement for waiting in batch.group])

        def predict() -> list[_Prediction]:
            features, cosines, patches = (tensor.numpy() for tensor in batch.results())
            return self._predict(features, cosines, patches, enlargement)

        predictions = self._timed("model", predict)
        return {waiting.index: _row(waiting, row) for waiting, row in zip(batch.group, predictions, strict=True)}

    def _predict(
        self,
        features: NDArray[np.float32],
        cosines: NDArray[np.float32],
        patches: NDArray[np.float32],
        enlargement: NDArray[np.float64],
    ) -> list["_Prediction"]:
        axis = self.bundle.axis
        high = high_level_score(*cosines.T.astype(np.float64)) if cosines.size else None
        if axis is not None:
            position = axis.position(features[:, : len(axis.direction)])
            high = axis.score_at(position)
            features = np.column_stack([features, position.astype(np.float32)])
        low = low_level_score(np.array([self._distance(image) for image in patches])) if patches.size else None
        regressor = self.bundle.regressor
        scores: NDArray[np.float64] | None
        lower = upper = None
        if regressor is not None:
            scores = regressor.predict(features)
            if regressor.interval is not None:
                lower, upper = regressor.interval.bounds(scores, enlargement)
        elif low is not None and high is not None:
            scores = combined_score(low, high)
        else:
            scores = low if low is not None else high
        severities = not_photo = reasons = None
        if self.bundle.reasons is not None:
            found = self.bundle.reasons.diagnose(features)
            severities, not_photo, reasons = found.severities, found.not_photo, np.array(found.reasons, object)
        missing = [None] * len(features)
        columns = (
            missing if column is None else column.tolist()
            for column in (scores, low, high, lower, upper, severities, not_photo, reasons)
        )
        return [_Prediction(*row) for row in zip(*columns, features, strict=True)]

    def _distance(self, patches: NDArray[np.float32]) -> float:
        assert self.bundle.pristine is not None
        accumulator = GaussianAccumulator()
        accumulator.update(patches)
        return DISTANCES[self.bundle.distance](accumulator.gaussian(), self.bundle.pristine)


@dataclass(frozen=True, slots=True)
class _Batch:
    group: list[_Waiting]
    results: Callable[[], list[Tensor]]


def _raising(error: Exception) -> Callable[[], list[Tensor]]:
    def results() -> list[Tensor]:
        raise error.with_traceback(None)

    return results


@dataclass(frozen=True, slots=True)
class _Prediction:
    score: float | None
    score_low: float | None
    score_high: float | None
    score_lower: float | None
    score_upper: float | None
    severities: list[float] | None
    not_photo: bool | None
    reason: str | None
    features: NDArray[np.float32]


def _row(waiting: _Waiting, prediction: _Prediction) -> ImageScore:
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
        severities=(
            None if prediction.severities is None else dict(zip(SEVERITIES, prediction.severities, strict=True))
        ),
        not_photo=prediction.not_photo,
        reason=prediction.reason,
        width=photo.width,
        height=photo.height,
        scored_pixels=waiting.pixels,
        bytes=waiting.size,
        phash=waiting.phash,
        features=prediction.features if prediction.features.size else None,
    )
