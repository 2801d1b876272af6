"""MigrationRefused: what a client asked for does not go with what the device does just now."""

from pyvfio.errors import VfioError


class MigrationRefused(VfioError):
    """A migration is not begun, or not gone on with. The device does what it did before."""
