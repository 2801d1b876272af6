"""Virtual functions, which whoever knows the token of their physical function may open.

Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match and vfio_pci_core_match_token_uuid; device_cdev.c.
"""

from errno import E2BIG, EACCES, EBADF, EFAULT, EINVAL, ENODEV, ENOTTY
from uuid import UUID

from pyvfio.abi import vfio
from tests.conformance.calls.container import open_container, set_iommu
from tests.conformance.calls.device import feature
from tests.conformance.calls.group import get_device_fd, open_group, set_container
from tests.conformance.calls.iommufd import bind, get_node_info, open_iommufd, open_node
from tests.conformance.calls.process import add_virtual, close
from tests.conformance.case import Case, Expected, ok, since
from tests.conformance.step import Step

GET, SET, PROBE = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET, vfio.VFIO_DEVICE_FEATURE_PROBE
FLAG = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN
TOKEN, OTHER = "2ab74924-c335-45f4-9b16-8569e5b08258", "01234567-89ab-cdef-0123-456789abcdef"
_TOKEN, _OTHER = UUID(TOKEN).bytes, UUID(OTHER).bytes


def _token(text: str) -> str:
    """As it stands behind a device's name."""
    return f" vf_token={text}"


def _set(token: str = TOKEN) -> Step:
    return feature(flags=SET, data=UUID(token).bytes, device="physical")


def _open(suffix: str = "", name: str = "virtual") -> Step:
    return get_device_fd(device="virtual", group="virtuals", suffix=suffix, name=name)


def _open_physical(suffix: str = "", name: str = "physical") -> Step:
    return get_device_fd(device="nvme", suffix=suffix, name=name)


ALONE = [add_virtual(), open_container(), open_group(device="virtual", name="virtuals")]
GROUPS = [*ALONE, open_group(device="nvme"), set_container(group="virtuals"), set_container(), set_iommu()]
"""Both groups in one container; nothing is open."""
PHYSICAL = [*GROUPS, _open_physical()]
KNOWN = [*PHYSICAL, _set()]
IN_USE = [*KNOWN, _open(_token(TOKEN))]
NODES = [add_virtual(), open_iommufd(), open_node(edu="nvme", name="physical"), bind(node="physical")]
NODE = [*NODES, _set(), open_node(edu="virtual")]


def node_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("iommufd", "cdev"), versions=((6, 17), (99, 0)))


