"""Sequences without padding: packs, their attention, log-probs and the layers under them. Knows no losses."""
