"""The command `sessionha`: words in, one call, words out."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from sessionha import __version__
from sessionha.cli.extras import MissingExtra, needs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 used wrongly.

    Without the extra `cli` it still knows `--version`, and names the extra for everything else.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with needs("cli", "the command line"):
            from sessionha.cli.commands import run
    except MissingExtra as missing:
        return _without_commands(words, missing)
    return run(words)


def _without_commands(words: list[str], missing: MissingExtra) -> int:
    parser = ArgumentParser(prog="sessionha", epilog=str(missing))
    parser.add_argument("--version", action="version", version=f"sessionha {__version__}")
    _, rest = parser.parse_known_args(words)
    print(f"sessionha {' '.join(rest[:1])}".rstrip() + f": {missing}", file=sys.stderr)
    return 2