CASES = [
    Case("a physical function takes one", PHYSICAL, feature(flags=PROBE | SET, device="physical"), ok()),
    Case("and tells none", PHYSICAL, feature(flags=PROBE | GET, device="physical"), EINVAL),
    Case("less than one", PHYSICAL, feature(flags=SET, data=bytes(15), device="physical"), EINVAL),
    Case("one that is not there", PHYSICAL, feature(flags=SET, argsz=24, reach=8, device="physical"), EFAULT),
    Case("more than one", PHYSICAL, feature(flags=SET, data=bytes(20), device="physical"), ok()),
    Case("a virtual function takes none", IN_USE, feature(flags=PROBE | SET, device="virtual"), ENOTTY),
    # Virtual functions.
    Case("without", KNOWN, _open(), EACCES),
    Case("with a wrong one", KNOWN, _open(_token(OTHER)), EACCES),
    Case("with none that is known", PHYSICAL, _open(_token(OTHER)), EACCES),
    Case("with the right one", KNOWN, _open(_token(TOKEN)), ok()),
    Case("in capitals", KNOWN, _open(_token(TOKEN.upper())), ok()),
    Case("after spaces", KNOWN, _open("  " + _token(TOKEN)), ok()),
    Case("before spaces", KNOWN, _open(_token(TOKEN) + "  "), ok()),
    Case("after a tab", KNOWN, _open(" \t" + _token(TOKEN)), EINVAL),
    Case("too short", KNOWN, _open(_token(TOKEN[:-1])), EINVAL),
    Case("too long", KNOWN, _open(_token(TOKEN + "0")), EINVAL),
    Case("empty", KNOWN, _open(_token("")), EINVAL),
    Case("no hexadecimal number", KNOWN, _open(_token("g" + TOKEN[1:])), EINVAL),
    Case("without its hyphens", KNOWN, _open(_token(TOKEN.replace("-", ""))), EINVAL),
    Case("with its hyphens elsewhere", KNOWN, _open(_token(TOKEN[:7] + "-" + TOKEN[7] + TOKEN[9:])), EINVAL),
    Case("in braces", KNOWN, _open(_token("{" + TOKEN + "}")), EINVAL),
    Case("twice", KNOWN, _open(_token(TOKEN) * 2), EINVAL),
    Case("and another option", KNOWN, _open(_token(TOKEN) + " other=1"), EINVAL),
    Case("of another name", KNOWN, _open(" token=" + TOKEN), EINVAL),
    Case("with a space before it", KNOWN, _open(" vf_token= " + TOKEN), EINVAL),
    Case("of a device that is not there", KNOWN, _open("9" + _token(TOKEN)), ENODEV),
    Case("the token comes before the container", ALONE, _open(_token(OTHER)), EACCES),
    Case("also when it is missing", ALONE, _open(), EACCES),
    Case("right, without a container", [*KNOWN, close(name="virtuals"), ALONE[2]], _open(_token(TOKEN)), EINVAL),
    Case("again without", IN_USE, _open(name="again"), EACCES),
    Case("again with it", IN_USE, _open(_token(TOKEN), name="again"), ok()),
    # It is the physical function's, open or not.
    Case("when that is closed", [*KNOWN, close(name="physical")], _open(_token(TOKEN)), ok()),
    Case("missing when that is closed", [*KNOWN, close(name="physical")], _open(), EACCES),
    Case("set with its name", [*GROUPS, _open_physical(_token(TOKEN))], _open(_token(TOKEN)), ok()),
    Case("set with its name again", [*KNOWN, _open_physical(_token(OTHER), "again")], _open(_token(TOKEN)), EACCES),
    Case("the later one", [*KNOWN, _open_physical(_token(OTHER), "again")], _open(_token(OTHER)), ok()),
    Case("in use, without", IN_USE, _open_physical(name="again"), EACCES),
    Case("in use, with a wrong one", IN_USE, _open_physical(_token(OTHER), "again"), EACCES),
    Case("in use, with the right one", IN_USE, _open_physical(_token(TOKEN), "again"), ok()),
    Case("used, without", [*IN_USE, close(name="virtual")], _open_physical(name="again"), ok()),
    Case("used, set anew", [*IN_USE, close(name="virtual")], _open_physical(_token(OTHER), "again"), ok()),
    Case("in use, closed and opened without", [*IN_USE, close(name="physical")], _open_physical(), EACCES),
    Case("in use, closed and opened with it", [*IN_USE, close(name="physical")], _open_physical(_token(TOKEN)), ok()),
    Case(
        "in use, and changed",
        IN_USE,
        _set(OTHER),
        ok(),
        after=[(_open(_token(TOKEN), "again"), EACCES), (_open(_token(OTHER), "again"), ok())],
    ),
    Case(
        "set by who does not get the device",
        [*KNOWN, close(name="physical"), close(name="group"), open_group(device="nvme")],
        _open_physical(_token(OTHER)),
        EINVAL,
        after=[(_open(_token(TOKEN)), EACCES), (_open(_token(OTHER)), ok())],
    ),
    # Nodes.
    node_case("node: without", NODE, bind(), EACCES),
    node_case("node: with a wrong one", NODE, bind(argsz=24, flags=FLAG, token=_OTHER), EACCES),
    node_case(
        "node: with the right one", NODE, bind(argsz=24, flags=FLAG, token=_TOKEN), ok(), (get_node_info(), ok())
    ),
    node_case("node: one that is not meant", NODE, bind(argsz=24, token=_TOKEN), EACCES),
    node_case("node: one that is not there", NODE, bind(argsz=24, flags=FLAG, token=None), EFAULT),
    node_case("node: one in a struct without it", NODE, bind(flags=FLAG, token=_TOKEN), EFAULT),
    node_case("node: more behind it", NODE, bind(argsz=28, flags=FLAG, token=_TOKEN, tail="00000001"), E2BIG),
    node_case("node: nothing behind it", NODE, bind(argsz=28, flags=FLAG, token=_TOKEN, tail="00000000"), ok()),
    node_case("node: before the iommufd", NODE, bind(iommufd=4095), EACCES),
    node_case("node: and then the iommufd", NODE, bind(argsz=24, flags=FLAG, token=_TOKEN, iommufd=4095), EBADF),
    node_case(
        "node: of a device without", [open_iommufd(), open_node()], bind(argsz=24, flags=FLAG, token=_TOKEN), EINVAL
    ),
    node_case(
        "node: of the physical function", NODES[:3], bind(node="physical", argsz=24, flags=FLAG, token=_OTHER), ok()
    ),
    node_case(
        "node: of the physical function in use",
        [*NODE, bind(argsz=24, flags=FLAG, token=_TOKEN), close(name="physical"), NODES[2]],
        bind(node="physical"),
        EACCES,
    ),
    Case(
        "node: before there were any",
        [*NODES, _set(), open_node(edu="virtual")],
        bind(),
        since({(6, 6): ok(), (6, 17): EACCES}),
        needs=("iommufd", "cdev"),
    ),
]
