"""Provenance, the first page of Snakemake's report, the page of the miniature. Imports no torch and no trainer.

provenance          versions, code, configuration, models, data and runs as one table
first_page          the verdicts on the first page of Snakemake's report
miniature_tables    the tables beside the page of the miniature (docs/miniature)
kept_claims         claims of kept tables, judged by the present rule
miniature_page      its template, filled from those tables
"""
