"""Hooks for gunicorn: `gunicorn -c python:sessionha.gunicorn …`.

They make a worker's node a member of its cluster before its first request, and let it say goodbye.
A configuration of your own takes them along with `from sessionha.gunicorn import *`, or calls them
from its own functions of these names.
"""

from __future__ import annotations

from typing import Any

from sessionha.web.signals import chain_in_loop

# Every name in here that is also one of gunicorn's settings is taken for it: no `workers`.
from sessionha.web.workers import start, stop

__all__ = ["post_worker_init", "worker_exit"]

_OF_REQUEST_THREADS = (
    "gunicorn.workers.sync",
    "gunicorn.workers.gthread",
    "gunicorn.workers.ggevent",  # its requests have greenlets
)


def post_worker_init(worker: Any) -> None:
    """The worker was forked, and has loaded the application: with --preload too, what is loaded
    before the fork opens nothing. Workers with an event loop start their engine in the lifespan."""
    if any(kind.__module__ in _OF_REQUEST_THREADS for kind in type(worker).__mro__):
        start()
    elif hasattr(worker, "handle_exit_signal"):  # of gunicorn.workers.gasgi
        chain_in_loop(worker.loop, worker.handle_exit_signal)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """The worker has answered its last request."""
    stop()
