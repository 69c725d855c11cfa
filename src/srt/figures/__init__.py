"""From a figure's spec to PDF, PNG and CSV, with equal bytes for equal inputs. Imports no torch and no Snakemake.

    resolve        from the configuration to a spec with every path in it
    spec           the spec, checked and typed
    figure_data    the numbers of a figure, read from groups files and training metrics
    render         the registry of kinds, and the files of one figure
    style          sizes, fonts, and the look of each method
    annotations    what is marked on curves: statements of the paper, the collapse alarm, early stopping
    bars, climb, curves, dynamics, examples, gap, scheme    one module per kind, with `draw(spec) -> (figure, table)`

A new figure of a known kind is configuration only.
"""

from srt.figures.render import KINDS, render

__all__ = ["KINDS", "render"]
