"""Trainers on rollouts made by hand, and the gradient that the formulas give for them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad

from srt.distributed.world import init_world
from srt.rewards.group_rewards import training_rewards
from srt.rollout import LENGTH, STOP, Rollout
from srt.training.rl_trainer import RLTrainer, make_batch
from srt.training.training_set import read_training_set
from support.specs import train_spec
from support.training import whole_run

# Four responses per group: a majority of "7", a tie, no answer at all, all agree.
GROUPS = [
    ["\\boxed{7}", "3 + 4 = 7; \\boxed{7}", "\\boxed{8}", "I do not know"],
    ["\\boxed{2}", "1 = 1; 2 = 2; \\boxed{3}", "\\boxed{3}", "\\boxed{2}"],
    ["7", "nothing", "\\boxed{", "1 + 2 = 3; and so on"],
    ["\\boxed{5}", "\\boxed{5}", "2 + 3 = 5; \\boxed{5}", "so \\boxed{5}"],
]
TRUTH = ["7", "3", "9", "6"]
PARSED = [True, True, False, True]


def make_trainer(folder: Path, base: Path, sums: Path, **changes: Any) -> RLTrainer:
    """A real trainer whose reference differs from its policy, so that the KL is not 0."""
    spec = train_spec(prompts_per_step=4, rollouts_per_prompt=4, kl_coefficient=0.05, **changes)
    data, truth = read_training_set(sums, spec["reward"])
    trainer = RLTrainer(whole_run(folder, base, spec), data, init_world(), truth)
    trainer.update.check_mismatch = None  # the rollouts are hand-made
    torch.manual_seed(5)
    with torch.no_grad():
        for p in trainer.update.reference.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return trainer


def hand_made(trainer: RLTrainer, groups: list[list[str]]) -> tuple[list[list[int]], list[Rollout]]:
    """Prompts of the first problems and rollouts of these texts; the second of each group is truncated."""
    prompts, rollouts = [], []
    for g, group in enumerate(groups):
        for i, text in enumerate(group):
            ids = trainer.tokenizer(text, add_special_tokens=False)["input_ids"]
            cut = i == 1
            ids = np.array(ids if cut else [*ids, trainer.tokenizer.eos_token_id], np.int32)
            prompts.append(trainer.prompts[g])
            rollouts.append(Rollout(ids, np.zeros(len(ids), np.float32), LENGTH if cut else STOP))
    return prompts, rollouts


def updated(trainer: RLTrainer, groups: list[list[str]] = GROUPS, labels: list[str] | None = None):
    """The gradient of one update (read from DeepSpeed before its step), and the update's return value."""
    flat_prompts, flat = hand_made(trainer, groups)
    prompts = flat_prompts[:: len(groups[0])]
    rollouts = [flat[i : i + len(groups[0])] for i in range(0, len(flat), len(groups[0]))]
    kind = trainer.spec["reward"]
    texts = trainer._answers(groups, rollouts)
    given = training_rewards(kind, trainer.grader, texts, labels, ["math"] * len(groups))
    mask = trainer.train["truncated"] == "mask"
    found: dict[str, torch.Tensor] = {}
    step = trainer.policy.step

    def recording_step() -> tuple[float, bool]:
        for name, p in trainer.policy.model.named_parameters():
            grad = safe_get_full_grad(p)
            found[name] = torch.zeros_like(p) if grad is None else grad.clone()
        return step()

    trainer.policy.step = recording_step  # type: ignore[method-assign]
    try:
        result = trainer.update.run(make_batch(prompts, rollouts, given, None, mask))
    finally:
        trainer.policy.step = step  # type: ignore[method-assign]
    return found, result


