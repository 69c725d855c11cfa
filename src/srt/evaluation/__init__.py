"""Raw samples of checkpoints, their scores, and the grading of imported rollouts. Imports no training, no figures."""
