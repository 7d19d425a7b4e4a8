"""The router with every logger at its most talkative: `python -m tests.security.router ADDRESS`."""

from __future__ import annotations

import logging
import sys

from sessionha.router.options import Options
from sessionha.router.serve import Service, serve
from sessionha.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(level=logging.NOTSET)
    serve(Settings.observe(), Service(listen=sys.argv[1]), Options(health_path="/readyz"))
