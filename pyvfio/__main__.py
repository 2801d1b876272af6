"""python -m pyvfio: the command, also in a checkout that was never installed."""

import sys

from pyvfio.cli import main

if __name__ == "__main__":
    sys.exit(main())
