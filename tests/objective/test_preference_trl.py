"""DPO's loss and gradient on recorded pairs: TRL's DPOTrainer and the packed update."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srt.models.checkpoint import load_model
from srt.training.batches import Batch
from srt.training.objectives import preference_update
from srt.training.reference import Reference
from support.plain_update import ALONE, Plain, hyperparameters

pytestmark = [pytest.mark.trl, pytest.mark.slow]


def batch(pairs: int) -> Batch:
    rng = np.random.default_rng(8)
    prompts = [rng.integers(5, 40, n).tolist() for n in (3, 7, 5, 2)[:pairs]]
    lengths = [(6, 11), (9, 2), (1, 8), (12, 12)][:pairs]
    return Batch(
        prompts=[prompts[g] for g in range(pairs) for _ in range(2)],
        responses=[rng.integers(5, 40, n).astype(np.int32) for pair in lengths for n in pair],
        group=[g for g in range(pairs) for _ in range(2)],
        rewards=np.array([1.0, -1.0] * pairs),
        labelled=np.ones(2 * pairs, dtype=bool),
    )


def trl_step(folder: Path, base: Path, model: Any, reference: Any, b: Batch, nll: bool) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of TRL's trainer; its "sft" is a mean over the chosen tokens of the batch."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt_ids": b.prompts[i], "chosen_ids": b.responses[i].tolist(), "rejected_ids": b.responses[i + 1].tolist()}
        for i in range(0, len(b.group), 2)
    ]
    args = DPOConfig(
        output_dir=str(folder), beta=0.4, loss_type=["sigmoid", "sft"] if nll else ["sigmoid"],
        loss_weights=[1.0, 1.0] if nll else [1.0], max_length=None, use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False, disable_tqdm=True, per_device_train_batch_size=len(rows),
    )  # fmt: skip
    _, tokenizer, _ = load_model(base, "float32", "cpu")
    words = Dataset.from_list([{"prompt": "1", "chosen": " 2", "rejected": " 3"}])  # the step gets other rows
    trainer = DPOTrainer(model=model, ref_model=reference, args=args, train_dataset=words, processing_class=tokenizer)
    loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(rows))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize(("pairs", "nll"), [(4, False), (1, True)])
def test_one_step_of_dpo(tmp_path, tiny_base, pairs, nll):
    model, *_ = load_model(tiny_base, "float32", "cpu")
    reference = copy.deepcopy(model).requires_grad_(False)
    torch.manual_seed(7)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.05 * torch.randn_like(p))
    b = batch(pairs)
    optimizer = Plain(copy.deepcopy(model))
    preference = {"beta": 0.4, "nll": float(nll)}
    train = hyperparameters(micro_batch_tokens=30)
    ours = preference_update(optimizer, Reference(copy.deepcopy(reference)), train, ALONE, "dpo", preference).run(b)
    loss, gradients = trl_step(tmp_path, tiny_base, model, reference, b, nll)
    assert ours["loss"] == pytest.approx(loss, rel=1e-5)
    for name, theirs in gradients.items():
        torch.testing.assert_close(optimizer.steps[0][name], theirs, atol=2e-5, rtol=1e-4, msg=name)
