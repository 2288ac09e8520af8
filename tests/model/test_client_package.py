"""The client as others install it: built by setuptools, which of our environments only the training's has."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv" / "boot" / "bin" / "uv"
HTTPX = ROOT / ".venv" / "services" / "lib"


def test_the_client_installs_on_its_own(tmp_path: Path) -> None:
    """Into an empty folder, from which it is imported beside its one dependency and nothing of this repository."""
    pytest.importorskip("setuptools", minversion="70.1", reason="setuptools builds the package")
    source, target = tmp_path / "nearline_client", tmp_path / "installed"
    shutil.copytree(ROOT / "nearline_client", source, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["--no-deps", "--no-build-isolation", "--offline", "-p", sys.executable, "--target", str(target)]
    done = subprocess.run([str(UV), "pip", "install", "-q", *words, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir() if not path.name.startswith(".")} == {
        "nearline_client",
        "nearline_client-0.1.0.dist-info",
    }
    shipped = {path.name for path in (target / "nearline_client").iterdir()}
    wanted = {path.name for path in (ROOT / "nearline_client").glob("*.py")} | {"py.typed"}
    assert shipped - {"__pycache__"} == wanted
    metadata = (target / "nearline_client-0.1.0.dist-info" / "METADATA").read_text()
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist")] == [
        "Requires-Dist: httpx<1,>=0.27"
    ]
    (libraries,) = HTTPX.glob("python3.*/site-packages")
    places = [str(target), str(libraries)]
    code = f"import sys; sys.path[:0] = {places}; import nearline_client; print(nearline_client.__file__)"
    said = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(target / "nearline_client" / "__init__.py")
