"""A model's plain forward pass: the measure of everything that computes the same numbers in another way.

Plain is one sequence at a time, without padding, cache or packing, by the model's own code with its own attention in
single operations (`eager`): transformers' other attentions leave out what they do not have, such as the soft cap of
Gemma 2. A small copy of a model has the model's weights and every kind of its layers, but few of them, so that a
comparison takes seconds for a model of any size.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from srt.rollout.kv_cache import OWN

WINDOW = 8  # of a small copy's sliding windows, so that short rows are longer
LEAST_LAYERS = 2  # of a small copy: what a layer passes on has to reach another one


def small_copy(model: Any, dtype: torch.dtype) -> Any:
    """A copy of `model` in `dtype` with one layer of each kind, at least two, and windows of at most WINDOW tokens.

    A kind is a combination of values in the lists that the config has per layer (`layer_types`, `no_rope_layers`). The
    random state of the process stays as it is.
    """
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(model.config)
    count = config.num_hidden_layers
    per_layer = {k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == count}
    kinds = [repr([v[i] for v in per_layer.values()]) for i in range(count)]
    first = [i for i in range(count) if kinds[i] not in kinds[:i]]
    others = [i for i in range(count) if i not in first]
    chosen = sorted(first + others[: max(0, LEAST_LAYERS - len(first))])
    config.num_hidden_layers = len(chosen)
    for key, values in per_layer.items():
        setattr(config, key, [values[i] for i in chosen])
    if getattr(config, "sliding_window", None):
        config.sliding_window = min(WINDOW, config.sliding_window)
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device), no_init_weights():
        small = type(model)._from_config(config, dtype=dtype)
    place = {str(old): str(new) for new, old in enumerate(chosen)}
    state = {}
    for name, tensor in model.state_dict().items():
        layer = re.search(r"\.(\d+)\.", name)
        if layer is None:
            state[name] = tensor
        elif layer[1] in place:
            state[f"{name[: layer.start(1)]}{place[layer[1]]}{name[layer.end(1) :]}"] = tensor
    small.tie_weights()
    small.load_state_dict(state)
    return small.eval()


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Let a model use the attention `name` within the `with` block."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def plain_distribution(
    model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float, kind: str = OWN
) -> Tensor:
    """The log-probs [T, V], float32 or wider, of every token at the places of a response of T tokens; with gradient.

    Args:
        kind: transformers' name of the attention.
    """
    ids = torch.tensor([[*prompt, *(int(t) for t in response)]], device=model.device)
    with attention(model, kind):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(response) + 1).logits[0, :-1]
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
