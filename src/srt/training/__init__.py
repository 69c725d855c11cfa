"""The trainers: from one checkpoint to the next. Must not import figures, claims, plan or Snakemake."""
