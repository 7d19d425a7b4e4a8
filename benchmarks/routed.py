"""The router before one server, without a cluster: `python -m benchmarks.routed PORT SERVER_PORT`.

It is what `sessionha router` runs, with a view that never changes instead of one that is followed.
"""

from __future__ import annotations

import sys
import time

from sessionha.identity import ViewID
from sessionha.router import front
from sessionha.router.app import Router
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import RouteCookies
from sessionha.view import Member, View


def main(port: int, server_port: int) -> None:
    """Serve until told to stop."""
    view = ViewID(1, "")
    upstreams = Upstreams(time.monotonic)
    url = f"http://127.0.0.1:{server_port}"
    upstreams.view_changed(View(view, (Member("n1", "i1", view, "127.0.0.1:1", url),)))
    options = Options()
    router = Router(upstreams, RouteCookies([bytes(range(32))]), options)
    config = front.config(router, options, router.counts, port=port, log_level="warning")
    front.Front(config).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
