"""The losses as pure functions on tensors; none changes its inputs. Must not import any other room at run time."""
