"""One update on the same recorded completions by TRL's RLOOTrainer and by ours, with equal gradients.

    python benchmarks/update.py                      all cases on a CPU, about 20 minutes on two quiet cores
    python benchmarks/update.py --cases tiny-4x32    one case
    python benchmarks/update.py --device cuda        Qwen2.5-1.5B shapes on one GPU, no TRL, about 10 minutes

First the gradients of the first step are compared: relative difference at most 1e-5 in float32. Then each side runs in
a process of its own, the rounds interleaved: TRL, ours, a matrix product, and the rungs between TRL and ours
(ladder.py), each with one more technique. TRL gets the per_device_train_batch_size at which it is fastest, without
gradient checkpointing; ours the token budget at which it is fastest. See docs/measured.md for what the numbers mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]

import measure  # noqa: E402

TOLERANCE = 1e-5  # relative difference of gradients, float32
COSINE = 0.999  # of gradients, bfloat16


@dataclass(frozen=True)
class Case:
    """Prompts x responses of a model shape; lengths as in `peers.record`.

    `budgets` are the token budgets tried for ours, `rows` the batch sizes tried for TRL.
    """

    shape: str
    prompts: int
    n: int
    prompt_tokens: tuple[int, int]
    limit: int
    sigma: float
    budgets: tuple[int, ...]
    ladder: bool = False
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    sweep: int = 8  # rounds for each size that is tried


CASES = {
    "tiny-4x32": Case("tiny", 4, 32, (16, 64), 128, 1.0, (1024, 2048, 4096, 8192, 16384), ladder=True),
    "tiny-4x8": Case("tiny", 4, 8, (16, 64), 128, 1.0, (1024, 2048, 4096)),
    "tiny-4x32-even": Case("tiny", 4, 32, (16, 64), 128, 0.43, (1024, 2048, 4096, 8192, 16384)),
    "3m-4x32": Case("3m", 4, 32, (16, 64), 128, 1.0, (1024, 2048, 4096, 8192)),
    # SmolLM2-135M on short sums after two worked examples, as config/smollm2.yaml asks
    "135m-2x16": Case("135m", 2, 16, (90, 110), 24, 0.3, (1024, 4096), rows=(8, 16, 32), sweep=3),
}
CUDA_CASES = {
    f"1.5b-4x32-{budget // 1024}k": Case("1.5b", 4, 32, (64, 256), 3072, 1.0, (budget,), ladder=budget == 16384)
    for budget in (8192, 16384, 32768)
}
QUICK = Case("tiny", 2, 4, (4, 9), 24, 1.0, (256,))


def serve() -> None:
    """Be a side: see measure.py."""
    from ladder import rung_side
    from peers import SIDES

    measure.serve({**SIDES, "rung": rung_side})


@contextmanager
def opened(names: list[str], args: argparse.Namespace) -> Iterator[dict[str, measure.Side]]:
    """One process per name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(measure.Side(HERE, args.threads, args.device)) for name in names}