def naive(trainer: RLTrainer, labels: list[str] | None, drop: bool, entropy_coefficient: float, clamp: float | None,
          micro: int | None) -> dict[str, torch.Tensor]:  # fmt: skip
    """The gradient of the RLOO loss with the KL in the reward, from the formulas, sequence by sequence.

    s_i = R_i - beta sum_t k3_it + w_C mean_t KL(U || p_it) - w_H mean_t H_it,  A_i = s_i - mean of the other s_j of the
    group; R_i is 0 for reward `confidence`,
    L = - mean over tokens of (A_i log pi_it + c H_it), over all tokens, or over those of each `micro` sequences.
    """
    model, beta = trainer.policy.model, trainer.train["kl_coefficient"]
    w_entropy, w_certainty = trainer.train["entropy_reward"], trainer.train["certainty_reward"]
    judged = trainer.spec["reward"] != "confidence"
    prompts, rollouts = hand_made(trainer, GROUPS)
    answers = [["7", "7", "8", None], ["2", "3", "3", "2"], [None] * 4, ["5"] * 4]
    label = labels or ["7", None, None, "5"]
    if labels is None:  # a tie: the class seen first, of the raw strings and of the clean preset alike
        label[1] = "2"
    truncated = trainer.train["truncated"]
    if truncated == "no_vote":  # the second of each group was cut: of 7, 8 and nothing, the clean preset takes 7
        answers = [[None if j == 1 else a for j, a in enumerate(row)] for row in answers]
    rows = []
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        g, j = divmod(i, 4)
        sequence = torch.tensor([[*prompt, *rollout.token_ids.tolist()]])
        logits = model(input_ids=sequence, use_cache=False).logits[0].double() / trainer.train["temperature"]
        with torch.no_grad():
            other = trainer.update.reference.model(input_ids=sequence).logits[0].double() / trainer.train["temperature"]
        logp, entropy, kl, certainty = [], [], 0.0, []
        for t in range(len(prompt), sequence.shape[1]):
            now, ref = logits[t - 1].log_softmax(-1), other[t - 1].log_softmax(-1)
            token = int(sequence[0, t])
            logp.append(now[token])
            entropy.append(-(now.exp() * now).sum())
            uniform = torch.full_like(now, 1 / len(now))
            certainty.append(float((uniform * (uniform.log() - now.detach())).sum()))
            d = float(ref[token] - now[token].detach())
            k3 = math.exp(d) - d - 1
            kl += k3 if clamp is None else min(clamp, k3)
        masked = truncated == "mask" and rollout.finish_reason == LENGTH
        reward = float(answers[g][j] is not None and answers[g][j] == label[g])
        voted = label[g] is not None or not judged
        confidence = w_certainty * np.mean(certainty) - w_entropy * np.mean([h.item() for h in entropy])
        score = (reward if judged else 0.0) + (0.0 if masked or not voted else confidence - beta * kl)
        rows.append({"g": g, "s": score, "voted": voted, "masked": masked, "logp": logp, "entropy": entropy})
    total = torch.zeros((), dtype=torch.float64)
    chunks = [rows] if micro is None else [rows[k : k + micro] for k in range(0, len(rows), micro)]
    for chunk in chunks:
        kept = [r for r in chunk if (r["voted"] or not drop) and not r["masked"]]
        tokens = sum(len(r["logp"]) for r in kept)
        for r in kept:
            others = [x["s"] for x in rows if x["g"] == r["g"] and x is not r]
            advantage = r["s"] - sum(others) / 3 if r["voted"] else 0.0
            gain = sum(advantage * lp + entropy_coefficient * h for lp, h in zip(r["logp"], r["entropy"], strict=True))
            total = total - gain / tokens / len(chunks)
    grads = torch.autograd.grad(total, list(model.parameters()))
    return {name: grad for (name, _), grad in zip(model.named_parameters(), grads, strict=True)}


def near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    size = max(float(g.abs().max()) for g in expected.values())
    assert size > 1e-3, "a gradient of zero would prove nothing"
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad.to(actual[name]), atol=tolerance * size, rtol=tolerance)


def naive_of_preset(trainer: RLTrainer, labels: list[str] | None, preset: str) -> dict[str, torch.Tensor]:
    """`naive` with what the preset `clean` or `authors` sets, in micro-batches of 6 sequences."""
    if preset == "authors":
        return naive(trainer, labels, drop=False, entropy_coefficient=0.001, clamp=10.0, micro=6)
    return naive(trainer, labels, drop=True, entropy_coefficient=0.0, clamp=None, micro=None)
