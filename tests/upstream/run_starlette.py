"""Runs Starlette's own session tests with our SessionMiddleware in the place of theirs.

    python tests/upstream/run_starlette.py            fetch the sdist, build an environment, run
    python tests/upstream/run_starlette.py --here     run with this interpreter's packages
    python tests/upstream/run_starlette.py --sdist D  take the unpacked sdist in folder D

Their test file is not edited: a plugin exchanges the class before the file is imported.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "1.10.0"
PASSED: Final = 29
"""How many tests their file has in this version: a lower number means that some did not run."""

ROOT: Final = Path(__file__).resolve().parents[2]
NEEDS: Final = ("httpx2", "itsdangerous", "trio", "anyio", "pytest")


def main() -> int:
    """Run the tests; 0 when every one passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--here", action="store_true", help="use this interpreter's packages")
    parser.add_argument("--sdist", type=Path, help="folder of the unpacked sdist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sessionha-upstream-") as folder:
        place = Path(folder)
        sdist = options.sdist or fetch(place)
        python = Path(sys.executable) if options.here else environment(place)
        return run(python, sdist, place)


def fetch(place: Path) -> Path:
    """Download and unpack the sdist."""
    _pip(Path(sys.executable), "download", "--no-deps", "--no-binary", "starlette",
         f"starlette=={VERSION}", "--dest", str(place))  # fmt: skip
    with tarfile.open(next(place.glob("starlette-*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    return place / f"starlette-{VERSION}"


def environment(place: Path) -> Path:
    """A fresh virtual environment with this checkout and what the tests need."""
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python = place / "venv" / "bin" / "python"
    _pip(python, "install", "--quiet", *NEEDS, str(ROOT))
    return python


def run(python: Path, sdist: Path, place: Path) -> int:
    """Run their test file; the folder of the sdist holds the Starlette that is imported."""
    path = [str(sdist), str(Path(__file__).parent)]
    if os.environ.get("SESSIONHA_UPSTREAM_ENGINE") == "fake" or python == Path(sys.executable):
        path.append(str(ROOT))
    told = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "SESSIONHA_STORE": os.environ.get("SESSIONHA_STORE", "memory"),
        "SESSIONHA_STATE_DIR": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    plugins = ["-p", "starlette_plugin", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    command = [str(python), "-m", "pytest", *plugins, "-q", "--rootdir", str(sdist)]
    command.append("tests/middleware/test_session.py")
    done = subprocess.run(
        command, cwd=sdist, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode(errors="replace")
    sys.stdout.write(output)
    return 0 if done.returncode == 0 and re.search(rf"\b{PASSED} passed\b", output) else 1


def _pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", *words], check=True)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    sys.exit(main())
