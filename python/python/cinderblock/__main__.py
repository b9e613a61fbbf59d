"""The program `cinderblock`."""

from __future__ import annotations

import signal
import sys

from cinderblock import _native


def main() -> None:
    """Run the program with the arguments of the process."""
    # The program handles Ctrl-C itself; where it is ignored, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.main(["cinderblock", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
