"""The processes of a job listen on one interface alone.

Under the launcher this file is the worker: it lists the sockets on which the job listens while all groups are open.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from srt.cluster import launch
from srt.common import network
from srt.common.errors import SrtError
from srt.distributed.world import gather, init_world, shutdown
from support import ROOT

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", network.GLOO, network.NCCL)


def listening(*processes: psutil.Process) -> list[str]:
    """The addresses on which processes listen (from /proc/net/tcp and tcp6)."""
    sockets = [each for process in processes for each in process.net_connections(kind="tcp")]
    return [each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN]


def worker(folder: Path) -> None:
    """Write the addresses on which this process and its torchrun listen, once all ranks are connected."""
    world = init_world()
    torch.distributed.all_reduce(torch.zeros(1))
    gather([world.rank], world)
    parent = psutil.Process().parent()
    job = [psutil.Process(), *([parent] if world.size > 1 else [])]
    (folder / f"rank-{world.rank}").write_text(json.dumps(listening(*job)))
    gather([world.rank], world)
    shutdown()


def run(folder: Path, *commands: list[str], **environment: str) -> list[list[str]]:
    """What each rank found, for a job of these commands."""
    path = os.pathsep.join(str(ROOT / part) for part in ("src", "tests"))
    own = {k: v for k, v in os.environ.items() if k not in TORCHRUN} | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    started = [
        subprocess.Popen(c, env=own | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    said = [each.communicate(timeout=400)[0] for each in started]
    assert [each.returncode for each in started] == [0] * len(started), "\n".join(said)[-4000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rank-*"))]


needs_network = pytest.mark.skipif(
    all(address.startswith("127.") for _, address in network._addresses()), reason="no network"
)


@pytest.mark.slow
def test_one_node_listens_on_loopback_alone(tmp_path):
    script = [__file__, str(tmp_path)]
    ranks = run(tmp_path, launch.torchrun(1, 2, "", "", script))
    assert len(ranks) == 2 and all(ranks), "torchrun's stores and gloo listen somewhere"
    assert {address for rank in ranks for address in rank} == {network.LOOPBACK}


@pytest.mark.slow
def test_one_process_has_no_store_on_a_port(tmp_path):
    (found,) = run(tmp_path, [sys.executable, __file__, str(tmp_path)])
    assert set(found) <= {network.LOOPBACK}


@needs_network
@pytest.mark.slow
def test_several_nodes_listen_on_the_interface_that_reaches_the_first(tmp_path, monkeypatch):
    """Two torchruns on this machine, which meet at its address on the network."""
    monkeypatch.delenv(network.GLOO, raising=False)  # set by a test that trained in this process
    address = network.cluster_address()
    assert address != network.LOOPBACK
    ranks = run(
        tmp_path, *[launch.torchrun(2, 1, f"{address}:{launch.free_port()}", "7", [__file__, str(tmp_path)])] * 2
    )
    assert len(ranks) == 2 and {found for rank in ranks for found in rank} == {address}


def test_the_interface_can_be_given(monkeypatch):
    (loopback,) = {name for name, address in network._addresses() if address == network.LOOPBACK}
    monkeypatch.setenv(network.GLOO, loopback)
    assert network.cluster_address() == network.address_towards("192.0.2.1") == network.LOOPBACK
    monkeypatch.setenv(network.GLOO, "ib7")
    with pytest.raises(SrtError, match=f"GLOO_SOCKET_IFNAME=ib7: .* has no such interface .*{loopback}"):
        network.cluster_address()


def test_variables_that_are_set_win(monkeypatch):
    monkeypatch.setenv(network.GLOO, "eth7")
    monkeypatch.delenv(network.NCCL, raising=False)
    network.use_interface_of(network.LOOPBACK)
    assert os.environ[network.GLOO] == "eth7" and os.environ[network.NCCL].startswith("lo")


@needs_network
def test_a_host_name_without_an_address_of_this_node(monkeypatch):
    """Some systems give it a loopback address."""
    monkeypatch.delenv(network.GLOO, raising=False)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    assert network.is_own(network.cluster_address()) and network.cluster_address() != network.LOOPBACK


if __name__ == "__main__" and len(sys.argv) == 2:
    worker(Path(sys.argv[1]))
