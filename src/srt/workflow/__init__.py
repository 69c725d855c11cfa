"""What the Snakefile needs at run time. The only room that touches Snakemake and its SLURM plugin; knows no figures."""
