"""Starts Django's own `runtests.py`, with our middleware in the place of theirs where asked for."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

if os.environ.get("UPSTREAM_WHOSE") == "ours":
    import django.contrib.sessions.middleware as upstream

    from django_sessionha.middleware import SessionMiddleware

    upstream.SessionMiddleware = SessionMiddleware  # type: ignore[misc]

sys.path.insert(0, str(Path.cwd()))
sys.argv[0] = "runtests.py"
runpy.run_path("runtests.py", run_name="__main__")
