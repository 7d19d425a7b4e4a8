"""`python -m tests.live --disasters 100`: see `disasters`."""

from __future__ import annotations

import argparse
import sys

from tests.live import disasters

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.live",
        description=disasters.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--disasters", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--workers", type=int, default=1, help="engines of each node")
    given = parser.parse_args()
    sys.exit(disasters.main(given.disasters, given.seed, given.workers))
