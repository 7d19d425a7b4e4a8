"""Settings for Django's own tests: theirs, with our engine as the default where that is asked for.

The class is exchanged in the module of theirs before any test is imported, and no test is edited.
"""

from __future__ import annotations

import os

from test_sqlite import *  # type: ignore[import-not-found]  # noqa: F403

TEST_RUNNER = "django_runner.NamingRunner"

if os.environ.get("UPSTREAM_WHOSE") == "ours":
    SESSION_ENGINE = "django_sessionha.sessions"
    SESSIONHA = {"store": "memory"}
