"""A real SLURM on this machine's loopback, for tests and benchmarks: munged, slurmctld and four slurmd.

    with Cluster() as cluster:
        subprocess.run(["sinfo"], env=cluster.env)

Partitions: `h200` (two nodes with 8 fake GPUs each), `urgent` (the same nodes, preempts h200), `cpu` (two nodes). No
systemd, nothing in /etc, no accounting. Sockets, spool, state, logs and keys are in one short temporary folder. Works
as root and as a user. Its limits: no GPU library sees the fake GPUs (they are copies of /dev/null), and
memory limits are enforced only as root with cgroup v1 (`Cluster(memory_limits=True)`).

Every process that it starts has the folder's name in its environment: `stop` ends those processes by
their ids, and `start` first clears what a killed owner left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SBIN = "/usr/sbin:/sbin"
PREFIX = "srt-slurm-"
GPUS = 8
PACKAGES = "slurmctld slurmd slurm-client munge"
DAEMONS = ("slurmd", "slurmctld", "munged")  # the order in which they are stopped
# The plugin polls a job after 40 s, then every 50 s or more. Tests poll every second, but not in the jobs' processes.
FAST_POLLS = """import sys
if "snakemake" in " ".join(sys.orig_argv[:3]) and "--mode" not in sys.orig_argv and sys.version_info >= (3, 11):
    import asyncio
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
    async def _sleep(self):
        await asyncio.sleep(1)
    RemoteExecutor.sleep = _sleep
"""


def missing() -> str | None:
    """Why no cluster can be started here, and what to install; None where one can."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    absent = [p for p in ("slurmctld", "slurmd", "munged", "sbatch", "srun") if not shutil.which(p, path=path)]
    if absent:
        return f"no SLURM here ({', '.join(absent)} not found): apt-get install --no-install-recommends {PACKAGES}"
    return None


def nodes_of(folder: Path) -> tuple[tuple[str, str], tuple[str, str]]:
    """Names of the two GPU nodes and the two CPU nodes, unique to this cluster, since cgroups are named after them."""
    tag = folder.name.removeprefix(PREFIX).replace("_", "x")
    return (f"h200-{tag}-0", f"h200-{tag}-1"), (f"cpu-{tag}-0", f"cpu-{tag}-1")


def processes_of(folder: Path) -> list[int]:
    """Ids of the live processes of this user that were started with `folder` in their environment."""
    found, needle = [], os.fsencode(str(folder))
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and needle in Path("/proc", entry, "environ").read_bytes():
                found.append(int(entry))
    return found


def _reap() -> None:
    """Collect ended children of this process, so that none stays as a zombie."""
    for process in list(Cluster.children):
        if process.poll() is not None:
            Cluster.children.remove(process)


