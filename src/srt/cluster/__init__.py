"""What jobs ask of a machine, how they start, and what SLURM says. Imports no training and no Snakemake."""
