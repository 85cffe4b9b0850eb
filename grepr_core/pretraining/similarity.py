"""FSIMc, the similarity of the versions of a scene (Zhang et al., IEEE Trans. Image Process. 20(8), 2011).

Phase congruency and gradient of a version do not depend on what it is compared with, so they are computed once a
version. Values are those of ``piq.fsim``.
"""

import math
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

ORIENTATIONS = 4
#: Of the log-Gabor filters, in pixels.
WAVELENGTHS = (6, 12, 24, 48)
#: Bandwidth of a log-Gabor filter: standard deviation over centre frequency.
SIGMA_F = 0.55
#: Standard deviation of a filter over orientation, in radians.
SIGMA_THETA = math.pi / ORIENTATIONS / 1.2
#: Butterworth low-pass that keeps the corners of the spectrum out of the filters.
CUTOFF, ORDER = 0.45, 15
#: Standard deviations above the mean of the noise, and the empirical correction of that threshold.
NOISE_DEVIATIONS, NOISE_CORRECTION = 2.0, 1.7
#: Constants of the similarity maps of phase congruency, gradient, I and Q.
STABILISERS = (0.85, 160.0, 200.0, 200.0)
#: Exponent of the chromatic similarity.
CHROMATIC_WEIGHT = 0.03
#: Images are shrunk until the shorter side is about this long.
WORKING_SIDE = 256

RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
SCHARR = ((-3 / 16, 0.0, 3 / 16), (-10 / 16, 0.0, 10 / 16), (-3 / 16, 0.0, 3 / 16))


@torch.no_grad()
def fsim_matrix(versions: Tensor, *, chromatic: bool = True) -> Tensor:
    """Compares all versions of a scene with each other.

    Args:
        versions: (D, 3, H, W) float32 or float64 RGB in [0, 1].
        chromatic: FSIMc; otherwise FSIM, of the luminance alone.

    Returns:
        (D, D) similarities in the dtype of ``versions``: symmetric, exactly 1 on the diagonal, 1 at most apart from
        rounding. Without gradient.

    Raises:
        ValueError: The versions are not a batch of RGB images in float32 or float64.
    """
    if versions.ndim != 4 or versions.shape[1] != 3 or versions.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"versions must be (D, 3, H, W) float32 or float64, not {tuple(versions.shape)} {versions.dtype}"
        )
    maps = [_feature_maps(version) for version in versions]
    stabilisers = versions.new_tensor(STABILISERS)[:, None, None]
    squares = [version.square() + stabilisers / 2 for version in maps]
    matrix = torch.eye(len(versions), dtype=versions.dtype, device=versions.device)
    # One pair at a time stays in the cache, which is faster than all at once.
    for i, j in combinations(range(len(versions)), 2):
        stable = torch.addcmul(stabilisers, maps[i], maps[j], value=2) / (squares[i] + squares[j])
        weight = torch.maximum(maps[i][0], maps[j][0])
        similarity = weight * stable[0] * stable[1]
        if chromatic:
            similarity *= (stable[2] * stable[3]).abs() ** CHROMATIC_WEIGHT
        matrix[i, j] = matrix[j, i] = similarity.sum() / weight.sum()
    return matrix


def fsim(x: Tensor, y: Tensor, *, chromatic: bool = True) -> Tensor:
    """Compares two images of one size; see :func:`fsim_matrix`.

    Args:
        x: (3, H, W) float32 or float64 RGB in [0, 1].
        y: Likewise.
        chromatic: FSIMc; otherwise FSIM, of the luminance alone.

    Returns:
        The similarity, a scalar without gradient.
    """
    return fsim_matrix(torch.stack([x, y]), chromatic=chromatic)[0, 1]


def _feature_maps(image: Tensor) -> Tensor:
    """Phase congruency, gradient magnitude, I and Q of an image (3, H, W), as (4, h, w)."""
    step = max(1, round(min(image.shape[-2:]) / WORKING_SIDE))
    pixels = F.avg_pool2d(255 * image, step)
    yiq = torch.einsum("ij,jhw->ihw", image.new_tensor(RGB_TO_YIQ), pixels)
    scharr = image.new_tensor(SCHARR)
    gradient = _length(*F.conv2d(yiq[:1], torch.stack([scharr, scharr.T])[:, None], padding=1))
    return torch.stack([_phase_congruency(yiq[0]), gradient, yiq[1], yiq[2]])