def _wait(what: str, ready: Callable[[], bool], seconds: float = 20, detail: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} not there after {seconds:g} s\n{detail()}")
        time.sleep(0.05)


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, which tells it from a later one with the same id; '' if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def sweep() -> list[Path]:
    """Stop and remove the clusters of this user whose owner is dead; return their folders."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid != os.geteuid():
                continue
            pid, started = (folder / "owner").read_text().split()
            if _start_time(int(pid)) != started:
                end_processes(folder)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def end_processes(folder: Path) -> None:
    """Send SIGKILL, by process id, to all that has `folder` in its environment, and wait until it is gone."""
    end = time.monotonic() + 10
    while (pids := processes_of(folder)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        _reap()
    for controller in ("freezer", "memory", "cpuset", "devices", "cpuacct"):
        for node in sum(nodes_of(folder), ()):
            root = f"/sys/fs/cgroup/{controller}/slurm_{node}"
            for place, _, _ in list(os.walk(root, topdown=False)):
                with contextlib.suppress(OSError):
                    os.rmdir(place)


class Cluster:
    """One cluster in a folder of its own; a context manager.

    Args:
        memory_limits: enforce `--mem` with cgroups (root and cgroup v1 only; see `can_limit_memory`).
        kill_wait: seconds between SIGTERM and SIGKILL of a job that is stopped.
    """

    children: list[subprocess.Popen] = []  # noqa: RUF012  # of all clusters of this process, to be reaped

    def __init__(self, memory_limits: bool = False, kill_wait: int = 5) -> None:
        if why := missing():
            raise RuntimeError(why)
        self.memory_limits, self.kill_wait = memory_limits, kill_wait
        self.host = socket.gethostname().split(".")[0]

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- for users of the cluster --------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """Environment in which SLURM's commands, and Snakemake, use this cluster."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_"))}
        env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        env["PATH"] = f"{self.folder}/bin:{env['PATH']}:{SBIN}"
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.folder / "python"), env.get("PYTHONPATH", "")]))
        return env

    def call(self, *argv: object, check: bool = False, timeout: float = 60) -> str:
        """Run a command against this cluster and return its standard output."""
        done = subprocess.run([str(a) for a in argv], env=self.env, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self, states: str = "all") -> dict[int, dict[str, str]]:
        """Jobs by id: state, rule (the plugin's comment), node, partition."""
        lines = self.call("squeue", "-h", f"--states={states}", "-o", "%i|%T|%k|%N|%P").splitlines()
        fields = ("state", "rule", "node", "partition")
        return {int(i): dict(zip(fields, rest, strict=True)) for i, *rest in (x.split("|") for x in lines)}

    def records(self) -> list[dict[str, str]]:
        """One record per ended job: JobId, JobState, StartTime, EndTime, NodeList, but no Comment."""
        file = self.folder / "log" / "jobcomp.log"
        lines = file.read_text().splitlines() if file.exists() else []
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    # -- start and stop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Clear what killed owners left, start all daemons, return when every node is idle."""
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.gpu_nodes, self.cpu_nodes = nodes_of(self.folder)
        (self.folder / "owner").write_text(f"{os.getpid()} {_start_time(os.getpid())}")
        try:
            self._configure()
            munge = self.folder / "munge"
            self._spawn(
                "munged", "--foreground", f"--key-file={munge}/munge.key", f"--socket={munge}/munge.sock",
                f"--pid-file={munge}/munged.pid", f"--log-file={munge}/munged.log", f"--seed-file={munge}/seed",
            )  # fmt: skip
            _wait("munged", lambda: (munge / "munge.sock").exists(), detail=self.log)
            self.start_slurmctld("-c")
            for node in (*self.gpu_nodes, *self.cpu_nodes):
                self._spawn("slurmd", "-D", "-N", node)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise

    def wait_idle(self) -> None:
        """Wait until no node is drained, down or in use."""
        _wait("idle nodes", lambda: set(self.call("sinfo", "-h", "-N", "-o", "%t").split()) == {"idle"}, 30, self.log)

    def start_slurmctld(self, *flags: str) -> None:
        """Start the controller from its saved state (with `-c`: from none)."""
        self._spawn("slurmctld", "-D", *flags)
        _wait("slurmctld", lambda: "is UP" in self.call("scontrol", "ping"), detail=self.log)

    def stop_slurmctld(self) -> None:
        """Stop the controller as an administrator does; jobs keep running."""
        self._terminate("slurmctld")

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons, remove the folder."""
        if not hasattr(self, "folder"):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            if "is UP" in self.call("scontrol", "ping", timeout=30):
                self.call("scancel", "--user", str(os.geteuid()), timeout=30)
                with contextlib.suppress(RuntimeError):
                    _wait("an empty queue", lambda: not self.call("squeue", "-h").strip(), 10)
        for name in DAEMONS:
            self._terminate(name)
        end_processes(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """The last lines of all logs, for messages."""
        files = sorted((self.folder / "log").glob("*"))
        return "\n".join(f"== {f.name}\n" + "\n".join(f.read_text(errors="replace").splitlines()[-15:]) for f in files)

    def _spawn(self, program: str, *argv: str) -> None:
        executable = shutil.which(program, path=f"{os.environ['PATH']}:{SBIN}")
        with open(self.folder / "log" / f"{program}.out", "ab") as out:
            Cluster.children.append(
                subprocess.Popen([str(executable), *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 env=self.env, start_new_session=True, cwd=self.folder)
            )  # fmt: skip

    def _terminate(self, program: str) -> None:
        """SIGTERM the daemons of this name, SIGKILL after 10 s."""
        mine = [p for p in Cluster.children if Path(p.args[0]).name == program and p.pid in processes_of(self.folder)]
        for process in mine:
            process.terminate()
        for process in mine:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _reap()

    def _configure(self) -> None:
        folder, nodes = self.folder, (*self.gpu_nodes, *self.cpu_nodes)
        for name in ("state", "log", "bin", "munge", "dev", "python", *(f"spool/{n}" for n in nodes)):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "munge").chmod(0o711)  # munged requires that other users can reach its socket
        key = folder / "munge" / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        if os.geteuid() == 0:  # gres needs a device file per GPU, all different; root makes copies of /dev/null
            for i in range(GPUS):
                os.mknod(folder / f"dev/nvidia{i}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            devices = f"{folder}/dev/nvidia[0-{GPUS - 1}]"
        else:  # SLURM only checks that they exist
            devices = f"/dev/tty[0-{GPUS - 1}]"
        ports = free_ports(1 + len(nodes))
        lines = [
            f"NodeName={name} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000"
            + (f" Gres=gpu:h200:{GPUS}" if name in self.gpu_nodes else "")
            for name, port in zip(nodes, ports[1:], strict=True)
        ]
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        old = version() < (23, 2)
        cgroup = "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n" if cgroup_v1() or old else "CgroupPlugin=disabled\n"
        limits = "ConstrainRAMSpace=yes\nConstrainSwapSpace=yes\nAllowedSwapSpace=0\n" if self.memory_limits else ""
        (folder / "cgroup.conf").write_text(cgroup + limits)
        (folder / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(self.gpu_nodes)} Name=gpu Type=h200 File={devices}\n"
        )
        (folder / "slurm.conf").write_text(f"""ClusterName=test
