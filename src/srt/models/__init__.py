"""Model folders: where base models come from, how they are read and fingerprinted. Imports no training."""
