"""Pictures that are no photographs, drawn by code: what ``not_photo`` is learned from and tried on.

Every kind is a function of a random generator. Nothing is learned from the kinds of :data:`HELD_OUT`: they alone can
tell whether a probe has learned graphics, or these drawings.
"""

import io
import itertools
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Draw = Callable[[np.random.Generator], Image.Image]
Colour = tuple[int, int, int]

#: Kinds to learn from, and kinds to try on alone.
LEARNED: dict[str, Draw] = {}
HELD_OUT: dict[str, Draw] = {}

SIDES = (320, 480, 512, 640, 800, 1024, 1280)
FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "STIXGeneral")
LETTERS = np.array(list("eeeeeetttaaaooiinnsshhrrdlucmwfgypbvk"))


def draw(kind: str, seed: int) -> NDArray[np.uint8]:
    """Draws a picture of a kind; a third of them have been JPEGs.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    rng = np.random.default_rng([seed, len(kind), *kind.encode()])
    image = {**LEARNED, **HELD_OUT}[kind](rng).convert("RGB")
    if rng.random() < 1 / 3:
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=int(rng.integers(50, 95)))
        image = Image.open(encoded).convert("RGB")
    return np.array(image)


def _learned(function: Draw) -> Draw:
    LEARNED[function.__name__.strip("_")] = function
    return function


def _held_out(function: Draw) -> Draw:
    HELD_OUT[function.__name__.strip("_")] = function
    return function


# To learn from


@_learned
def _flat(rng: np.random.Generator) -> Image.Image:
    colour: Colour = (255, 255, 255) if rng.random() < 0.25 else (0, 0, 0) if rng.random() < 0.33 else _colour(rng)
    return Image.new("RGB", _size(rng), colour)


@_learned
def _gradient(rng: np.random.Generator) -> Image.Image:
    width, height = _size(rng)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    t = np.cos(angle) * x + np.sin(angle) * y if rng.random() < 0.7 else np.hypot(x - rng.random(), y - rng.random())
    t = ((t - t.min()) / np.ptp(t))[..., None]
    return Image.fromarray(((1 - t) * _colour(rng) + t * _colour(rng)).astype(np.uint8))


@_learned
def _polygons(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", _size(rng), _colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 40))):
        corners = rng.uniform(-0.1, 1.1, (int(rng.integers(3, 7)), 2)) * image.size
        if rng.random() < 0.5:
            corners = corners.mean(0) + (corners - corners.mean(0)) * rng.uniform(0.1, 0.5)
        pen.polygon([tuple(corner) for corner in corners], fill=_colour(rng))
    return image


@_learned
def _desktop(rng: np.random.Generator) -> Image.Image:
    """A screenshot of windows with titles, text, buttons and lists."""
    image = _gradient(rng).resize(_size(rng)) if rng.random() < 0.5 else Image.new("RGB", _size(rng), _colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        left, top = (int(rng.uniform(0, 0.4) * side) for side in image.size)
        right, bottom = (int(rng.uniform(0.6, 1) * side) for side in image.size)
        paper, ink = _paper_and_ink(rng)
        pen.rectangle((left, top, right, bottom), fill=paper, outline=ink)
        pen.rectangle((left, top, right, top + 26), fill=_colour(rng))
        pen.text((left + 8, top + 5), _words(rng, 3), fill=(255, 255, 255), font=_font(rng, 14))
        _paragraph(pen, rng, (left + 12, top + 40, right - 12, bottom - 40), ink, int(rng.integers(11, 18)))
        for button in range(int(rng.integers(0, 4))):
            box = (right - 90 * (button + 1), bottom - 34, right - 90 * button - 10, bottom - 8)
            pen.rounded_rectangle(box, 5, fill=_colour(rng), outline=ink)
            pen.text((box[0] + 10, box[1] + 6), _words(rng, 1), fill=(255, 255, 255), font=_font(rng, 12))
    return image


@_learned
def _page(rng: np.random.Generator) -> Image.Image:
    """A page of text, in one or two columns."""
    paper, ink = _paper_and_ink(rng)
    image = Image.new("RGB", _size(rng), paper)
    pen, margin = ImageDraw.Draw(image), int(rng.integers(15, 60))
    size, columns = int(rng.integers(9, 30)), int(rng.integers(1, 3))
    wide = (image.width - margin) // columns
    for column in range(columns):
        left = margin + column * wide
        _paragraph(pen, rng, (left, margin, left + wide - margin, image.height - margin), ink, size)
    return image


@_learned
def _plot(rng: np.random.Generator) -> Image.Image:
    """Curves or points by matplotlib."""
    figure = Figure(figsize=(rng.uniform(5, 9), rng.uniform(4, 6)), dpi=100)
    axes = figure.subplots()
    for _ in range(int(rng.integers(1, 6))):
        y = rng.standard_normal(int(rng.integers(10, 300))).cumsum()
        if rng.random() < 0.6:
            axes.plot(y, label=_words(rng, 1))
        else:
            axes.scatter(rng.random(len(y)), y, s=rng.uniform(3, 40), label=_words(rng, 1))
    axes.set(title=_words(rng, 4), xlabel=_words(rng, 2), ylabel=_words(rng, 2))
    axes.legend()
    axes.grid(visible=bool(rng.random() < 0.5))
    return _rendered(figure)


@_learned
def _code_pattern(rng: np.random.Generator) -> Image.Image:
    """Black and white squares as in a QR code."""
    cells = int(rng.integers(21, 60))
    squares = Image.fromarray(((rng.random((cells, cells)) < 0.5) * 255).astype(np.uint8))
    image = Image.new("RGB", _size(rng), (255, 255, 255))
    side = int(min(image.size) * rng.uniform(0.5, 1))
    left, top = ((length - side) // 2 for length in image.size)
    image.paste(squares.resize((side, side), Image.Resampling.NEAREST), (left, top))
    return image


@_learned
def _uniform_noise(rng: np.random.Generator) -> Image.Image:
    width, height = _size(rng)
    channels = (3,) if rng.random() < 0.6 else (1,)
    pixels = rng.integers(0, int(rng.integers(100, 257)), (height, width, *channels), np.uint8)
    return Image.fromarray(np.broadcast_to(pixels, (height, width, 3)).copy())


@_learned
def _gaussian_noise(rng: np.random.Generator) -> Image.Image:
    width, height = _size(rng)
    pixels = rng.normal(rng.uniform(60, 200), rng.uniform(15, 80), (height, width, 3 if rng.random() < 0.6 else 1))
    image = Image.fromarray(np.broadcast_to(pixels.clip(0, 255).astype(np.uint8), (height, width, 3)).copy())
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5))) if rng.random() < 0.4 else image


@_learned
def _logo(rng: np.random.Generator) -> Image.Image:
    """A few shapes and a large word on one colour."""
    image = Image.new("RGB", _size(rng), (255, 255, 255) if rng.random() < 0.6 else _colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.2, 0.8, 2) * image.size
        radius = rng.uniform(0.05, 0.25) * min(image.size)
        shape = (pen.ellipse, pen.rectangle)[int(rng.integers(2))]
        shape((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng), width=0)
    font = _font(rng, int(image.height * rng.uniform(0.08, 0.2)))
    pen.text((image.width * 0.15, image.height * 0.7), _words(rng, 1).title(), fill=_colour(rng), font=font)
    return image


# To try on


@_held_out
def _scan(rng: np.random.Generator) -> Image.Image:
    """A typed page as a scanner sees it: grey paper, a little turned, soft and grainy."""
    page = Image.new("L", (int(rng.integers(700, 1000)), int(rng.integers(900, 1300))), int(rng.integers(215, 250)))
    pen = ImageDraw.Draw(page)
    pen.text((80, 60), _words(rng, 3).title(), fill=30, font=_font(rng, 34))
    for top in range(130, page.height - 150, 260):
        _paragraph(
            pen, rng, (80, top, page.width - 80, top + 220), int(rng.integers(20, 80)), int(rng.integers(14, 24))
        )
    page = page.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=int(rng.integers(150, 240)))
    page = page.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
    return Image.fromarray(
        (np.asarray(page, float) + rng.normal(0, rng.uniform(2, 8), page.size[::-1])).clip(0, 255).astype(np.uint8)
    )


@_held_out
def _terminal(rng: np.random.Generator) -> Image.Image:
    """Lines in several colours on black."""
    image = Image.new("RGB", _size(rng), (int(rng.integers(0, 30)),) * 3)
    pen, size = ImageDraw.Draw(image), int(rng.integers(11, 18))
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), size)
    for line, top in enumerate(range(6, image.height - size, int(size * 1.3))):
        if rng.random() < 0.85:
            fill = _colour(rng) if line % 4 == 0 else (210, 210, 210)
            pen.text((6 + 2 * size * int(rng.integers(0, 4)), top), _words(rng, int(rng.integers(1, 9))), fill, font)
    return image


@_held_out
def _bars(rng: np.random.Generator) -> Image.Image:
    """Bars or a pie, filled."""
    figure = Figure(figsize=(rng.uniform(5, 9), rng.uniform(4, 6)), dpi=100)
    axes = figure.subplots()
    values, names = rng.uniform(0.1, 1, int(rng.integers(3, 12))), [_words(rng, 1) for _ in range(12)]
    colours = [mpl.colors.to_hex(np.array(_colour(rng)) / 255) for _ in values]
    if rng.random() < 0.5:
        axes.pie(values, labels=names[: len(values)], colors=colours)
    else:
        axes.bar(names[: len(values)], values, color=colours)
        axes.set_title(_words(rng, 4))
    return _rendered(figure)


@_held_out
def _chat(rng: np.random.Generator) -> Image.Image:
    """The screen of a telephone, with bubbles of text."""
    paper, _ = _paper_and_ink(rng)
    image = Image.new("RGB", (540, int(rng.integers(900, 1170))), paper)
    pen, top = ImageDraw.Draw(image), 80
    pen.rectangle((0, 0, 540, 64), fill=_colour(rng))
    pen.text((20, 18), _words(rng, 2).title(), fill=(255, 255, 255), font=_font(rng, 24))
    mine, theirs = _colour(rng), (228, 230, 235)
    while top < image.height - 60:
        height, width, right = int(rng.integers(44, 150)), int(rng.integers(150, 400)), rng.random() < 0.5
        left = 540 - width - 14 if right else 14
        pen.rounded_rectangle((left, top, left + width, top + height), 16, fill=mine if right else theirs)
        _paragraph(pen, rng, (left + 12, top + 8, left + width - 12, top + height - 8), (10, 10, 10), 18)
        top += height + 14
    return image


@_held_out
def _spreadsheet(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", _size(rng), (255, 255, 255))
    pen, font = ImageDraw.Draw(image), _font(rng, 13)
    rows, columns = int(rng.integers(18, 28)), int(rng.integers(60, 130))
    pen.rectangle((0, 0, image.width, rows), fill=_colour(rng))
    for y in range(0, image.height, rows):
        pen.line((0, y, image.width, y), fill=(200, 200, 200))
        for x in range(0, image.width, columns):
            if rng.random() < 0.8:
                text = f"{rng.uniform(0, 9999):.2f}" if x else _words(rng, 1)
                pen.text((x + 4, y + 2), text, fill=(20, 20, 20), font=font)
    for x in range(0, image.width, columns):
        pen.line((x, 0, x, image.height), fill=(200, 200, 200))
    return image


@_held_out
def _diagram(rng: np.random.Generator) -> Image.Image:
    """Boxes with words, joined by lines."""
    image = Image.new("RGB", _size(rng), (255, 255, 255))
    pen, font = ImageDraw.Draw(image), _font(rng, 16)
    centres = rng.uniform(0.12, 0.88, (int(rng.integers(5, 14)), 2)) * image.size
    for one, other in itertools.pairwise(centres):
        pen.line((*one, *other), fill=(0, 0, 0), width=2)
    for x, y in centres:
        pen.rectangle((x - 60, y - 24, x + 60, y + 24), fill=_colour(rng), outline=(0, 0, 0), width=2)
        pen.text((x - 48, y - 10), _words(rng, 1), fill=(0, 0, 0), font=font)
    return image


@_held_out
def _stripes(rng: np.random.Generator) -> Image.Image:
    """Stripes or a checkerboard."""
    width, height = _size(rng)
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 120)
    first = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period) > 0
    if rng.random() < 0.5:
        first ^= np.sin((np.cos(angle) * y - np.sin(angle) * x) * 2 * np.pi / period) > 0
    return Image.fromarray(np.where(first[..., None], _colour(rng), _colour(rng)).astype(np.uint8))


@_held_out
def _static(rng: np.random.Generator) -> Image.Image:
    """Noise of the two values or of blocks, as of a television without a signal."""
    width, height = _size(rng)
    block = int(rng.integers(1, 4))
    values = rng.random((height // block + 1, width // block + 1)) < rng.uniform(0.2, 0.8)
    pixels = np.kron(values, np.ones((block, block)))[:height, :width] * rng.uniform(120, 255)
    return Image.fromarray(pixels.astype(np.uint8))


# What they are made of


def _size(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.choice(SIDES)), int(rng.choice(SIDES[:5]))


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _paper_and_ink(rng: np.random.Generator) -> tuple[Colour, Colour]:
    light = tuple(int(value) for value in rng.integers(225, 256, 3))
    dark = tuple(int(value) for value in rng.integers(0, 60, 3))
    return (light, dark) if rng.random() < 0.75 else (dark, light)  # type: ignore[return-value]


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont(str(rng.choice(FONTS))), size)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join("".join(rng.choice(LETTERS, int(rng.integers(2, 11)))) for _ in range(count))


def _paragraph(
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    box: tuple[int, int, int, int],
    ink: Colour | int,
    size: int,
) -> None:
    """Fills a box with lines of words."""
    left, top, right, bottom = box
    font = _font(rng, size)
    for y in range(top, bottom - size, int(size * 1.4)):
        if rng.random() < 0.93:
            text = _words(rng, max(1, int((right - left) / (size * 3.6) * rng.uniform(0.7, 1))))
            while len(text) > 1 and pen.textlength(text, font=font) > right - left:
                text = text[:-4]
            pen.text((left, y), text, fill=ink, font=font)


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
