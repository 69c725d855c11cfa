"""The processes of a training job, DeepSpeed, training states on disk. Must not import losses or trainers."""
