"""A whole training step, sampling included: TRL's RLOOTrainer in its own `train()` loop against our engine and update.

    python benchmarks/step.py [--threads 2] [--rounds 20]

Both sample n responses for the same prompts from the same weights, decode them, give them the same reward (a rule on
the text that costs next to nothing), and take one optimizer step with the same objective (preset `trl`, KL to the same
reference). TRL generates with `model.generate`, ours with the transformers engine. The length law is a property of the
model, so no code of either side is touched: its end token has about the same chance at every position
(`peers.stop_at_rate`), so lengths are geometric with 5 % at the limit. The two draw different samples; rates are tokens
of all rounds over their time. TRL gets its best batch size and its best way to generate among those that run here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]

import measure  # noqa: E402

MISMATCH = 1e-4  # nats per token, mean difference of log-probs between our engine and our trainer, float32
# TRL's ways to generate without vLLM, which it cannot use on a CPU
WAYS: dict[str, dict[str, Any]] = {
    "generate": {},
    "static cache": {"cache_implementation": "static"},
    "continuous batching": {  # its default share of memory, a half, would take 12 GiB of a small machine
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"max_memory_percent": 0.05},
    },
}


def our_step(spec: dict[str, Any], channel: measure.Channel) -> None:
    """Our side: rollouts, decoding, rewards, update."""
    import numpy as np
    from peers import EOS, HYPER, Recorded, load_models, make_engine, text_rewards, train_config
    from transformers import AutoTokenizer

    from srt.rollout import Sampling
    from srt.rollout.transformers_engine import TransformersEngine
    from srt.training.batches import Batch
    from srt.training.objectives import policy_update
    from srt.training.reference import Reference

    data = Recorded.load(Path(spec["data"]))
    tokenizer = AutoTokenizer.from_pretrained(spec["policy"])
    policy, reference = load_models(spec)
    engine, world = make_engine(spec, policy, HYPER)
    rollouts = TransformersEngine(engine.model, [EOS])
    update = policy_update(engine, Reference(reference), train_config(HYPER, micro_batch_tokens=spec["budget"]), world)
    prompts = [data.prompts[g] for g in data.group]
    channel.ready()
    step = 0
    while channel.wait():
        sampling = Sampling(n=data.n, max_new_tokens=spec["limit"], seed=spec.get("seed", 0))
        rollouts.update_weights(engine.weights())
        keys = [f"{step}/{g}" for g in range(len(data.prompts))]
        flat = [r for group in rollouts.generate(data.prompts, keys, sampling) for r in group]
        texts = tokenizer.batch_decode([r.token_ids for r in flat], skip_special_tokens=True)
        batch = Batch(
            prompts=prompts, responses=[r.token_ids for r in flat], group=data.group.tolist(),
            rewards=np.array(text_rewards(texts)), labelled=np.ones(len(flat), dtype=bool),
            rollout_logprobs=[r.logprobs for r in flat],
        )  # fmt: skip
        found = update.run(batch)
        channel.done(new_tokens=sum(len(r.token_ids) for r in flat), mismatch=found["mismatch_mean"])
        step += 1


def serve() -> None:
    """Be a side: see measure.py."""
    from peers import SIDES

    measure.serve({**SIDES, "step": our_step})


def fastest(args: argparse.Namespace, specs: dict[str, dict[str, Any]], rounds: int) -> tuple[str, dict[str, Any]]:
    """The spec with the highest rate of new tokens in its best round, and what all of them reached."""
    rates: dict[str, Any] = {}
    clock = measure.sweep_clock()
    side = measure.Side(HERE, args.threads)
    for name, spec in specs.items():
        try:
            side.load(**spec)
            answers = [side.step() for _ in range(rounds + 1)][1:]
        except RuntimeError as error:  # this way does not run on this machine: say why and continue
            rates[name] = "does not run: " + str(error).strip().splitlines()[-1][:200]
            side.close()
            side = measure.Side(HERE, args.threads)
            continue
        rates[name] = round(max(a["new_tokens"] / a[clock] for a in answers))
    side.close()
    best = max((n for n in rates if not isinstance(rates[n], str)), key=lambda n: rates[n])
    print(f"  fastest: {best}; tokens/s {rates}", flush=True)
    return best, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", help="tiny or 3m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--n", type=int, default=32, help="responses per prompt")
    parser.add_argument("--limit", type=int, default=128, help="most tokens of a response")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmups", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-trl", action="store_true", help="ours alone; no ratio")
    parser.add_argument("--quick", action="store_true", help="one small round: checks, measures nothing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/step.json")
    args = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import peers

    from srt.common.io import write_json

    if args.quick:
        args.prompts, args.n, args.limit, args.warmups, args.rounds = 2, 4, 24, 1, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rate = 1 - 0.05 ** (1 / args.limit)  # 5 % of geometric lengths reach the limit
        models = peers.save_models(folder, args.shape, rate=rate)
        data = peers.record(args.shape, args.prompts, args.n, (16, 64), args.limit, 1.0)
        data.save(folder / "data.npz")
        common = {"data": str(folder / "data.npz"), "limit": args.limit, **models}
        count = args.prompts * args.n
        sweeps: dict[str, Any] = {}
        specs: dict[str, dict[str, Any]] = {}
        if not args.no_trl:
            batch, way = count, "generate"
            if not args.quick:
                sizes = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) if count % b == 0]
                each = {str(b): {"side": "trl", "batch": b, **common} for b in sizes}
                best, sweeps["rows"] = fastest(args, each, 4)
                batch = int(best)
                each = {w: {"side": "trl", "batch": batch, "trl": kwargs, **common} for w, kwargs in WAYS.items()}
                way, sweeps["way"] = fastest(args, each, 4)
            specs["trl"] = {"side": "trl", "batch": batch, "trl": WAYS[way], **common}
        budgets = [4096] if args.quick else [1024, 2048, 4096, 8192, 16384]
        each = {str(b): {"side": "step", "budget": b, **common} for b in budgets}
        best, sweeps["budget"] = fastest(args, each, 4)
        specs["ours"] = each[best]
        sides = {n: measure.Side(HERE, args.threads) for n in specs}
        try:
            for n, side in sides.items():
                side.load(**specs[n])
            answers = measure.interleave(sides, args.warmups, args.rounds)
        finally:
            for side in sides.values():
                side.close()
    mismatch = max(a["mismatch"] for a in answers["ours"])
    if not mismatch <= MISMATCH:
        raise SystemExit(
            f"log-probs of our engine and trainer differ by {mismatch:.1e} nats per token: nothing to compare"
        )
    found: dict[str, Any] = {}
    for n, each_side in answers.items():
        found[n] = measure.sampled(each_side, count)
        print(f"  {n}: {found[n]}", flush=True)
    result: dict[str, Any] = {
        "machine": measure.machine(args.threads, "cpu"), "warmups": args.warmups, "rounds": args.rounds,
        "shape": args.shape, "prompts": args.prompts, "n": args.n, "limit": args.limit, "sweeps_tokens_per_s": sweeps,
        "engine_against_trainer_nats": mismatch, "sides": found, "specs": {n: s.get("trl") for n, s in specs.items()},
    }  # fmt: skip
    if not args.no_trl:
        ours, theirs = found["ours"], found["trl"]
        result |= {
            "ratio": round(ours["new_tokens_per_s"] / theirs["new_tokens_per_s"], 3),
            "ratio_cpu": round(ours["new_tokens_per_cpu_s"] / theirs["new_tokens_per_cpu_s"], 3),
            "ratio_wall_of_rounds": measure.ratio(answers["trl"], answers["ours"]),
            "ratio_memory": round(theirs["peak_mib_above_start"] / max(ours["peak_mib_above_start"], 0.1), 2),
        }
        print(f"  by CPU time {result['ratio_cpu']}, memory {result['ratio_memory']} (theirs over ours)")
    if args.out or not args.quick:
        write_json(args.out or measure.RESULTS / "step.json", result)
    if not args.no_trl:
        print(f"ratio: {result['ratio']:.2f}")


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
