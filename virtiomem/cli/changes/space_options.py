"""The arguments that say which devices a region is mapped for, and by which of the kernel's ways."""

from __future__ import annotations

import argparse


def add_spaces(parser: argparse.ArgumentParser) -> None:
    """Add --device, --one-container and --iommufd."""
    parser.add_argument("--device", action="append", default=[], metavar="BDF", help="bound to VFIO; repeat for more")
    parser.add_argument("--one-container", action="store_true", help="all devices in one address space")
    parser.add_argument(
        "--iommufd",
        action="store_true",
        help="devices by their own nodes, in address spaces of an iommufd instead of containers",
    )
