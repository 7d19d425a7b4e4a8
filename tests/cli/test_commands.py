"""The command line: what each command prints, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sessionha import __version__
from sessionha.cli import main
from sessionha.cli.extras import MissingExtra, needs
from sessionha.keys import new_secret
from sessionha.router.options import Options
from sessionha.router.serve import Service
from sessionha.settings import Settings

Output = pytest.CaptureFixture[str]


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sessionha {__version__}\n"


def test_a_printed_secret_is_good_for_a_cluster(capsys: Output) -> None:
    assert main(["secret"]) == 0

    Settings.load({}, listen="10.0.0.1:7946", secret=capsys.readouterr().out.strip())


def test_the_help_of_secret_says_that_it_makes_application_keys_too(capsys: Output) -> None:
    assert main(["secret", "--help"]) == 0
    assert "secret_key" in capsys.readouterr().out


def test_config_prints_every_setting_with_its_value_and_origin(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONHA_HEARTBEAT", "100ms")

    assert main(["config"]) == 0

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["heartbeat", "0.1", "s", "environment", "SESSIONHA_HEARTBEAT"] in lines
    assert ["depth", "16", "default"] in lines


def test_config_never_prints_a_secret(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "4f1c8e0b7a2d96e35c0f8a1b7d4e29c6"
    monkeypatch.setenv("SESSIONHA_SECRET", secret)

    assert main(["config", "--json"]) == 0

    out = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(out)}
    assert secret not in out
    assert rows["secret"] == {
        "name": "secret",
        "value": "set",
        "origin": "environment SESSIONHA_SECRET",
    }


def test_config_reports_every_mistake_and_exits_2(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[cluster]\nbackup = 1\nconcurrency = "reject"\n', encoding="utf-8")

    assert main(["config", "--config", str(file)]) == 2

    message = capsys.readouterr().err
    assert "did you mean `backups`?" in message
    assert "`concurrency`" in message


def test_config_prints_the_reference(capsys: Output) -> None:
    assert main(["config", "--markdown"]) == 0
    assert "| `heartbeat` | duration | `0.25 s` |" in capsys.readouterr().out


def test_an_unknown_command_exits_2(capsys: Output) -> None:
    assert main(["secrets"]) == 2
    assert "secrets" in capsys.readouterr().err


def test_a_command_whose_extra_is_missing_names_it() -> None:
    with (
        pytest.raises(MissingExtra, match=r"pip install 'sessionha\[router\]'"),
        needs("router", "the router"),
    ):
        raise ModuleNotFoundError("No module named 'aiohttp.web'", name="aiohttp.web")


def test_a_missing_module_of_ours_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs("router", "the router"):
        raise ModuleNotFoundError("No module named 'sessionha.x'", name="sessionha.x")


@pytest.fixture
def without_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "sessionha.cli.commands", raising=False)


@pytest.mark.usefixtures("without_typer")
def test_without_its_extra_the_command_line_still_knows_its_version(capsys: Output) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"sessionha {__version__}\n"


@pytest.mark.usefixtures("without_typer")
@pytest.mark.parametrize("words", [[], ["secret"], ["config", "--json"]])
def test_without_its_extra_every_command_names_it_and_exits_2(
    capsys: Output, words: list[str]
) -> None:
    assert main(words) == 2
    assert "sessionha[cli]" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sessionha", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stdout == f"sessionha {__version__}\n"


class Served:
    """Stands in for the router's server; keeps what it was given."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.service: Service | None = None
        self.options: Options | None = None

    def __call__(
        self, settings: Settings, service: Service, options: Options, **others: object
    ) -> None:
        self.settings, self.service, self.options = settings, service, options


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    stub = Served()
    monkeypatch.setattr("sessionha.router.serve.serve", stub)
    return stub


def test_the_router_follows_the_named_nodes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONHA_SECRET", new_secret())
    words = ["--nodes", "n1=http://127.0.0.1:7001", "--listen", "127.0.0.1:8080"]
    words += ["--engine-type", "/api=api", "--zone", "a", "--response-timeout", "5min"]
    words += ["--policy", "zone,round-robin", "--engine-type", "web", "--workers", "3"]
    words += ["--drain-delay", "5s", "--check-path", "/readyz"]

    assert main(["router", *words]) == 0

    assert served.settings is not None
    assert served.settings.description.order == ("n1",)
    assert served.service == Service(listen="127.0.0.1:8080", workers=3, drain_delay=5.0)
    assert served.options == Options(response_timeout=300.0, check_path="/readyz")
    assert served.settings.policy == ("zone", "round-robin")
    assert served.settings.zone == "a"
    assert served.settings.engine_types == (("/api", "api"), ("/", "web"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--engine-type", "api=/api"], "PREFIX=TYPE, such as /api=api"),
        (["--policy", "random"], "`policy` = 'random' (keyword) must be"),
        (["--policy", "least-load,zone"], "in this order"),
        (["--response-timeout", "soon"], "--response-timeout"),
        (["--zoen", "a"], "--zone"),
    ],
)
def test_wrong_words_for_the_router_exit_2(
    served: Served, capsys: Output, words: list[str], named: str
) -> None:
    assert main(["router", *words]) == 2
    assert served.settings is None
    assert named in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_router_without_its_extra_names_it_and_exits_2(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("front", "serve"):
        monkeypatch.delitem(sys.modules, f"sessionha.router.{name}", raising=False)
        monkeypatch.delattr(f"sessionha.router.{name}", raising=False)

    assert main(["router"]) == 2
    assert "pip install 'sessionha[router]'" in capsys.readouterr().err


def test_a_router_without_nodes_or_secret_says_what_is_missing(capsys: Output) -> None:
    assert main(["router"]) == 2

    message = capsys.readouterr().err
    assert "`nodes`" in message
    assert "SESSIONHA_SECRET" in message


@pytest.mark.parametrize("words", [["witness"], ["router", "--witness"]])
def test_only_who_is_described_as_a_witness_is_one(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[[node]]\nid = "n1"\npeer = "127.0.0.1:7946"\n', encoding="utf-8")
    monkeypatch.setenv("SESSIONHA_NODE", "n1")
    monkeypatch.setenv("SESSIONHA_SECRET", "insecure-loopback")

    assert main([*words, "--config", str(file)]) == 2
    assert "`node` = 'n1' is not described as a witness" in capsys.readouterr().err
