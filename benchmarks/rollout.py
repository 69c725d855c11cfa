"""Sampling n responses per prompt: our transformers engine, and vLLM where it is installed, against `model.generate`.

    python benchmarks/rollout.py [--threads 2] [--rounds 20]
    python benchmarks/rollout.py --device cuda      Qwen2.5-1.5B shapes, bfloat16; without vLLM where there is none

Two tracks. `forced`: every response has exactly `limit` tokens and end tokens are ignored, so all sides do the same
work; the last line has this ratio. `stopping`: the model's end token comes with the same chance at every position
(`peers.stop_at_rate`), 5 % of the responses reach the limit; rates count tokens up to the end token. `generate` gets
`num_return_sequences` and the number of prompts per call at which it is fastest. Before anything is timed, the
log-probabilities of sampled tokens are compared with those of one plain forward pass of the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]

import measure  # noqa: E402

AGREE = {"float32": 1e-4, "bfloat16": 0.2}  # largest difference of a token's log-prob, nats
Samples = list[tuple[int, Any, Any]]  # prompt, token ids, log-probs (None: not asked for)


def checked(model: Any, prompts: list[list[int]], samples: Samples, ends: list[int]) -> float:
    """Largest difference between a side's log-probs and those of a plain forward pass over prompt and response."""
    import torch

    worst = 0.0
    for prompt, ids, logprobs in samples:
        assert len(ids) > 0 and not any(int(t) in ends for t in ids[:-1])
        row = torch.tensor([[*prompts[prompt], *map(int, ids)]], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=row, use_cache=False).logits[0, len(prompts[prompt]) - 1 : -1].float()
        truth = logits.log_softmax(-1).gather(-1, row[0, len(prompts[prompt]) :, None])[:, 0]
        worst = max(worst, float((truth.cpu() - torch.as_tensor(logprobs)).abs().max()))
    return worst


