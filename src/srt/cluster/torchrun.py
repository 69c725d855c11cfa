"""torchrun that ends with its workers' exit code: 75 for "saved, resume me", 2 for wrong input.

torchrun itself turns each failure of a worker into a traceback and exit code 1, and 30 seconds after SIGTERM it kills
the workers that are still running. But a trainer reacts to the signal only at the end of a step. Here SIGTERM is passed
on to the workers, which then save and end by themselves, however long that takes.

torch's store, over which the processes find each other, listens on all interfaces of a machine and asks for no
password. Here it listens on one address alone (srt.common.network, docs/security.md).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from srt.common.errors import EXIT_INTERRUPTED, EXIT_RESUME, EXIT_USAGE
from srt.common.network import LOOPBACK, address_towards, is_own, use_interface_of

EXPLAINED = (EXIT_USAGE, EXIT_RESUME, EXIT_INTERRUPTED)  # the worker has printed a sentence about it
LINGER_SECONDS = 3.0  # other nodes' agents use this node's store until they see their own workers end


def exit_code(codes: Sequence[int], terminated: bool) -> int:
    """The exit code of the job.

    The code of a worker that explained its failure wins: the others lost their connection to it, or were killed after.

    Args:
        codes: exit codes of the failed workers, the first failure first; negative for a signal.
        terminated: SIGTERM was passed on.
    """
    for code in codes:
        if code in EXPLAINED:
            return code
    if terminated and -signal.SIGTERM in codes:  # it came before they listened for it: there was nothing to save
        return EXIT_RESUME
    return codes[0] if codes[0] > 0 else 128 - codes[0]


def _confine_stores() -> None:
    """Let the stores of this process listen on the address that they are made for, alone."""
    from torch import distributed
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend

    class ConfinedStore(TCPStore):
        def __init__(
            self, host_name: str, port: int, world_size: int | None = None, is_master: bool = False, **more: Any
        ) -> None:
            if is_master:
                try:
                    listener = socket.create_server((host_name, port))
                except OSError as error:  # torch expects this type where another process hosts the store
                    raise RuntimeError(f"cannot listen on {host_name}:{port}: {error.strerror}") from error
                host_name, port = listener.getsockname()
                more["master_listen_fd"] = listener.detach()
            super().__init__(host_name, port, world_size, is_master, **more)

    distributed.TCPStore = c10d_rendezvous_backend.TCPStore = ConfinedStore
    # torch's own test misses addresses that the host name does not have
    c10d_rendezvous_backend._matches_machine_hostname = lambda host: host == "localhost" or is_own(host)


def main(argv: list[str]) -> int:
    """Run `torch.distributed.run` with these arguments; return the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        workers = psutil.Process().children()  # not grandchildren: the processes of an engine end with their trainer
        if not workers:
            print("stopped: SIGTERM came before any process was started; repeat the command to start", file=sys.stderr)
            raise SystemExit(EXIT_RESUME)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    args = run.parse_args(["--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", *argv])
    _confine_stores()
    args.local_addr = LOOPBACK if args.standalone else address_towards(args.rdzv_endpoint.rpartition(":")[0])
    use_interface_of(args.local_addr)
    # without its error line per worker that ended with 75; real failures are printed below
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, pass_on)
    try:
        run.run(args)
    except ChildFailedError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # srun terminates all tasks once one has failed
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        code = exit_code([failure.exitcode for failure in failures], bool(received))
        if code not in EXPLAINED:
            print(error, file=sys.stderr, flush=True)
        if not args.standalone:
            time.sleep(LINGER_SECONDS)
        return code
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:  # before the agent handles it
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
