"""What a configuration costs before it runs: jobs, GPU-hours, wall time, disk (`snakemake plan`). Imports no torch.

jobs        the DAG from the configuration alone, job by job as Snakemake makes it (a test compares the two)
measured    what a results folder has measured: benchmarks, lengths, rows
price       seconds, GPUs and bytes of each job, by the formulas of `srt.cost`, corrected by what was measured
variants    other ways to run the same jobs
schedule    wall time and disk on P partitions
tables      the plan as tables and JSON; text: for a terminal
spent, eta  what a run has cost so far, and how long the rest takes
"""
