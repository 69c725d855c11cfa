"""What a configuration costs before it is paid: its jobs, GPU-hours, wall time and disk (`snakemake plan`).

jobs        the DAG from the configuration alone, job by job as Snakemake would make it (a test compares the two)
price       seconds and bytes of each job: `srt.cost.formulas` with assumed or measured lengths, corrected by benchmarks
schedule    wall time and disk on P partitions
report      the tables that are printed and written
"""
