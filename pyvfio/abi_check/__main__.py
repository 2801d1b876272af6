"""python -m pyvfio.abi_check"""

import argparse
import sys

from pyvfio.abi_check.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="pyvfio abi-check")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
