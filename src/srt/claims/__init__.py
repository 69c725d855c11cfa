"""The paper's statements, measured from the figures' tables and judged by rule. Imports no torch and no figures.

    resolve            from the configuration to a spec: which files each claim reads, as plain JSON
    evidence           those files as arrays [seeds, steps, problems]
    accuracy_estimators, vote_estimators, training_estimators    what is measured (docs/claims.md)
    verdict            the rule: supported, not supported, undecided
    check_claims       every claim measured and judged
    power              which claims the configured seeds and problems can decide
    verdict_tables     CSV, Markdown and HTML

`srt.claims` itself imports no module: every job resolves specs, and should not have to load pandas. No verdict is
stored by hand: each is a pure function of the tables and of the rule in `claims.yaml`.
"""
