"""How large a model sees a photograph.

Scores were learnt on photographs of one size. What is seen larger or smaller than those looks sharper or cleaner, or
less so, than people found it; so a model that has a :class:`Lattice` sees every photograph at about one area.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Every encoder halves the sides five times, so sides of the lattice are multiples of 32.
STEP = 32
#: Aspect that the longest shape of a lattice about has.
LONGEST_ASPECT = 3


@dataclass(frozen=True, slots=True)
class AtMost:
    """Photographs keep their size, but for those that are larger: they are scaled down, keeping their aspect.

    Attributes:
        pixels: What they are scaled down to; None keeps all as they are.
    """

    pixels: int | None = None

    def at(self, pixels: int) -> "AtMost":
        """Gives the view that scales down to another number of pixels."""
        return AtMost(pixels)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Gives how large a photograph is seen.

        Args:
            width: In pixels, of the photograph.
            height: Likewise.

        Returns:
            Width and height, in pixels.
        """
        if self.pixels is None or width * height <= self.pixels:
            return width, height
        scaled_width = max(1, math.isqrt(self.pixels * width // height))
        scaled_height = max(1, math.isqrt(self.pixels * height // width))
        # Very long images would exceed the budget once their short side has come down to one pixel.
        return min(scaled_width, self.pixels), min(scaled_height, self.pixels)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Photographs are scaled up or down to the shape that is nearest in aspect, of a few that are alike in area.

    Few shapes also let a GPU take many photographs together.

    Attributes:
        shapes: Widths and heights, multiples of 32, in both orientations.
    """

    shapes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
            ValueError: There are none, or one that encoders do not take.
        """
        if not self.shapes or any(side < STEP or side % STEP for shape in self.shapes for side in shape):
            raise ValueError(f"the shapes of a lattice need sides that are multiples of {STEP}, not {self.shapes}")

    @classmethod
    def of_area(cls, pixels: int) -> "Lattice":
        """Makes a lattice of shapes from 1:3 to 3:1.

        Args:
            pixels: Area of the shapes, as near as multiples of 32 come to it; at least 32 x 32.

        Returns:
            For every long side the shape of the nearest area: 25 in all for 512 x 512 pixels.
        """
        # Larger areas take larger steps, so that there are not more shapes.
        step = STEP * max(1, round(math.sqrt(pixels) / 512))
        side = max(step, step * round(math.sqrt(pixels) / step))
        longest = max(side, step * round(math.sqrt(LONGEST_ASPECT * pixels) / step))
        wide = [(long, max(step, step * round(pixels / long / step))) for long in range(side, longest + 1, step)]
        return cls(tuple(sorted({*wide, *((short, long) for long, short in wide)})))

    @property
    def pixels(self) -> int:
        """Largest area of a shape."""
        return max(width * height for width, height in self.shapes)

    def at(self, pixels: int) -> "Lattice":
        """Gives the lattice of another area."""
        return Lattice.of_area(pixels)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Gives how large a photograph is seen.

        Args:
            width: In pixels, of the photograph.
            height: Likewise.

        Returns:
            Width and height, in pixels: the shape of the nearest aspect. It differs by up to a tenth within the
            lattice; beyond its longest shape, a panorama is compressed along its long side, which measured better than
            to leave its ends out, or to take the mean over several parts.
        """
        aspect = math.log(width / height)
        return min(self.shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - aspect))


View = AtMost | Lattice

#: All of a photograph, as large as it is.
FULL_SIZE = AtMost()


def view_to_json(view: View) -> dict[str, Any]:
    """Gives a view as JSON's types."""
    if isinstance(view, AtMost):
        return {"at_most": view.pixels}
    return {"shapes": [f"{width}x{height}" for width, height in view.shapes]}


def view_from_json(numbers: Mapping[str, Any]) -> View:
    """Rebuilds a view from :func:`view_to_json`.

    Raises:
        KeyError: It is neither kind.
        ValueError: Its shapes cannot be.
    """
    if "at_most" in numbers:
        return AtMost(numbers["at_most"])
    sides = (shape.split("x") for shape in numbers["shapes"])
    return Lattice(tuple((int(width), int(height)) for width, height in sides))
