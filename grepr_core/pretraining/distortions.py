"""Synthetic distortions in five levels, for contrastive pretraining and for demonstrations.

Each kind mimics a fault that photographs really have. Faults of capture and of sharing (darkness with noise, motion,
defocus, overexposure, compression after resizing) matter most, since those are what photo lakes hold.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import oaconvolve

#: Levels, from barely visible to gross.
LEVELS = (1, 2, 3, 4, 5)

Pixels = NDArray[np.floating]
Apply = Callable[[Pixels, float, np.random.Generator], Pixels]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Distortion:
    """A kind of distortion.

    Attributes:
        name: What it is called.
        strengths: Its parameter at each level.
        apply: Distorts (H, W, 3) float32 sRGB in [0, 1] by a strength. What it draws from the generator must not depend
            on the strength, so that all levels share one pattern and compare.
    """

    name: str
    strengths: tuple[float, ...]
    apply: Apply


#: All kinds, by name.
DISTORTIONS: dict[str, Distortion] = {}


def distort(image: NDArray[np.uint8], name: str, level: int, *, seed: int) -> NDArray[np.uint8]:
    """Distorts an image.

    Args:
        image: (H, W, 3) sRGB.
        name: Kind, one of :data:`DISTORTIONS`.
        level: Strength, one of :data:`LEVELS`.
        seed: Decides direction, pattern and noise; the same seed gives the same result, and the same pattern at all
            levels of a kind.

    Returns:
        The distorted image, of the same size.

    Raises:
        ValueError: Kind or level is unknown.
    """
    if name not in DISTORTIONS:
        raise ValueError(f"unknown distortion {name!r}; there are {', '.join(sorted(DISTORTIONS))}")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level}; there are {LEVELS[0]} to {LEVELS[-1]}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    distortion = DISTORTIONS[name]
    pixels = image.astype(np.float32) / 255
    return _to_bytes(distortion.apply(pixels, distortion.strengths[level - 1], rng))


def _kind(*strengths: float) -> Callable[[Apply], Apply]:
    """Registers a function as the kind of its name, with its strength at each level."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__.removeprefix("_")
        DISTORTIONS[name] = Distortion(name, strengths, apply)
        return apply

    return register


# Blur


@_kind(0.8, 1.4, 2.2, 3.5, 5.5)
def _gaussian_blur(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return _gaussian(pixels, sigma)


@_kind(5, 9, 15, 23, 35)
def _motion_blur(pixels: Pixels, length: float, rng: np.random.Generator) -> Pixels:
    """Moves the camera in a straight line of so many pixels."""
    angle = rng.uniform(0, np.pi)
    radius = int(length / 2) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 4 * int(length)):
        _splat(kernel, radius + t * np.sin(angle), radius + t * np.cos(angle))
    return _convolve(pixels, kernel)


@_kind(1.2, 2.2, 3.6, 5.5, 8.5)
def _lens_blur(pixels: Pixels, radius: float, rng: np.random.Generator) -> Pixels:
    """Defocus: every point becomes a disc of so many pixels in radius."""
    side = int(np.ceil(radius))
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    # The rim's pixels count by the part of them that lies inside.
    kernel = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    return _convolve(pixels, kernel)


# Noise


@_kind(0.02, 0.045, 0.08, 0.14, 0.22)
def _gaussian_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return pixels + sigma * _normal(rng, pixels.shape)


@_kind(0.004, 0.012, 0.03, 0.08, 0.18)
def _impulse_noise(pixels: Pixels, fraction: float, rng: np.random.Generator) -> Pixels:
    """Turns a fraction of the pixels black or white."""
    draw = rng.random(pixels.shape[:2], dtype=np.float32)
    white = rng.random(pixels.shape[:2], dtype=np.float32) < 0.5
    return np.where((draw < fraction)[..., None], white[..., None].astype(np.float32), pixels)


