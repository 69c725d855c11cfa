"""Tables, samples, scores and metrics of a results folder as pandas frames. Reads them without the workflow.

folder      `Results`: one method per kind of frame; docs/results.md lists the columns
lm_eval     the same evaluations in the formats of lm-evaluation-harness
"""

from srt.results.folder import Results

__all__ = ["Results"]
