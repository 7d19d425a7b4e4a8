"""The commands, as typer builds them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.main

from sessionha import __version__
from sessionha.cli.extras import MissingExtra
from sessionha.errors import InvalidSettings
from sessionha.keys import new_secret
from sessionha.settings import Explained, Settings, markdown

app = typer.Typer(
    name="sessionha",
    help="HTTP sessions that survive the death of the server that holds them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with [cluster] and [[node]].")
]


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        typer.main.get_command(app).main(args=list(words), prog_name="sessionha")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (InvalidSettings, MissingExtra) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sessionha {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """HTTP sessions that survive the death of the server that holds them."""
    del version  # its callback has acted


@app.command()
def secret() -> None:
    """Print a fresh cluster secret, for SESSIONHA_SECRET on every node."""
    print(new_secret())


@app.command()
def config(
    file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all settings.")
    ] = False,
) -> None:
    """Print every setting of a node here, and where it came from; secrets only as `set`."""
    if as_markdown:
        print(markdown(), end="")
        return
    rows = Settings.load(config=file).explain()
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        print(_aligned(rows))


def _aligned(rows: list[Explained]) -> str:
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (f"{name:<{wide[0]}}  {value:<{wide[1]}}  {origin}" for name, value, origin in rows)
    return "\n".join(lines)
