"""Starts and stops the engines of a worker process for what knows its life: the server's hooks."""

from __future__ import annotations

import logging

from sessionha.settings import Settings
from sessionha.web.base import default_factory
from sessionha.web.threads import host_for, stop_all
from sessionha.web.wsgi import doors

log = logging.getLogger("sessionha.web")


def start() -> None:
    """Make this process's node a member of its cluster, before the first request.

    For servers of WSGI applications, in every process that serves, after it was forked and the
    application was made: the end of a WSGI file, or uWSGI's `postfork` (with `enable-threads`).
    gunicorn's hooks in `sessionha.gunicorn` call it. It starts what every WSGISessionMiddleware of
    the process uses, and where none was made yet, the node that the environment describes. Does
    nothing when it runs. What it starts ends with the process.

    Raises:
        StoreError, InvalidSettings: what is wrong and the remedy.
    """
    found = list(doors)
    for door in found:
        door.start()
    if not found:
        settings = Settings.load()
        if settings.has_peers:  # the node's engine is the same whatever the application's key is
            host_for(default_factory(settings, ())).start()


def stop() -> None:
    """Say goodbye and end every engine that this process's requests had; bounded."""
    stop_all()
