"""``python -m avalanche_memplugins``, and ``memplugins``."""

import signal
import sys


def run() -> int:
    """The command line, from its first import to its last line: Ctrl-C at any moment ends it without a traceback."""
    try:
        from avalanche_memplugins.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        # All is said and done: nothing may disturb what Python still tidies up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A Ctrl-C within another exec() stays noted, and CPython would end by the signal: the next exec() clears that.
        exec("")


if __name__ == "__main__":
    sys.exit(run())
