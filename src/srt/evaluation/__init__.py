"""Samples of checkpoints, their scores, and comparisons with the verdicts of others. Imports no training."""
