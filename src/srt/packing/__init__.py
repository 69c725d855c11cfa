"""Sequences without padding: packs, their attention, log-probs, fused layers. Must not import losses or trainers."""
