"""The package as it is built and installed."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import grepr_core

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path: Path):
    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {"grepr", "grepr_core", "pipelines", "jobs"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {name.split("/")[0] for name in names} == {*packages, f"grepr-{version}.dist-info"}
    assert not any("__pycache__" in name for name in names)
    assert {f"pipelines/rating/page/static/{name}" for name in ("index.html", "page.css", "page.js")} <= set(names)
    templates = "pipelines/reporting/templates"
    assert {f"{templates}/{name}" for name in ("report.html", "macros.html", "report.css", "report.js")} <= set(names)
    run(*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path / "site")!r})
import grepr_core; assert grepr_core.__file__.startswith({str(tmp_path)!r}), grepr_core.__file__
from jobs.cli import main
main(["model", "show", "grepr-lite"])
"""
    assert "BIQ2021" in run(sys.executable, "-c", program)
    assert (tmp_path / "site/bin/grepr").exists()


def test_the_method_never_imports_ray():
    for path in (ROOT / "grepr_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in modules} & {"ray", "argparse", "click", "pipelines", "jobs"}


@pytest.mark.parametrize("name", grepr_core.__all__)
def test_public_names_are_there(name: str):
    assert getattr(grepr_core, name).__name__ == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        grepr_core.nothing_of_this_name  # noqa: B018
