"""What the operators of :mod:`grepr_core.encoders.gpu_kernels` run, in Triton's dialect of Python.

Where indices may exceed 32 bits they are taken from a program's number, which is widened.
"""

import triton
import triton.language as tl


@triton.jit
def _cut(values, ceiling):
    # What is not a number stays so, as it does in PyTorch.
    values = tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(values, ceiling, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def finish(
    maps,
    bias,
    added,
    count,
    channels,
    ceiling,
    HAS_BIAS: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    ACTIVATED: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    within = element < count
    values = tl.load(maps + element, mask=within, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + element % channels, mask=within, other=0.0).to(tl.float32)
    if HAS_ADDED:
        values += tl.load(added + element, mask=within, other=0.0).to(tl.float32)
    if ACTIVATED:
        values = _cut(values, ceiling)
    tl.store(maps + element, values.to(maps.dtype.element_ty), mask=within)


@triton.jit
def depthwise(
    maps,
    weight,
    bias,
    result,
    height,
    width,
    channels,
    result_height,
    result_width,
    above,
    left,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    image = line // result_height
    row = line % result_height
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    for y in tl.static_range(KERNEL):
        source_row = row * STRIDE - above + y
        start = maps + (image * height + source_row) * width * channels
        for x in tl.static_range(KERNEL):
            source = column * STRIDE - left + x
            inside = (source_row >= 0) & (source_row < height) & (source >= 0) & (source < width)
            values = tl.load(
                start + source[:, None] * channels + channel[None, :], mask=inside[:, None] & known[None, :], other=0.0
            )
            factors = tl.load(weight + (y * KERNEL + x) * channels + channel, mask=known, other=0.0)
            total += _cut(values.to(tl.float32), 6.0) * factors.to(tl.float32)[None, :]
    total = _cut(total, 6.0)
    place = result + line * result_width * channels + column[:, None] * channels + channel[None, :]
    tl.store(place, total.to(result.dtype.element_ty), mask=(column < result_width)[:, None] & known[None, :])


@triton.jit
def moments(maps, means, scatters, positions, channels, parts, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    image = block // parts
    position = (block % parts) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    within = (position < positions)[:, None] & known[None, :]
    values = tl.load(
        maps + (image * positions + position[:, None]) * channels + channel[None, :], mask=within, other=0.0
    ).to(tl.float32)
    count = tl.minimum(positions - (block % parts) * POSITIONS, POSITIONS)
    mean = tl.sum(values, axis=0) / count
    centred = tl.where(within, values - mean[None, :], 0.0)
    place = block * channels + channel
    tl.store(means + place, mean, mask=known)
    tl.store(scatters + place, tl.sum(centred * centred, axis=0), mask=known)