class Bench:
    """One case: its files, the specs of its sides, and what was found."""

    def __init__(self, case: Case, folder: Path, args: argparse.Namespace) -> None:
        import peers

        self.case, self.args, self.folder = case, args, folder
        self.data = peers.record(case.shape, case.prompts, case.n, case.prompt_tokens, case.limit, case.sigma)
        self.data.save(folder / "data.npz")
        self.common: dict[str, Any] = {"data": str(folder / "data.npz")}
        if args.device == "cpu":
            self.common |= peers.save_models(folder, case.shape)
        else:
            self.common |= {"shape": case.shape, "dtype": "bfloat16", "plain": True, "checkpointing": True}
        self.rows, self.budget = 1, case.budgets[0]
        self.clock = measure.sweep_clock()

    def spec(self, name: str, **changes: Any) -> dict[str, Any]:
        """What a side is told: `trl`, `ours`, `matmul` or a rung of the ladder."""
        if name == "matmul":
            cuda = self.args.device == "cuda"
            return {"side": "matmul", "seconds": 0.3, "dtype": "bfloat16" if cuda else "float32"}
        spec = {"rows": self.rows, "budget": self.budget, **self.common, **changes}
        spec["batch"] = spec.pop("rows")
        if name == "trl":
            return {"side": "trl", **spec}
        if name == "ours":
            return {"side": "ours", **spec, "train": {"micro_batch_tokens": spec["budget"]}}
        return {"side": "rung", "rung": name, **spec}

    def equality(self, names: list[str]) -> dict[str, float]:
        """Gradients of the first step of each side against those of the first name; raises where they differ."""
        import torch
        from peers import difference
        from safetensors.torch import load_file

        found: dict[str, float] = {}
        paths = {name: self.folder / f"{name}.safetensors" for name in names}
        rows = max(1, len(self.data.responses) // 8)
        for part in ([n for n in names if n == "trl"], [n for n in names if n != "trl"]):
            if part:
                with measure.Side(HERE, self.args.threads, self.args.device) as side:
                    for name in part:  # clipping would scale the gradients that TRL shows: none here
                        spec = self.spec(name, rows=rows, gradients=str(paths[name]), hyper={"grad_clip": 1e9})
                        side.load(**spec)
                        side.step()
        truth = load_file(paths[names[0]])
        for name in names[1:]:
            gradients = load_file(paths[name])
            if self.args.device == "cuda":
                a, b = (torch.cat([g[n].flatten() for n in sorted(truth)]) for g in (gradients, truth))
                found[name] = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
                equal = found[name] > COSINE
            else:
                found[name] = difference(gradients, truth)[0]
                equal = found[name] <= TOLERANCE
            if not equal:
                raise SystemExit(f"{name}: gradients differ from {names[0]}'s: {found[name]:.2e}; nothing was timed")
            print(f"  gradients of {name} against {names[0]}: {found[name]:.1e}", flush=True)
        return found

    def best(self, name: str, key: str, values: list[int]) -> dict[str, float]:
        """Fewest seconds of a round for each value of `key`; the best one is used from here on."""
        if len(values) == 1:
            setattr(self, key, values[0])
            return {}
        seconds = {}
        with measure.Side(HERE, self.args.threads, self.args.device) as side:
            for value in values:
                side.load(**self.spec(name, **{key: value}))
                times = [side.step()[self.clock] for _ in range(self.case.sweep)]
                seconds[value] = min(times[self.case.sweep // 4 :])  # the minimum: a busy moment must not choose
        setattr(self, key, min(seconds, key=lambda v: seconds[v]))
        print(f"  {name}: fastest with {key} {getattr(self, key)} of {values}", flush=True)
        return {str(k): v for k, v in seconds.items()}

    def timed(self, names: list[str]) -> dict[str, list[dict[str, Any]]]:
        """All sides interleaved on a CPU; one after the other on a GPU, whose memory they would share."""
        warmups, rounds = self.args.warmups, self.args.rounds
        if self.args.device == "cpu":
            with opened(names, self.args) as sides:
                for name, side in sides.items():
                    side.load(**self.spec(name))
                return measure.interleave(sides, warmups, rounds)
        answers = {}
        for name in names:
            with opened([name], self.args) as sides:
                sides[name].load(**self.spec(name))
                answers |= measure.interleave(sides, warmups, rounds)
        return answers

    def run(self) -> dict[str, Any]:
        """Equality, best sizes, times."""
        from ladder import RUNGS
        from peers import SHAPES, build, flops

        case, data, args = self.case, self.data, self.args
        peer = [] if args.no_trl else ["trl"]
        rungs = list(RUNGS) if case.ladder and not args.no_ladder else ["padded"] if args.no_trl else []
        equal = self.equality([*peer, *rungs, "ours"] if args.device == "cpu" else ["padded", "ours"])
        count = len(data.responses)
        rows = [b for b in case.rows if count % b == 0] if args.device == "cpu" else [8]
        sweeps = {}
        if args.quick:
            self.rows = count
        else:
            sweeps["rows"] = self.best(peer[0] if peer else "padded", "rows", rows)
        sweeps["budget"] = self.best("ours", "budget", list(case.budgets))
        answers = self.timed([*peer, "ours", "matmul", *rungs])

        rate = measure.spread([a["flops"] for a in answers.pop("matmul")], 0)["median"]
        if case.shape == "1.5b":
            from transformers import Qwen2Config

            config = Qwen2Config(**SHAPES[case.shape], tie_word_embeddings=True)
        else:
            config = build(case.shape).config
        needed = flops(config, data)
        padded = count * (max(map(len, data.prompts)) + data.longest)
        sides: dict[str, Any] = {}
        for name, each in answers.items():
            found = measure.clocks(each)
            wall = found["wall_s"]["median"]
            processed = each[0].get("processed") or (padded if name in ("trl", "padded", "head") else None)
            found |= {
                "tokens_per_s": round(data.tokens / wall),
                "share_of_limit": round(needed["necessary"] / wall / rate, 4),
                "mfu": round(needed["model"] / wall / rate, 4),
                "tokens_processed": processed,
                "padding_efficiency": round(data.tokens / processed, 3) if processed else None,
            }
            sides[name] = found
        base = answers[peer[0] if peer else "padded"]
        ladder, before = [], base
        for name in [*(r for r in rungs if peer or r != "padded"), "ours"]:
            step = measure.ratio(before, answers[name])
            ladder.append(
                {"rung": name, "gain": step["median"], "of_all": measure.ratio(base, answers[name])["median"]}
            )
            before = answers[name]
        start = sides[peer[0] if peer else "padded"]["peak_mib_above_start"]
        return {
            "case": asdict(case),
            "real_tokens": data.tokens,
            "mean_response": round(sum(map(len, data.responses)) / count, 1),
            "at_limit": sum(len(r) == case.limit for r in data.responses) / count,
            "against": peer[0] if peer else "padded",
            "gradients_differ_by" if args.device == "cpu" else "gradients_cosine": equal,
            "rows_of_trl": self.rows,
            "budget_of_ours": self.budget,
            "sweeps_clock": self.clock,
            "sweeps_min_s": sweeps,
            "matmul_flops": rate,
            "update_flops": needed,
            "sides": sides,
            "ladder": ladder,
            "ratio_wall": measure.ratio(base, answers["ours"]),
            "ratio_cpu": measure.ratio(base, answers["ours"], "cpu"),
            "ratio_memory": round(start / max(sides["ours"]["peak_mib_above_start"], 0.1), 2),
        }


def report(name: str, result: dict[str, Any]) -> None:
    """What a case found, for a reader."""
    for side, found in result["sides"].items():
        print(
            f"  {side:9} {found['wall_s']['median']:9.4f} s (CPU {found['cpu_s']['median']:.4f})"
            f" {found['tokens_per_s']:9,} tokens/s  limit {found['share_of_limit']:.1%}"
            f"  memory +{found['peak_mib_above_start']:.0f} MiB"
        )
    for rung in result["ladder"]:
        print(f"  ladder: {rung['rung']:9} x{rung['gain']:.2f}, x{rung['of_all']:.2f} in all")
    print(
        f"{name}: {result['ratio_wall']['median']:.2f} by wall time, {result['ratio_cpu']['median']:.2f} by CPU time, "
        f"memory {result['ratio_memory']:.2f} (theirs over ours)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", nargs="*", metavar="CASE", help=f"of: {', '.join([*CASES, *CUDA_CASES])}")
    parser.add_argument("--no-trl", action="store_true", help="against the rung that is padded as TRL is")
    parser.add_argument("--no-ladder", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmups", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one small case, one round: checks, measures nothing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/update.json, or update_cuda.json")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from srt.common.io import write_json

    cases = {"quick": QUICK} if args.quick else CASES if args.device == "cpu" else CUDA_CASES
    if args.quick:
        args.warmups, args.rounds = 1, 1
    if args.device == "cuda":
        args.no_trl = True
    if unknown := set(args.cases or ()) - set(cases):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(cases)}")
    results = {}
    for name in args.cases or cases:
        print(f"{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = Bench(cases[name], Path(folder), args).run()
        report(name, results[name])
    kind = "" if args.device == "cpu" else "_cuda"
    out = args.out or None if args.quick else args.out or measure.RESULTS / f"update{kind}.json"
    if out:
        settings = {"warmups": args.warmups, "rounds": args.rounds}
        write_json(out, {"machine": measure.machine(args.threads, args.device), **settings, "cases": results})
    print(f"ratio: {next(iter(results.values()))['ratio_wall']['median']:.2f}")


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
