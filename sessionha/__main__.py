"""`python -m sessionha`: the command line."""

import sys

from sessionha.cli import main

if __name__ == "__main__":
    sys.exit(main())