@_kind(0.06, 0.12, 0.2, 0.33, 0.5)
def _speckle_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Multiplies by noise."""
    return pixels * (1 + sigma * _normal(rng, pixels.shape))


@_kind(0.03, 0.06, 0.11, 0.18, 0.3)
def _colour_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Adds blotches of colour that leave the luma alone."""
    noise = _gaussian(_normal(rng, pixels.shape), 1.0) * np.float32(3.5)
    return pixels + sigma * (noise - (noise @ _LUMA)[..., None])


# Exposure


@_kind(0.5, 0.28, 0.15, 0.08, 0.04)
def _low_light(pixels: Pixels, exposure: float, rng: np.random.Generator) -> Pixels:
    """Takes a fraction of the light, whose photons are counted with shot and read noise, and half amplifies it."""
    full_well, read_noise = 300.0, 1.5
    electrons = _to_linear(pixels) * np.float32(exposure * full_well)
    noisy = electrons + np.sqrt(electrons + np.float32(read_noise**2)) * _normal(rng, pixels.shape)
    return _to_srgb(noisy / np.float32(full_well * exposure**0.5))


@_kind(1.35, 1.8, 2.5, 3.6, 5.5)
def _overexposure(pixels: Pixels, gain: float, rng: np.random.Generator) -> Pixels:
    """Takes so many times the light; highlights clip."""
    return _to_srgb(_to_linear(pixels) * np.float32(gain))


@_kind(0.75, 0.55, 0.4, 0.27, 0.17)
def _low_contrast(pixels: Pixels, contrast: float, rng: np.random.Generator) -> Pixels:
    # Summed in float32, the mean of a large image is off by several grey levels.
    mean = pixels.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
    distorted: Pixels = mean + np.float32(contrast) * (pixels - mean)
    return distorted


@_kind(0.85, 0.7, 0.52, 0.36, 0.22)
def _haze(pixels: Pixels, transmission: float, rng: np.random.Generator) -> Pixels:
    """Mixes in white light that grows towards the top of the picture, where the distance is."""
    depth = np.linspace(1.3, 0.7, pixels.shape[0], dtype=np.float32)[:, None, None]
    through = np.float32(transmission) ** depth
    distorted: Pixels = pixels * through + np.float32(0.92) * (1 - through)
    return distorted