SlurmctldHost={self.host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job starts again when its credential has expired: 120 s by default, 5 at least
AuthInfo=socket={folder}/munge/munge.sock,cred_expire=5
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType={"proctrack/cgroup" if cgroup_v1() else "proctrack/pgid"}
TaskPlugin={"task/cgroup" if self.memory_limits else "task/none"}
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# two cores pose as 64
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait={self.kill_wait}
OverTimeLimit=0
MinJobAge=3600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
""" + "\n".join(lines) + f"""
PartitionName=h200 Nodes={",".join(self.gpu_nodes)} DefaultTime=01:00:00 MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes={",".join(self.gpu_nodes)} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=cpu Nodes={",".join(self.cpu_nodes)} Default=YES DefaultTime=01:00:00 MaxTime=INFINITE
""")  # fmt: skip
        # the plugin's job step drops SLURM_CONF before it calls srun
        srun = folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        (folder / "python" / "sitecustomize.py").write_text(FAST_POLLS)


def free_ports(count: int) -> list[int]:
    """Free ports of the loopback."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def version() -> tuple[int, int]:
    """Major and minor version of the SLURM that is installed."""
    text = subprocess.run(["sbatch", "--version"], capture_output=True, text=True).stdout
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def cgroup_v1() -> bool:
    """Whether jobs can be tracked by cgroups, as on a real cluster, so that no process survives a kill."""
    return os.geteuid() == 0 and os.access("/sys/fs/cgroup/freezer", os.W_OK)


def can_limit_memory() -> bool:
    """Whether `memory_limits` works here."""
    return cgroup_v1() and os.access("/sys/fs/cgroup/memory", os.W_OK)


if __name__ == "__main__":  # a shell in which SLURM's commands work
    with Cluster() as own:
        print(own.call("sinfo"), end="", file=sys.stderr)
        raise SystemExit(subprocess.run(sys.argv[1:] or [os.environ.get("SHELL", "sh")], env=own.env).returncode)
