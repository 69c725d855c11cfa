"""Several processes as one: DeepSpeed, agreement of ranks, training states on disk. Knows no losses."""
