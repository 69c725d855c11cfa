"""What jobs request, how training starts on its nodes, and what SLURM knows. Imports no training and no Snakemake."""