def by_generate(model: Any, data: Any, spec: dict[str, Any], ends: list[int]) -> Callable[[int, bool], Samples]:
    """`model.generate` with num_return_sequences, `rows` left-padded prompts per call."""
    import torch
    from peers import PAD

    model.generation_config.eos_token_id = ends or None
    kwargs: dict[str, Any] = {"max_new_tokens": spec["limit"], "do_sample": True, "top_k": 0, "top_p": 1.0}
    kwargs |= {"temperature": 1.0, "pad_token_id": PAD, "num_return_sequences": data.n, "return_dict_in_generate": True}

    def draw(step: int, scored: bool) -> Samples:
        torch.manual_seed(step)
        samples: Samples = []
        for start in range(0, len(data.prompts), spec["rows"]):
            part = data.prompts[start : start + spec["rows"]]
            width = max(map(len, part))
            ids = torch.tensor([[PAD] * (width - len(p)) + p for p in part], device=model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=model.device)
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, output_logits=scored, **kwargs)
            new = out.sequences[:, width:]
            ended = torch.isin(new, torch.tensor(ends, device=new.device, dtype=new.dtype))
            length = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, new.shape[1])
            logprobs = None
            if scored:
                logits = torch.stack(out.logits, dim=1).float().log_softmax(-1)
                logprobs = logits.gather(-1, new[..., None])[..., 0].cpu()
            new, length = new.cpu(), length.tolist()
            samples += [
                (start + r // data.n, new[r, :t], None if logprobs is None else logprobs[r, :t])
                for r, t in enumerate(length)
            ]
        return samples

    return draw


def by_engine(engine: Any, data: Any, spec: dict[str, Any]) -> Callable[[int, bool], Samples]:
    """One of our engines, which always returns log-probs."""
    from srt.rollout import Sampling

    def draw(step: int, scored: bool) -> Samples:
        sampling = Sampling(n=data.n, max_new_tokens=spec["limit"], seed=step)
        groups = engine.generate(data.prompts, [str(g) for g in range(len(data.prompts))], sampling)
        return [(g, r.token_ids, r.logprobs) for g, group in enumerate(groups) for r in group]

    return draw


def sampler(spec: dict[str, Any], channel: measure.Channel) -> None:
    """A side; spec: engine (`generate`, `hf`, `vllm`), policy or shape, data, limit, rows, stopping."""
    import torch
    from peers import EOS, Recorded, load_models

    cuda = spec["device"] == "cuda"
    data = Recorded.load(Path(spec["data"]))
    ends = [EOS] if spec["stopping"] else []
    model = load_models(spec)[0].eval()
    if spec["engine"] == "generate":
        draw = by_generate(model, data, spec, ends)
    elif spec["engine"] == "hf":
        from srt.rollout.transformers_engine import TransformersEngine

        draw = by_engine(TransformersEngine(model, ends or [model.config.vocab_size]), data, spec)
    else:
        from srt.rollout.vllm_engine import VllmEngine

        longest = max(map(len, data.prompts)) + spec["limit"]
        draw = by_engine(VllmEngine(spec["policy"], ends, max_model_len=longest, dtype=spec["dtype"]), data, spec)
    torch.set_num_threads(spec["threads"])
    worst = checked(model, data.prompts, draw(0, True)[:: data.n], ends)
    if worst > AGREE[spec["dtype"]]:
        raise SystemExit(f"{spec['engine']}: log-probs differ from a plain forward pass by {worst:.1e}")
    channel.ready(cuda, differs_by=worst)
    step = 1
    while channel.wait():
        samples = draw(step, False)
        tokens = sum(len(ids) for _, ids, _ in samples)
        assert len(samples) == len(data.responses) and (spec["stopping"] or tokens == len(samples) * spec["limit"])
        channel.done(new_tokens=tokens)
        step += 1


def track(stopping: bool, common: dict[str, Any], engines: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Times of all engines on one track."""
    specs = {e: {"side": "sampler", "engine": e, "rows": args.prompts, "stopping": stopping, **common} for e in engines}
    sweep = {}
    if not args.quick:
        clock = measure.sweep_clock()
        with measure.Side(HERE, args.threads, args.device) as side:
            for rows in (r for r in (1, 2, 4, 8, 16) if r <= args.prompts):
                side.load(**{**specs["generate"], "rows": rows})
                sweep[rows] = round(max(a["new_tokens"] / a[clock] for a in [side.step() for _ in range(4)][1:]))
        specs["generate"]["rows"] = max(sweep, key=lambda r: sweep[r])
    sides = {e: measure.Side(HERE, args.threads, args.device) for e in engines}
    try:
        agree = {e: side.load(**specs[e])["differs_by"] for e, side in sides.items()}
        answers = measure.interleave(sides, args.warmups, args.rounds)
    finally:
        for side in sides.values():
            side.close()
    found: dict[str, Any] = {}
    for e, each in answers.items():
        found[e] = {**measure.sampled(each, args.prompts * args.n), "logprobs_differ_by": agree[e]}
        print(f"  {e}: {found[e]}", flush=True)
    base = found["generate"]
    return {
        "prompts_a_call_of_generate": specs["generate"]["rows"],
        "sweep_tokens_per_s": {str(k): v for k, v in sweep.items()},
        "sides": found,
        **{
            f"ratio_{clock}": {e: round(f[key] / base[key], 3) for e, f in found.items() if e != "generate"}
            for clock, key in (("wall", "new_tokens_per_s"), ("cpu", "new_tokens_per_cpu_s"))
        },
    }


def serve() -> None:
    """Be a side: see measure.py."""
    measure.serve({"sampler": sampler})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", help="tiny-vllm (default on a CPU), tiny, 3m, 1.5b (default on a GPU)")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--n", type=int, default=32, help="responses per prompt")
    parser.add_argument("--limit", type=int, help="most tokens of a response; default 128, on a GPU 512")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmups", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one small round: checks, measures nothing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/rollout.json, or rollout_cuda.json")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import peers

    from srt.common.io import write_json

    args.shape = args.shape or ("1.5b" if cuda else "tiny-vllm")
    args.limit = args.limit or (512 if cuda else 128)
    if args.quick:
        args.prompts, args.n, args.limit, args.warmups, args.rounds = 2, 4, 12, 1, 1
    engines = ["generate", "hf"]
    if not args.no_vllm and importlib.util.find_spec("vllm") is not None:
        engines.append("vllm")
    results: dict[str, Any] = {}
    for name in ("forced", "stopping"):
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rate = 1 - 0.05 ** (1 / args.limit)  # 5 % of geometric lengths reach the limit
            models = peers.save_models(Path(folder), args.shape, rate=rate)
            data = peers.record(args.shape, args.prompts, args.n, (16, 64), args.limit, 1.0)
            data.save(Path(folder) / "data.npz")
            dtype = "bfloat16" if cuda else "float32"
            common = {"data": str(Path(folder) / "data.npz"), "limit": args.limit, "dtype": dtype, **models}
            results[name] = track(name == "stopping", common, engines, args)
    settings = {k: getattr(args, k) for k in ("shape", "prompts", "n", "limit", "warmups", "rounds")}
    if args.out or not args.quick:
        out = args.out or measure.RESULTS / f"rollout{'_cuda' if cuda else ''}.json"
        write_json(out, {"machine": measure.machine(args.threads, args.device), **settings, **results})
    for name, result in results.items():
        print(f"{name}: by wall time {result['ratio_wall']}, by CPU time {result['ratio_cpu']} (ours over generate)")
    print(f"ratio: {results['forced']['ratio_wall']['hf']:.2f}")


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
