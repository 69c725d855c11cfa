"""FLOPs, bytes and seconds of models and jobs: the one set of formulas. Knows no configuration of runs."""
