"""The paper's statements, checked: numbers with intervals from the same tables as the figures, and verdicts by rule.

    spec        which files a claim reads: resolved from the configuration, plain JSON
    evidence    those files as arrays [seeds, steps, problems], and their bootstrap replicates
    curves, agreement, training    the estimators: what is measured (docs/claims.md)
    verdict     the rule: supported, not supported, undecided
    table       CSV, Markdown and HTML
    opening     the verdicts on the report's first page

Nothing is imported here: the workflow resolves specs in every job, without pandas. No verdict is written down anywhere:
each is a pure function of the tables and of the rule in `claims.yaml`.
"""
