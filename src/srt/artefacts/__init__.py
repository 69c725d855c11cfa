"""What a job is made from and where its files are: specs, paths, evaluations. Imports no torch and no Snakemake.

paths              one method per path of a results folder
specs              the JSON of the fields that change a job's result
training_inputs    what a training segment reads
evaluations        every evaluated checkpoint and its files
"""
