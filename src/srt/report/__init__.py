"""Provenance, the report's first page, pages of the miniature and of a running workflow. Imports no torch.

provenance          versions, code, configuration, models, data and runs as one table
first_page          the verdicts on the first page of Snakemake's report, the names of figures in its list
miniature_tables    the tables beside the page of the miniature (docs/miniature)
kept_claims         claims of kept tables, judged by the present rule
miniature_page      its template, filled from those tables
run_page            the page that `srt watch` keeps up to date
"""
