"""``python -m avalanche_memplugins``, and ``memplugins``."""

import signal
import sys


def run() -> int:
    """Run the command line. Ctrl-C ends it without a traceback at any moment, also during imports."""
    try:
        from avalanche_memplugins.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        # Nothing may interrupt Python while it cleans up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # CPython remembers a Ctrl-C within exec() and would end by the signal; another exec() clears that.
        exec("")


if __name__ == "__main__":
    sys.exit(run())
