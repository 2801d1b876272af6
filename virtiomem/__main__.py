"""python -m virtiomem: the command, also in a checkout that was never installed."""

import sys

from virtiomem.cli import main

if __name__ == "__main__":
    sys.exit(main())
