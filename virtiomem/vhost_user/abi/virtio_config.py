"""linux/virtio_config.h: the device status, and the feature bits of the transport."""

from typing import Final

VIRTIO_CONFIG_S_ACKNOWLEDGE: Final = 1
VIRTIO_CONFIG_S_DRIVER: Final = 2
VIRTIO_CONFIG_S_DRIVER_OK: Final = 4
VIRTIO_CONFIG_S_FEATURES_OK: Final = 8
VIRTIO_CONFIG_S_NEEDS_RESET: Final = 0x40
VIRTIO_CONFIG_S_FAILED: Final = 0x80

VIRTIO_F_VERSION_1: Final = 32
VIRTIO_F_RING_PACKED: Final = 34