@_kind(0.35, 0.55, 0.75, 0.9, 0.98)
def _vignetting(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Darkens by so much, in linear light, from the centre to the corners."""
    height, width, _ = pixels.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    falloff = 1 - np.float32(strength) * ((x**2 + y**2) / 2) ** np.float32(0.75)
    return _to_srgb(_to_linear(pixels) * falloff[..., None])


# Colour


@_kind(1.5, 2.0, 2.7, 3.7, 5.0)
def _oversaturation(pixels: Pixels, saturation: float, rng: np.random.Generator) -> Pixels:
    grey = (pixels @ _LUMA)[..., None]
    return grey + np.float32(saturation) * (pixels - grey)


@_kind(0.1, 0.2, 0.32, 0.46, 0.62)
def _colour_cast(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Sets the white balance wrong, towards warm or cold, magenta or green."""
    warmth, tint = np.array([1, 0, -1]), np.array([0.5, -1, 0.5])
    angle = rng.uniform(0, 2 * np.pi)
    gains = 1 + strength * (np.cos(angle) * warmth + np.sin(angle) * tint)
    distorted: Pixels = pixels * gains.astype(np.float32)
    return distorted


@_kind(20, 12, 8, 5, 3)
def _banding(pixels: Pixels, steps: float, rng: np.random.Generator) -> Pixels:
    """Leaves so many values a channel."""
    distorted: Pixels = np.rint(pixels * np.float32(steps - 1)) / np.float32(steps - 1)
    return distorted


# Compression and resizing


@_kind(45, 25, 14, 8, 3)
def _jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    return _recoded(pixels, "JPEG", quality=int(quality))


@_kind(25, 50, 90, 160, 300)
def _jpeg2000(pixels: Pixels, ratio: float, rng: np.random.Generator) -> Pixels:
    """Compresses so many times."""
    return _recoded(pixels, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


@_kind(0.75, 0.55, 0.4, 0.28, 0.2)
def _resized_jpeg(pixels: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    """Shrinks, compresses the harder the smaller, and enlarges again, as sharing services do."""
    small = _resized(pixels, _scaled(pixels, scale), Image.Resampling.LANCZOS)
    coded = _recoded(small, "JPEG", quality=int(70 * scale))
    return _resized(coded, pixels.shape[:2], Image.Resampling.BICUBIC)


@_kind(1.8, 2.5, 3.5, 5.0, 7.5)
def _resampling(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Shrinks without smoothing first, so that detail aliases, and enlarges again."""
    small = _resized(pixels, _scaled(pixels, 1 / factor), Image.Resampling.NEAREST)
    return _resized(small, pixels.shape[:2], Image.Resampling.BILINEAR)


@_kind(2, 3, 5, 8, 13)
def _pixelation(pixels: Pixels, block: float, rng: np.random.Generator) -> Pixels:
    small = _resized(pixels, _scaled(pixels, 1 / block), Image.Resampling.BOX)
    return _resized(small, pixels.shape[:2], Image.Resampling.NEAREST)


# Processing


@_kind(0.8, 1.7, 3.0, 5.0, 9.0)
def _oversharpening(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return pixels + np.float32(amount) * (pixels - _gaussian(pixels, 1.3))


@_kind(0.0015, 0.005, 0.015, 0.04, 0.12)
def _oversmoothing(pixels: Pixels, variance: float, rng: np.random.Generator) -> Pixels:
    """Removes texture below a variance and keeps edges: a self-guided filter, as strong denoising looks."""
    size = (9, 9, 1)
    mean = uniform_filter(pixels, size)
    spread = np.maximum(uniform_filter(pixels**2, size) - mean**2, 0)
    slope = spread / (spread + np.float32(variance))
    distorted: Pixels = uniform_filter(slope, size) * pixels + uniform_filter(mean - slope * mean, size)
    return distorted


# What the kinds are made of


def _to_bytes(pixels: Pixels) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    return rounded


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Pixels:
    return rng.standard_normal(shape, dtype=np.float32)


def _to_linear(pixels: Pixels) -> Pixels:
    return pixels ** np.float32(2.2)


def _to_srgb(light: Pixels) -> Pixels:
    return light.clip(0, 1) ** np.float32(1 / 2.2)


def _gaussian(pixels: Pixels, sigma: float) -> Pixels:
    blurred: Pixels = gaussian_filter(pixels, (sigma, sigma, 0), truncate=3)
    return blurred


def _convolve(pixels: Pixels, kernel: Pixels) -> Pixels:
    margin = kernel.shape[0] // 2
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    convolved: Pixels = oaconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1))
    return convolved


def _splat(kernel: Pixels, y: float, x: float) -> None:
    """Adds one to a kernel at a place between its pixels."""
    row, column = int(y), int(x)
    down, right = y - row, x - column
    kernel[row : row + 2, column : column + 2] += np.outer([1 - down, down], [1 - right, right])


def _scaled(pixels: Pixels, scale: float) -> tuple[int, int]:
    height, width, _ = pixels.shape
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(pixels: Pixels, size: tuple[int, ...], filter_: Image.Resampling) -> Pixels:
    image = Image.fromarray(_to_bytes(pixels)).resize((size[1], size[0]), filter_)
    return np.asarray(image, np.float32) / 255


def _recoded(pixels: Pixels, kind: str, **options: object) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(_to_bytes(pixels)).save(buffer, kind, **options)
    return np.asarray(Image.open(buffer).convert("RGB"), np.float32) / 255
