"""Azurite, the emulator of Azure's object store, spoken to over the network by the clients of production."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Account and key that Azurite documents for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Runs the server in its own process; gives the connection string. The test is skipped where it is not there.

    Args:
        folder: For its log.
    """
    if (program := shutil.which("azurite-blob")) is None:
        pytest.skip("no azurite-blob on the path; npm install --global azurite")
    options = ["--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    output = folder / "azurite.log"
    with output.open("w") as log:
        process = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while (found := re.search(r"listens on (http://[0-9.]+:[0-9]+)", output.read_text())) is None:
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        yield f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={found[1]}/{ACCOUNT};"
    finally:
        process.terminate()
        process.wait(timeout=10)
