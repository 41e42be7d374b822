"""``python -m avalanche_memplugins``."""

import sys

from avalanche_memplugins.cli import main

if __name__ == "__main__":
    sys.exit(main())
