"""Scoring a folder with plain Ray Data, as one would write it at first; a program of its own.

``read_images`` decodes, ``map_batches`` runs the bundle's networks in one actor a core, ``write_parquet`` writes a
score for each photo. The networks are used as they come, on batches of 16, or one by one where the sizes in a batch
differ. Actors ask for half a core each: a pool that holds all cores leaves none to read with, and the job hangs.

Prints JSON: images a second from the first batch's start to the last file's end. Starting Ray and loading the model is
not counted, nor are the images that were read before.

Example: python benchmarks/plain_ray_data.py FOLDER OUTPUT --precision fp32
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from PIL import Image

from grepr_core.bundles.bundle import load_bundle

BATCH = 16


class PlainScorer:
    def __init__(self, model: str, dtype: torch.dtype) -> None:
        torch.set_num_threads(1)
        bundle = load_bundle(model)
        assert bundle.high is not None
        assert bundle.axis is not None
        assert bundle.regressor is not None
        self.high = bundle.high.to(dtype)
        self.axis = bundle.axis
        self.regressor = bundle.regressor
        self.view = bundle.view

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.time()
        images = [self.scaled(image) for image in batch["image"]]
        if len({image.shape for image in images}) == 1:
            scores = self.score(np.stack(images))
        else:
            scores = np.concatenate([self.score(image[None]) for image in images])
        return {"path": batch["path"], "score": scores, "began": np.full(len(scores), began)}

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width, _ = image.shape
        return np.asarray(Image.fromarray(image).resize(self.view.size(width, height), Image.Resampling.BICUBIC))

    @torch.inference_mode()
    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        features = self.high(pixels).numpy()
        return self.regressor.predict(np.column_stack([features, self.axis.position(features)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("--model", default="grepr-lite")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()
    ray.init(num_cpus=options.cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.read_images(options.folder, mode="RGB", include_paths=True).map_batches(
        PlainScorer,
        fn_constructor_args=(options.model, torch.bfloat16 if options.precision == "bf16" else torch.float32),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=options.cores),
        num_cpus=0.5,
    ).write_parquet(options.output)
    files = list(Path(options.output).glob("*.parquet"))
    ended = max(file.stat().st_mtime for file in files)
    rows = pq.read_table(options.output, columns=["path", "score", "began"]).to_pylist()
    speed = len(rows) / (ended - min(row["began"] for row in rows))
    scores = {Path(row["path"]).name: row["score"] for row in rows}
    print(json.dumps({"images_per_second": speed, "scores": scores}))


if __name__ == "__main__":
    main()
