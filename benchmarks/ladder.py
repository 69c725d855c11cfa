"""The rungs between TRL's update and ours, each with one thing changed, from the functions of the product.

    padded   as TRL: left-padded prompts, right-padded responses, b rows at a time, attention mask, head on every
             position; passes for the old policy, the reference and the gradient
    head     head on real response tokens only
    sorted   rows of similar length together, as many as a token budget holds, padded to their own longest
    packed   no padding
    one_pass no pass for the old policy: the gradient pass comes first and waits for the advantages of its groups
    shared   each prompt once for all of its responses: what `srt.training.update` does

The objective is preset `trl`, written out: k1 in the reward, leave-one-out, sum over tokens, mean over sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Channel
from peers import HYPER, PAD, Recorded, load_models, make_engine, record_first
from torch import Tensor

from srt.packing.logprobs import head_logprobs, packed, response_logprobs
from srt.packing.pack import pack, split

PACKED = ("packed", "one_pass", "shared")
RUNGS = ("padded", "head", "sorted", *PACKED)
Forward = Callable[[Any], Tensor]  # model -> log-probs [b, T] of the rows, 0 where there is no response token


def padded(data: Recorded, rows: list[int], widths: tuple[int, int] | None, everywhere: bool) -> Forward:
    """Rows as TRL lays them out, padded to `widths` (prompt, response) or to the longest of these rows."""
    prompts = [data.prompts[data.group[i]] for i in rows]
    before, after = widths or (max(map(len, prompts)), max(len(data.responses[i]) for i in rows))
    ids = torch.full((len(rows), before + after), PAD)
    mask = torch.zeros_like(ids)
    for r, (i, prompt) in enumerate(zip(rows, prompts, strict=True)):
        answer = torch.from_numpy(data.responses[i].astype(np.int64))
        ids[r, before - len(prompt) : before] = torch.tensor(prompt)
        ids[r, before : before + len(answer)] = answer
        mask[r, before - len(prompt) : before + len(answer)] = 1
    scored = mask.bool()
    scored[:, :before] = False
    scored = scored[:, 1:]

    def forward(model: Any) -> Tensor:
        device = model.device
        hidden = model.get_decoder()(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).last_hidden_state[:, :-1]
        target, real = ids[:, 1:].to(device), scored.to(device)
        head = model.get_output_embeddings()
        if everywhere:
            logp = head_logprobs(head, hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1), 1.0)[0]
            return torch.where(real, logp.view(target.shape), 0.0)
        logp = head_logprobs(head, hidden[real], target[real], 1.0)[0]
        return torch.zeros(target.shape, dtype=logp.dtype, device=device).masked_scatter(real, logp)

    return forward


def end_to_end(data: Recorded, rows: list[int], group: list[int], like: Any) -> Forward:
    """Rows without padding; rows of one `group` share their prompt."""
    prompts = [data.prompts[g] for g in data.group]
    laid = pack(prompts, data.responses, group, rows, like.device, like.dtype)
    return lambda model: response_logprobs(model, laid, 1.0)[0]


def by_length(lengths: list[int], budget: int) -> list[list[int]]:
    """Rows, longest first, in batches of at most `budget` padded tokens."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def plan(rung: str, data: Recorded, like: Any, batch: int, budget: int) -> list[list[tuple[list[int], Forward]]]:
    """Units of micro-batches (rows and their forward pass); a unit holds whole groups where its pass must wait."""
    count = len(data.responses)
    if rung in ("padded", "head"):
        widths = max(map(len, data.prompts)), data.longest
        parts = [list(range(s, min(s + batch, count))) for s in range(0, count, batch)]
        return [[(rows, padded(data, rows, widths, rung == "padded"))] for rows in parts]
    lengths = [len(data.prompts[g]) + len(r) for g, r in zip(data.group, data.responses, strict=True)]
    if rung == "sorted":
        return [[(rows, padded(data, rows, None, False))] for rows in by_length(lengths, budget)]
    own, group = list(range(count)), data.group.tolist()
    if rung == "packed":
        units = split(lengths, own, [0] * count, budget)
        return [[(rows, end_to_end(data, rows, own, like)) for rows in unit] for unit in units]
    shared = rung == "shared"
    tokens = [len(r) for r in data.responses] if shared else lengths
    units = split(tokens, group, [len(data.prompts[g]) if shared else 0 for g in group], budget)
    return [[(rows, end_to_end(data, rows, group if shared else own, like)) for rows in unit] for unit in units]


def update(rung: str, data: Recorded, engine: Any, reference: Any, beta: float, batch: int, budget: int) -> None:
    """One optimizer step by this rung."""
    policy, count, n = engine.model, len(data.responses), data.n
    units = plan(rung, data, policy, batch, budget)
    last = (len(units) - 1, len(units[-1]) - 1)

    def advantages(rows: list[int], kl: Tensor) -> Tensor:
        score = torch.from_numpy(data.rewards[rows]) - beta * kl.double().cpu()
        grouped = score.view(-1, n)
        others = (grouped.sum(-1, keepdim=True) - grouped) / (n - 1)
        return (grouped - others).flatten()

    deferred = rung in ("one_pass", "shared")
    advantage = torch.zeros(count, dtype=torch.float64)
    if not deferred:
        kl = torch.zeros(count)
        with torch.no_grad():
            for rows, forward in (part for unit in units for part in unit):
                kl[rows] = (forward(policy) - forward(reference)).sum(-1).float().cpu()
        advantage = advantages(list(range(count)), kl)
    for u, unit in enumerate(units):
        graphs = []
        if deferred:
            graphs = [forward(policy) for _, forward in unit]
            with torch.no_grad():
                kl = [(g - forward(reference)).sum(-1) for g, (_, forward) in zip(graphs, unit, strict=True)]
            rows = [i for part, _ in unit for i in part]
            order = np.argsort(rows, kind="stable")
            here = [rows[i] for i in order]
            advantage[here] = advantages(here, torch.cat(kl)[torch.from_numpy(order).to(policy.device)])
        for m, (rows, forward) in enumerate(unit):
            logp = graphs[m] if deferred else forward(policy)
            engine.backward(-(logp.sum(-1) * advantage[rows].to(logp)).sum() / count, last=(u, m) == last)
            if deferred:
                graphs[m] = None
    engine.step()


def rung_side(spec: dict[str, Any], channel: Channel) -> None:
    """One rung as a side; spec as for `peers.our_side`, with rung, batch (rows) and budget (tokens)."""
    data = Recorded.load(Path(spec["data"]))
    hyper = HYPER | spec.get("hyper", {})
    policy, reference = load_models(spec)
    engine, _ = make_engine(spec, policy, hyper)
    record_first(engine, spec)
    channel.ready(spec["device"] == "cuda")
    with packed(policy, reference) if spec["rung"] in PACKED else nullcontext():
        while channel.wait():
            update(spec["rung"], data, engine, reference, hyper["beta"], spec["batch"], spec["budget"])
            channel.done()
