"""The progress bar of a call of `generate`, in responses: a prompt of 32 is done only when its longest one is."""

from __future__ import annotations

from srt.common.progress import progress_bar

# Short responses end first. Before this share of all has ended, the rate of ends says little about the time left.
TELLING = 1 / 8
_WITHOUT_TIME_LEFT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]"


class SamplingBar:
    """Counts the responses that have ended.

    Args:
        responses: number of responses of the call.
        shown: whether anything is shown.
    """

    def __init__(self, responses: int, shown: bool) -> None:
        self.telling = TELLING * responses
        self.bar = progress_bar(
            total=responses, desc="sampling", unit="response", disable=not shown, bar_format=_WITHOUT_TIME_LEFT
        )

    def ended(self, responses: int) -> None:
        """So many responses have ended since the start."""
        if responses >= self.telling:
            self.bar.bar_format = None  # tqdm's own, with the time left
        self.bar.update(responses - self.bar.n)

    def close(self) -> None:
        """Show the last state."""
        self.bar.close()
