"""Rewards of groups of responses: votes, true or stored labels, own functions; and monitors. Must not import torch."""
