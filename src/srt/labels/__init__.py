"""What scored samples decide for training: offline labels, curricula, preferences. Imports no training."""
