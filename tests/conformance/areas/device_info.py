"""GET_INFO and GET_IRQ_INFO of an edu, and what is no ioctl of a device. Source: vfio_pci_core_ioctl."""

from errno import EFAULT, EINVAL, ENOTTY

from pyvfio.abi import vfio
from tests.conformance.areas.setups import DEVICE
from tests.conformance.calls.device import get_info, get_irq_info, unknown_device_ioctl
from tests.conformance.case import Case, ok, since

INTX, MSI, MSIX = vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_PCI_MSI_IRQ_INDEX, vfio.VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = vfio.VFIO_PCI_ERR_IRQ_INDEX, vfio.VFIO_PCI_REQ_IRQ_INDEX
_NO_PCIE = since({(6, 1): EINVAL, (7, 0): ok(flags=9, count=1)})

CASES = [
    Case("info", DEVICE, get_info(), ok(argsz=24, flags=2, num_regions=9, num_irqs=5, cap_offset=0)),
    Case(
        "info, argsz 16", DEVICE, get_info(argsz=16), ok(argsz=16, flags=2, num_regions=9, num_irqs=5, cap_offset=0xAA)
    ),
    Case("info, argsz 20", DEVICE, get_info(argsz=20), ok(flags=2, cap_offset=0, pad=0xAA)),
    Case("info, argsz 15", DEVICE, get_info(argsz=15), EINVAL),
    Case("info, argsz 0", DEVICE, get_info(argsz=0), EINVAL),
    Case("info, a larger argsz", DEVICE, get_info(argsz=4096), ok(flags=2)),
    Case("info, struct one byte short", DEVICE, get_info(reach=15), EFAULT),
    Case("info, no struct", DEVICE, get_info(reach=0), EFAULT),
    Case("info, argsz 16, exactly", DEVICE, get_info(argsz=16, reach=16), ok(flags=2)),
    Case("INTx", DEVICE, get_irq_info(index=INTX), ok(argsz=16, flags=7, index=0, count=1)),
    Case("MSI", DEVICE, get_irq_info(index=MSI), ok(flags=9, count=1)),
    Case("MSI-X, which it has not", DEVICE, get_irq_info(index=MSIX), ok(count=0)),
    Case("ERR of what is not PCI Express", DEVICE, get_irq_info(index=ERR), _NO_PCIE),
    Case("REQ", DEVICE, get_irq_info(index=REQ), ok(flags=9, count=1)),
    Case("irq 5", DEVICE, get_irq_info(index=5), EINVAL),
    Case("irq -1", DEVICE, get_irq_info(index=0xFFFF_FFFF), EINVAL),
    Case("irq, argsz 15", DEVICE, get_irq_info(index=INTX, argsz=15), EINVAL),
    Case("irq, a larger argsz", DEVICE, get_irq_info(index=INTX, argsz=99), ok(count=1)),
    Case("irq, struct one byte short", DEVICE, get_irq_info(index=INTX, reach=15), EFAULT),
    Case("irq, no struct", DEVICE, get_irq_info(index=INTX, reach=0), EFAULT),
    *(
        Case(f"ioctl {number}", DEVICE, unknown_device_ioctl(number=number), ENOTTY)
        for number in (0, 1, 2, 3, 14, 15, 21, 99)
    ),
]
