"""Model folders: base models from all sources, loading, fingerprints. Imports no training and no rollout engine."""
