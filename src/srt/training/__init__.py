"""The trainers, from a checkpoint to the next one. Knows nothing of figures, claims, plan and Snakemake."""
