"""DPO and ScPO as pure functions of the log-probs of whole responses, and the gradient that the packed update needs.

For P pairs, S+, S- are the log-probs of the chosen and the rejected response (sums over tokens), R+, R- those under the
reference, T+ the tokens of the chosen one, w >= 0 the weight of the pair:

    m = beta ((S+ - R+) - (S- - R-))
    loss = w (-log sigmoid(m) - alpha S+ / T+)

DPO (Rafailov et al. 2024) has w = 1, ScPO (Prasad et al. 2024) w = (V+ - V-) / n from the votes; alpha is `nll` (paper
v2, Appendix F: 1 for both, as in Pang et al. 2024). SFT is the cross-entropy and uses nothing from here.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def margins(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The margins m [P] from the log-ratios S - R [P] of chosen and rejected responses to the reference."""
    return beta * (chosen - rejected)


def pair_loss(margin: Tensor, logp: Tensor, length: Tensor, weight: Tensor, nll: float) -> Tensor:
    """The loss of each pair [P]; `logp`, `length` [P]: log-probs S+ and tokens T+ of the chosen responses."""
    return weight * (-logsigmoid(margin) - nll * logp / length)


def pair_gradient(margin: Tensor, length: Tensor, weight: Tensor, beta: float, nll: float) -> tuple[Tensor, Tensor]:
    """d `pair_loss` / d S+ and d `pair_loss` / d S-, [P] each.

    dloss/dm = -w sigmoid(-m), so these are -w (beta sigmoid(-m) + nll / T+) and +w beta sigmoid(-m): a policy gradient
    whose advantages are beta sigmoid(-m), large where the pair is in the wrong order.
    """
    pull = weight * beta * (-margin).sigmoid()
    return -pull - weight * nll / length, pull
