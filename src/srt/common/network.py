"""Which network interface the processes of a job talk over: one of this machine, or the cluster's network.

One node needs no network: everything listens on the loopback interface. Over several nodes it is the interface of the
first node's address (`cluster_address`), and on every other node the interface that reaches this address.
GLOO_SOCKET_IFNAME, where the user has set it, names the interface instead; NCCL_SOCKET_IFNAME sets another one for
NCCL.
"""

from __future__ import annotations

import ipaddress
import os
import socket

from srt.common.errors import SrtError

LOOPBACK = "127.0.0.1"
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def _addresses() -> list[tuple[str, str]]:
    """Interface and IPv4 address, for each address of this node."""
    import psutil  # here: `srt gpu-check` does without it, where there is one process and no DeepSpeed

    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    ]


def is_own(address: str) -> bool:
    """Whether an IPv4 address belongs to this node."""
    return any(address == own for _, own in _addresses())


def _chosen() -> str | None:
    """The address of the interface that GLOO_SOCKET_IFNAME names; None if it is unset."""
    name = os.environ.get(GLOO, "").split(",")[0]
    if not name:
        return None
    found = [address for interface, address in _addresses() if interface == name]
    if not found:
        known = ", ".join(sorted({interface for interface, _ in _addresses()}))
        raise SrtError(
            f"{GLOO}={name}: {socket.gethostname()} has no such interface with an IPv4 address (it has: {known})"
        )
    return found[0]


def address_towards(peer: str) -> str:
    """The address of this node from which it reaches another one; GLOO_SOCKET_IFNAME has precedence."""
    if chosen := _chosen():
        return chosen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))  # sends nothing: the kernel picks the route
        return str(probe.getsockname()[0])


def cluster_address() -> str:
    """The address at which other nodes reach this one.

    It is that of the interface in GLOO_SOCKET_IFNAME, else that of the host name, else (some systems give the host name
    a loopback address) that of the default route.

    Raises:
        SrtError: there is none.
    """
    try:
        named = socket.gethostbyname(socket.gethostname())
        if not ipaddress.ip_address(named).is_loopback and is_own(named):
            return _chosen() or named
        return address_towards("192.0.2.1")  # an address of no host (RFC 5737)
    except OSError:
        raise SrtError(
            f"{socket.gethostname()} has no IPv4 address for other nodes: set {GLOO} to the cluster network's interface"
        ) from None


def use_interface_of(address: str) -> None:
    """Let gloo and NCCL listen on the interface of one of this node's addresses; variables that are set win."""
    name = next(interface for interface, own in _addresses() if own == address)
    os.environ.setdefault(GLOO, name)
    os.environ.setdefault(NCCL, name)
