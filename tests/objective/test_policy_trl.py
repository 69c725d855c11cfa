"""Clip-Higher and GSPO on fixed responses: TRL's GRPOTrainer and our loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srt.models.checkpoint import load_model
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights

pytestmark = [pytest.mark.trl, pytest.mark.slow]

# of TRL: loss_type, importance_sampling_level; of ours: aggregation, ratio
CASES = {
    "Clip-Higher, token mean": ("bnpo", "token", "token_mean", "token"),
    "GSPO": ("grpo", "sequence", "sequence_mean", "gspo"),
}
LENGTHS = torch.tensor([6, 3, 8, 5, 8, 1])
ADVANTAGES = torch.tensor([1.2, -0.7, -0.5, 0.6, -1.1, 0.5])


def trl_loss(folder: Path, base: Path, loss_type: str, level: str, inputs: dict[str, Any]) -> Any:
    """TRL's loss on these inputs, and its gradients by name."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer, _ = load_model(base, "float32", "cpu")
    args = GRPOConfig(
        output_dir=str(folder), loss_type=loss_type, importance_sampling_level=level, epsilon=0.2, epsilon_high=0.28,
        beta=0.0, use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, disable_tqdm=True,
        per_device_train_batch_size=6, num_generations=6,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args,
        train_dataset=Dataset.from_list([{"prompt": "1"}]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model.train(), inputs)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_trl(tmp_path: Path, tiny_base: Path, name: str) -> None:
    loss_type, level, aggregation, ratio = CASES[name]
    model, *_ = load_model(tiny_base, "float32", "cpu")
    torch.manual_seed(3)
    ids, mask = torch.randint(5, 40, (6, 12)), torch.arange(8)[None, :] < LENGTHS[:, None]
    prompt = torch.ones(6, 4, dtype=torch.long)
    logits = model(input_ids=ids, attention_mask=torch.cat([prompt, mask.long()], 1)).logits[:, 3:-1]
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, 4:, None])[..., 0]
    old = logprobs.detach() + torch.cat(
        [0.5 * torch.randn(2, 8), 0.5 + 0.1 * torch.randn(2, 8), -0.4 * torch.ones(2, 8)]
    )
    theirs, gradients = trl_loss(
        tmp_path, tiny_base, loss_type, level,
        {
            "prompt_ids": ids[:, :4], "prompt_mask": prompt, "completion_ids": ids[:, 4:],
            "completion_mask": mask.long(), "advantages": ADVANTAGES, "old_per_token_logps": old,
        },
    )  # fmt: skip
    options = LossOptions(clip=0.2, clip_high=0.28, ratio=ratio)  # type: ignore[arg-type]
    weights = sequence_weights(LENGTHS, aggregation)  # type: ignore[arg-type]
    ours = policy_loss(logprobs, old, ADVANTAGES, weights, mask, options)
    ours.backward()
    assert ours.item() == pytest.approx(theirs, rel=1e-5)
    size = max(float(g.abs().max()) for g in gradients.values())
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[key], atol=1e-5 * size, rtol=1e-4, msg=key)
