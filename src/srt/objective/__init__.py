"""The losses as pure functions on tensors: KL, advantages, policy loss, preference loss. Imports no other room."""
