"""The live tests' application behind a front: its cookies' path and its clock are given."""

from __future__ import annotations

import os
import time

from starlette.applications import Starlette

from tests.live import app

PATH = "FRONT_COOKIE_PATH"
CLOCK = "FRONT_CLOCK"
"""Seconds that the wall clock of the process is ahead."""


def create_app() -> Starlette:
    """See `tests.live.app.create_app`."""
    ahead, right = float(os.environ.get(CLOCK, "0")), time.time
    if ahead:
        time.time = lambda: right() + ahead
    return app.create_app(path=os.environ.get(PATH, "/"))
