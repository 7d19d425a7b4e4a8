"""The wheel as users get it: what it holds, and that it works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from sessionha import __version__

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "typing" / "programs"

pytestmark = [pytest.mark.network, pytest.mark.slow]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout, bounded."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SESSIONHA_", "PYTHON", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def checked(*words: str | Path, cwd: Path) -> str:
    done = run(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(elsewhere: Path) -> Path:
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    checked(*build, "--outdir", elsewhere / "dist", ROOT, cwd=elsewhere)
    (found,) = (elsewhere / "dist").glob("*.whl")
    return found


class Environment:
    """An empty environment that gets the wheel and what it asks for, nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / ("Scripts" if os.name == "nt" else "bin")
        venv.create(path, with_pip=True)

    def install(self, *requirements: str) -> None:
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        checked(self.bin / "python", *pip, *requirements, cwd=self.path)

    def python(self, code: str) -> str:
        return checked(self.bin / "python", "-c", code, cwd=self.path).strip()

    def sessionha(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(self.bin / "sessionha", *words, cwd=self.path)


@pytest.fixture(scope="module")
def bare(elsewhere: Path, wheel: Path) -> Environment:
    """Without any extra."""
    environment = Environment(elsewhere / "bare")
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="module")
def full(elsewhere: Path, wheel: Path) -> Environment:
    """With the extras of a FastAPI user, and a type checker."""
    environment = Environment(elsewhere / "full")
    environment.install(f"{wheel}[cli,fastapi]", "mypy")
    return environment


def test_the_wheel_holds_the_product_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    tops = {name.partition("/")[0] for name in names}
    adapters = {path.parent.name for path in ROOT.glob("adapters/*/__init__.py")}
    assert len(adapters) > 1
    assert tops == {"sessionha", *adapters, f"sessionha-{__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in ("sessionha", *adapters)} <= {*names}
    assert f"sessionha-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_wheel_asks_for_the_three_libraries_of_the_core(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"sessionha-{__version__}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)

    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.partition(">")[0] for line in core) == [
        "lmdb",
        "msgspec",
        "picows",
    ]
    assert metadata["Requires-Python"] == ">=3.11"


def test_without_extras_every_public_name_imports(bare: Environment) -> None:
    code = "import sessionha as s; print({n: getattr(s, n) for n in s.__all__}['__version__'])"

    assert bare.python(code) == __version__


def test_without_extras_the_command_knows_its_version(bare: Environment) -> None:
    assert bare.sessionha("--version").stdout == f"sessionha {__version__}\n"


@pytest.mark.parametrize("command", ["secret", "config", "router"])
def test_without_its_extra_a_command_names_it_and_exits_2(bare: Environment, command: str) -> None:
    done = bare.sessionha(command)

    assert done.returncode == 2
    assert "pip install 'sessionha[cli]'" in done.stderr


def test_with_the_extra_of_the_command_line_the_commands_work(full: Environment) -> None:
    assert full.sessionha("--version").stdout == f"sessionha {__version__}\n"
    assert len(full.sessionha("secret").stdout.strip()) == 64
    assert full.sessionha("config").returncode == 0


def test_a_program_of_a_user_type_checks_against_the_installed_wheel(full: Environment) -> None:
    for name in ("fastapi_app.py", "fastapi_adapter.py", "session.py", "handling.py"):
        program = full.path / name
        program.write_text((PROGRAMS / name).read_text(encoding="utf-8"), encoding="utf-8")
        checked(full.bin / "python", "-m", "mypy", "--strict", program, cwd=full.path)
