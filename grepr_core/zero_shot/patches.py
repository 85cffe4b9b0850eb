"""Patches of 96 pixels: all of an image that is scored, and those of pristine photographs worth comparing with."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

#: Side of a patch, in pixels.
PATCH = 96
#: Patches of an image that is scored overlap by half.
STRIDE = PATCH // 2
#: A pristine patch is sharper than this share of the sharpest patch of its photograph,
SHARPNESS_SHARE = 0.75
#: and more colourful than this share of the most colourful of those.
COLOURFULNESS_SHARE = 0.8


def patch_batches(image: Tensor, *, stride: int = STRIDE, batch_size: int = 64) -> Iterator[Tensor]:
    """Cuts an image into square patches of 96 pixels, a few at a time, equally many each time but for the last.

    What remains at the right and at the bottom is left out. Along a side shorter than 96 pixels a patch is as long as
    the image: enlarging the image would blur it, which is a distortion.

    Args:
        image: (3, H, W) RGB.
        stride: Pixels from one patch to the next, 96 for patches that do not overlap.
        batch_size: Patches at a time, at most.

    Yields:
        (N, 3, min(H, 96), min(W, 96)) patches, row by row, in the dtype of the image, channels-last.
    """
    _, height, width = image.shape
    tall, wide = min(height, PATCH), min(width, PATCH)
    corners = [
        (top, left) for top in range(0, height - tall + 1, stride) for left in range(0, width - wide + 1, stride)
    ]
    pixels = image.permute(1, 2, 0)
    # Of 81 patches, 41 and 40 take 3 % less time than 64 and 17. Views could save what copying takes, 0.3 %.
    equal = math.ceil(len(corners) / math.ceil(len(corners) / batch_size))
    for first in range(0, len(corners), equal):
        batch = corners[first : first + equal]
        yield torch.stack([pixels[top : top + tall, left : left + wide] for top, left in batch]).permute(0, 3, 1, 2)


def select_pristine_patches(image: Tensor) -> Tensor:
    """Picks the patches of a pristine photograph that are worth comparing with: sharp, and of those the colourful.

    Args:
        image: (3, H, W) floating point RGB in [0, 1].

    Returns:
        (N, 3, 96, 96) patches that do not overlap. There are none in an image without a pixel of colour, nor in one
        shorter than 96 pixels on a side.
    """
    if min(image.shape[1:]) < PATCH:
        return image.new_empty(0, 3, PATCH, PATCH)
    patches = torch.cat(list(patch_batches(image, stride=PATCH)))
    sharp = sharpness(patches)
    patches = patches[sharp > SHARPNESS_SHARE * sharp.max()]
    if len(patches) == 0:
        return patches
    colour = colourfulness(patches)
    return patches[colour > COLOURFULNESS_SHARE * colour.max()]


def sharpness(patches: Tensor) -> Tensor:
    """Sums the local standard deviation of luminance, in a Gaussian window as NIQE uses it, over each patch.

    The surroundings of a patch count as black, as in the published code, so its edges count as sharp.

    Args:
        patches: (N, 3, h, w) floating point RGB in [0, 1].

    Returns:
        (N,) float64 sums over pixels, 0 or more.
    """
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64, device=patches.device)
    # The difference of two nearly equal numbers needs double precision.
    luma = torch.einsum("c,nchw->nhw", weights, patches.double())
    offsets = torch.arange(-3, 4, dtype=torch.float64, device=patches.device)
    window = torch.softmax(-(offsets**2) / (2 * (7 / 6) ** 2), dim=0)
    moments = torch.stack([luma, luma.square()], dim=1).flatten(0, 1)[:, None]
    smooth = F.conv2d(
        F.conv2d(moments, window.view(1, 1, 7, 1), padding=(3, 0)), window.view(1, 1, 1, 7), padding=(0, 3)
    )
    mean, mean_square = smooth.view(len(patches), 2, *luma.shape[1:]).unbind(1)
    return (mean_square - mean.square()).abs().sqrt().sum(dim=(1, 2))


def colourfulness(patches: Tensor) -> Tensor:
    """Measures how strong and how varied the colours of each patch are.

    As in the published code: unlike Hasler and Suesstrunk's measure it takes absolute opponent values, and their
    means count in full.

    Args:
        patches: (N, 3, h, w) floating point RGB in [0, 1].

    Returns:
        (N,) float64, 0 for grey.
    """
    red, green, blue = patches.double().flatten(2).unbind(1)
    opponents = torch.stack([(red - green).abs(), ((red + green) / 2 - blue).abs()])
    return torch.hypot(*opponents.std(dim=2)) + torch.hypot(*opponents.mean(dim=2))
