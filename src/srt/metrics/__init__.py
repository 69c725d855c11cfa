"""Statistics with intervals, the collapse alarm, tables over evaluations. Imports no torch and no matplotlib.

statistics        numbers over problems: pass@k, the gap curve
intervals         the intervals of figures and claims, over problems and seeds
peaks             peaks chosen on one half of the problems and seeds, and judged on the other
coverage          simulations of both: how often they are right
alarm             the label-free collapse alarm, and how to judge it
early_stopping    the step at which a run's validation set is best
results_table     one table of all evaluations
"""
