"""`flask sessionha …`: the command `sessionha` with the application's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import click

from flask_sessionha.configuration import PREFIX, settings_of


def commands(config: Mapping[str, Any], given: Mapping[str, object]) -> click.Command:
    """The command; the settings are read when it runs."""

    @click.command(
        "sessionha",
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        short_help="Nodes and sessions: status, sessions, log-out, doctor, …",
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def run(words: tuple[str, ...]) -> None:
        """Run `sessionha WORDS…` with the settings of this application: `flask sessionha status`,
        `flask sessionha sessions user:42`, `flask sessionha --help`."""
        told = environment({**settings_of(config), **given})
        done = subprocess.run(
            [sys.executable, "-m", "sessionha", *words], env=os.environ | told, check=False
        )
        raise SystemExit(done.returncode)

    return run


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the environment has them."""
    return {
        f"{PREFIX}{name.upper()}": _text(value)
        for name, value in settings.items()
        if value is not None
    }


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)
