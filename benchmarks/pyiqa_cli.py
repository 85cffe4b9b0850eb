"""pyiqa scoring a folder with NIQE from its own command line: one process, one image at a time, PyTorch's threads.

pyiqa is not needed for grepr. In a virtual environment that has grepr's packages it takes two more:
``pip install --no-deps pyiqa opencv-python-headless``.

NIQE's parameters, 36 means and their covariance, are a file that pyiqa downloads. So that the measurement needs no
network, a file of that layout with other numbers is put where pyiqa looks first. The speed does not depend on the
numbers; the scores mean nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.io

METRIC = "niqe"
FEATURES = 36


def find_pyiqa(command: str | None) -> str | None:
    """Finds the command, None where it is not installed.

    Args:
        command: Where it is; by default beside this Python or on the path.
    """
    beside = str(Path(sys.executable).parent)
    return shutil.which(command) if command else shutil.which("pyiqa", path=beside) or shutil.which("pyiqa")


def pyiqa_cli(command: str, folder: Path, images: int) -> float:
    """Gives the images a second, from the moment the metric is loaded to its results.

    Raises:
        RuntimeError: The command failed.
    """
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home) / "hub" / "pyiqa"
        cache.mkdir(parents=True)
        scipy.io.savemat(
            cache / "niqe_modelparameters.mat",
            {"mu_prisparam": np.ones((1, FEATURES)), "cov_prisparam": np.eye(FEATURES)},
        )
        loaded = results = 0.0
        with subprocess.Popen(
            [command, METRIC, "--target", str(folder), "--device", "cpu"],
            env={**os.environ, "TORCH_HOME": home, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # its progress bar
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Metrics loaded" in line:
                    loaded = time.perf_counter()
                elif line.startswith("{"):
                    results = time.perf_counter()
    if process.returncode != 0 or not loaded < results:
        raise RuntimeError(f"{command} {METRIC} ended with {process.returncode}")
    return images / (results - loaded)
