"""A pytest plugin that puts our SessionMiddleware in the place of Starlette's own."""

from __future__ import annotations

import starlette.middleware.sessions as upstream

from sessionha import SessionMiddleware

upstream.SessionMiddleware = SessionMiddleware  # type: ignore[assignment,misc]
