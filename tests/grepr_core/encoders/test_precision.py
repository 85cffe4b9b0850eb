from pathlib import Path

import pytest
import torch

import grepr_core.encoders.precision
from grepr_core.encoders.inference import resolve_dtype
from grepr_core.encoders.precision import has_bf16


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n\nprocessor\t: 1\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512bw\n", False),
        ("BogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_linux_tells_whether_a_cpu_has_bf16(info: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(grepr_core.encoders.precision, "CPU_INFO", tmp_path / "cpuinfo")
    assert has_bf16("cpu") == expected
    assert resolve_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if expected else torch.float32)


def test_pytorch_is_asked_where_linux_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = has_bf16("cpu")
    monkeypatch.setattr(grepr_core.encoders.precision, "CPU_INFO", tmp_path / "none")
    assert has_bf16("cpu") == here
