"""What a job is made from and where its files are: specs, paths, evaluations. Imports no torch and no Snakemake."""