def _phase_congruency(luma: Tensor) -> Tensor:
    """How far the frequencies of a grey image (h, w) agree in phase at each pixel, in [0, 1] (Kovesi 1999)."""
    bank = _filter_bank(*luma.shape, luma.dtype, luma.device)
    tiny = torch.finfo(luma.dtype).eps
    spectrum = torch.fft.fft2(luma) * bank.radial
    energy = torch.full_like(luma, tiny)
    amplitude = torch.full_like(luma, tiny)
    for angular, noise_gain in zip(bank.angular, bank.noise_gain, strict=True):
        responses = torch.fft.ifft2(spectrum * angular)
        # Arithmetic on planes is vectorised, that on complex numbers is not.
        even, odd = responses.real.contiguous(), responses.imag.contiguous()
        amplitudes = _length(even, odd)
        sum_even, sum_odd = even.sum(dim=0), odd.sum(dim=0)
        total = _length(sum_even, sum_odd)
        unit_even, unit_odd = sum_even / (total + tiny), sum_odd / (total + tiny)
        # The parts of the responses along their sum add up to its length.
        along = total.square() / (total + tiny)
        across = (odd * unit_even).addcmul_(even, unit_odd, value=-1).abs_().sum(dim=0)
        energy += (along - across - noise_gain * amplitudes[0].median()).clamp_(min=0)
        amplitude += amplitudes.sum(dim=0)
    return energy / amplitude


def _length(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean length; several times as fast as hypot and abs, which guard against an overflow that cannot be."""
    return torch.addcmul(x.square(), y, y).sqrt_()


class _FilterBank(NamedTuple):
    """Log-Gabor filters of one image size; filter (o, s) is ``angular[o] * radial[s]``.

    Attributes:
        radial: (4, h, w), by wavelength.
        angular: (4, h, w), by orientation.
        noise_gain: (4,) noise threshold by orientation, for a median amplitude of 1 at the shortest wavelength.
    """

    radial: Tensor
    angular: Tensor
    noise_gain: Tensor


@lru_cache(maxsize=8)
def _filter_bank(height: int, width: int, dtype: torch.dtype, device: torch.device) -> _FilterBank:
    y, x = torch.meshgrid(_frequencies(height), _frequencies(width), indexing="ij")
    radius = torch.hypot(y, x)
    # Its logarithm must exist, though no filter lets the mean through.
    radius[0, 0] = 1.0
    low_pass = 1 / (1 + (radius / CUTOFF) ** (2 * ORDER))
    octaves = torch.stack([torch.log(radius * wavelength) / math.log(SIGMA_F) for wavelength in WAVELENGTHS])
    radial = low_pass * torch.exp(-octaves.square() / 2)
    radial[:, 0, 0] = 0.0

    axes = torch.arange(ORIENTATIONS, dtype=torch.float64)[:, None, None] * (math.pi / ORIENTATIONS)
    apart = torch.remainder(torch.atan2(-x, y) - axes + math.pi, 2 * math.pi) - math.pi
    angular = torch.exp(-(apart / SIGMA_THETA).square() / 2)

    # Of white noise the squared amplitude is exponentially distributed, with mean median / ln 2. The even filters of
    # an orientation, summed over wavelengths, say how much energy such noise has; that is Rayleigh distributed.
    even = torch.fft.ifft2(angular * radial.sum(dim=0)).real
    gain = even.square().sum(dim=(-2, -1)) * (height * width)
    noise_power = 1 / math.log(2) / (angular * radial[0]).square().sum(dim=(-2, -1))
    rayleigh = math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2)
    noise_gain = rayleigh / NOISE_CORRECTION * torch.sqrt(noise_power * gain)
    return _FilterBank(*(part.to(device, dtype) for part in (radial, angular, noise_gain)))


def _frequencies(length: int) -> Tensor:
    """Frequencies in cycles a pixel, zero first; those of odd lengths are stretched to 1/2, as FSIM's authors do."""
    steps: Tensor = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    return steps / (length - length % 2)
