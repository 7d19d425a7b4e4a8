"""`python -m tests.contract uvicorn fastapi_app:app --kills 100`: see `kills`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.contract import kills
from tests.contract.site import gthread, uvicorn

SERVERS = {"uvicorn": uvicorn, "gthread": gthread}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract",
        description=kills.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("application", help="module and name, in tests/contract/applications")
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    given = parser.parse_args()
    command = SERVERS[given.server](given.application)
    told = asyncio.run(kills.kill_again_and_again(command, given.kills, seed=given.seed, say=print))
    print(told)
    sys.exit(0 if told.good else 1)
