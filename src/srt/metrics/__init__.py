"""Statistics with intervals, the collapse alarm, tables over evaluations. Imports no torch and no matplotlib.

statistics        numbers over problems: bootstrap means, paired differences, pass@k, the gap curve
intervals         the bootstrap of figures and claims, over problems and seeds
alarm             the label-free collapse alarm, and how to judge it
early_stopping    the step at which a run's validation set is best
results_table     one table of all evaluations
"""
