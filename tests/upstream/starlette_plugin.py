"""A pytest plugin that puts our SessionMiddleware in the place of Starlette's own.

`SESSIONHA_UPSTREAM_ENGINE=fake` gives each middleware the tests' own engine instead of a real one.
"""

from __future__ import annotations

import functools
import os
import runpy
from pathlib import Path
from typing import Any

import starlette.middleware.sessions as upstream

from sessionha.web.asgi import SessionMiddleware

replacement: object = SessionMiddleware
if os.environ.get("SESSIONHA_UPSTREAM_ENGINE") == "fake":
    # By path: the package `tests` is theirs in this process.
    fakes = runpy.run_path(str(Path(__file__).parents[1] / "session" / "fakes.py"))

    def with_fake(*args: Any, **options: Any) -> SessionMiddleware:
        """Our middleware around an engine that is a dict."""
        return SessionMiddleware(*args, engine=fakes["FakeEngine"](), **options)

    replacement = functools.wraps(SessionMiddleware)(with_fake)

upstream.SessionMiddleware = replacement  # type: ignore[assignment,misc]
