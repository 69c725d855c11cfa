"""torchrun that ends with its workers' exit code: 75 saved and to be resumed, 2 wrong input.

torchrun itself turns every failure of a worker into a traceback and exit code 1, and 30 seconds after SIGTERM it kills
workers that are still there; the trainer looks at the signal at the end of a step only. Here SIGTERM is handed on to
the workers, and they are waited for as before: they save and end by themselves, however long that takes.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence

import psutil

from srt.common.errors import EXIT_INTERRUPTED, EXIT_RESUME, EXIT_USAGE

SAID = (EXIT_USAGE, EXIT_RESUME, EXIT_INTERRUPTED)  # by a worker, with a sentence on stderr
LINGER_SECONDS = 3.0  # other nodes' agents ask this one's store until they see their own workers end


def exit_code(codes: Sequence[int], told: bool) -> int:
    """The exit code for those of failed workers (negative for a signal), the first failure first.

    A worker that says what is wrong is believed: the others lost their connection to it, or were killed after it.
    `told`: SIGTERM was handed on.
    """
    for code in codes:
        if code in SAID:
            return code
    if told and -signal.SIGTERM in codes:  # it came before they listened to it: there was nothing to save
        return EXIT_RESUME
    return codes[0] if codes[0] > 0 else 128 - codes[0]


def main(argv: list[str]) -> int:
    """Run `torch.distributed.run` with these arguments; return the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    told: list[int] = []

    def hand_on(number: int, _: object) -> None:
        told.append(number)
        workers = psutil.Process().children()  # not their children: an engine's processes end with their trainer
        if not workers:
            print("stopped: SIGTERM before any process was started, the same command starts it", file=sys.stderr)
            raise SystemExit(EXIT_RESUME)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    args = run.parse_args(["--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", *argv])
    # an error line for each worker that ended with 75; what is a failure is printed below
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, hand_on)
    try:
        run.run(args)
    except ChildFailedError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # srun ends all tasks when the first one has failed
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        code = exit_code([failure.exitcode for failure in failures], bool(told))
        if code not in SAID:
            print(error, file=sys.stderr, flush=True)
        if not args.standalone:
            time.sleep(LINGER_SECONDS)
        return code
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:  # before the agent listens to it
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
