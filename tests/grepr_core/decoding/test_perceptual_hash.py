import io

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from grepr_core.decoding.images import Photo, decode
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.decoding.view import Lattice
from tests.lake import jpeg, photo


def picture_of(seed: int, size: tuple[int, int]) -> Image.Image:
    return photo(seed, (240, 180)).resize(size)


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("size", [(512, 512), (640, 416), (33, 300), (32, 32), (20, 25), (1000, 31)])
def test_it_is_that_of_imagehash(size: tuple[int, int]):
    for seed in range(20):
        rgb = np.asarray(picture_of(seed, size))
        assert perceptual_hash(rgb) == str(imagehash.phash(Image.fromarray(rgb)))


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (90, 200, 17), (127, 127, 127), (255, 255, 255)])
def test_a_plain_picture_has_the_first_bit_at_most(colour: tuple[int, int, int]):
    rgb = np.full((96, 64, 3), colour, np.uint8)
    assert perceptual_hash(rgb) == str(imagehash.phash(Image.fromarray(rgb)))
    assert int(perceptual_hash(rgb), 16) in (0, 1 << 63)


def hashed(encoded: bytes) -> str:
    image = decode(encoded, view=Lattice.of_area(512 * 512))
    assert isinstance(image, Photo)
    return perceptual_hash(image.rgb)


def test_what_a_model_sees_is_hashed_like_the_file():
    for seed in range(20):
        picture = picture_of(seed, (900, 600))
        turned = Image.Exif()
        turned[0x0112] = 6
        file = io.BytesIO()
        picture.save(file, "JPEG", exif=turned)
        upright = ImageOps.exif_transpose(Image.open(file))
        assert distance(hashed(file.getvalue()), str(imagehash.phash(upright))) <= 4


def test_copies_are_near_and_others_far():
    pictures = [picture_of(seed, (640, 480)) for seed in range(3)]  # of three photographs
    hashes = [hashed(jpeg(picture)) for picture in pictures]
    for picture, own in zip(pictures, hashes, strict=True):
        for copy in (jpeg(picture, quality=30), jpeg(picture.resize((200, 150)))):
            assert distance(hashed(copy), own) <= 4
    far = [distance(one, other) for i, one in enumerate(hashes) for other in hashes[:i]]
    assert min(far) > 16
