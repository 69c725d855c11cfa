"""Score rollouts with the library and with a plain loop over Math-Verify, in one run on one machine.

    python benchmarks/scoring.py [--data DIR] [--problems 500] [--samples 32] [--workers 2] [--fast]

Three parts report the answers per second of both paths and a `ratio`: (a) real rollouts if the folder has them (8
samples per problem, and models as voters), (b) answers that are all distinct, (c) groups of 32 samples with realistic
repetition. Both paths answer the same question: is the boxed answer of a response correct? In (a) and (c) the library
also finds the majority. The loop grades each response against the reference with math_verify.parse and verify, the
usual reward function. Verdicts are compared one by one; every difference is printed with its reason and counted. The
last line is the ratio of (c).
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from srt.answers import Grader, extract
from srt.answers.canonical import parse as form_of
from srt.common.io import read_parquet

FILLER = "We compute step by step. Let $x$ be the unknown; then the sum of the terms gives the stated value. "


def plain_loop(groups: list[list[str]], labels: list[str]) -> list[list[bool]]:
    """The usual reward function: Math-Verify on one response after another."""
    from math_verify import LatexExtractionConfig, parse, verify

    verdicts = []
    for group, label in zip(groups, labels, strict=True):
        gold = parse(f"\\boxed{{{label}}}", [LatexExtractionConfig()])
        verdicts.append([bool(verify(gold, parse(text))) for text in group])
    return verdicts


def box(answer: str, rng: random.Random) -> str:
    return FILLER * rng.randint(3, 12) + f"Therefore the answer is $\\boxed{{{answer}}}$."


def reference(rng: random.Random, i: int) -> str:
    """References with the mix of MATH: two in three integers, else fractions, roots, tuples, polynomials."""
    a, b, c = rng.randint(2, 40), rng.randint(3, 29), rng.randint(2, 9)
    kinds = [
        f"\\frac{{{a}}}{{{b}}}", f"{a}\\sqrt{{{b}}}", f"({a}, {-b})", f"x^2+{a}x+{b}", f"{a}+{c}\\sqrt{{{b}}}",
        f"\\frac{{{a}\\pi}}{{{c}}}", f"{a}.{b}", f"{c}^{{{b % 7 + 2}}}",
    ]  # fmt: skip
    return str(rng.randint(0, 999)) if i % 3 else kinds[rng.randrange(len(kinds))]


def respelled(answer: str, rng: random.Random) -> str:
    """The same answer as another sample might write it."""
    if answer.startswith("x^2+") and rng.random() < 0.3:
        return "x^2+" + "+".join(reversed(answer[4:].split("+")))
    forms = [answer, answer, answer, f" {answer}", answer.replace("\\frac", "\\dfrac"), answer.replace(", ", ",")]
    return rng.choice(forms)


def wrong(answer: str, rng: random.Random) -> str:
    number = form_of(answer).value
    if number is not None:
        return str(int(number) + rng.choice([-7, -2, -1, 1, 2, 3, 10, 100]))
    if answer.startswith("("):
        return f"({rng.randint(0, 9)}, {rng.randint(-9, 9)})"
    return rng.choice([f"{answer}+1", f"2({answer})", str(rng.randint(1, 99))])


def grouped(problems: int, samples: int, seed: int = 0) -> tuple[list[list[str]], list[str]]:
    """Groups as in RL: a pass rate per problem, wrong answers concentrated on a few values, 4 % without a box."""
    rng = random.Random(seed)
    groups, labels = [], []
    for i in range(problems):
        label = reference(rng, i)
        rate = rng.betavariate(0.8, 0.8)
        pool = [wrong(label, rng) for _ in range(6)]
        group = []
        for _ in range(samples):
            draw = rng.random()
            if draw < 0.04:
                group.append(FILLER * 4)
            elif rng.random() < rate:
                group.append(box(respelled(label, rng), rng))
            else:
                group.append(box(pool[min(int(rng.expovariate(0.6)), 5)], rng))
        groups.append(group)
        labels.append(label)
    return groups, labels


def distinct(count: int, seed: int = 1) -> tuple[list[list[str]], list[str]]:
    """One response per problem and no answer twice, so that nothing can be reused."""
    rng = random.Random(seed)
    labels = [str(i) if i % 3 else reference(rng, 0).replace("x", rng.choice("xyzt")) for i in range(count)]
    groups = [
        [box(label if rng.random() < 0.5 else wrong(label, rng), rng) + f" ({i})"] for i, label in enumerate(labels)
    ]
    return groups, labels


def why(text: str, label: str) -> str:
    """The reason for a difference, by what kind of answer it is about."""
    found = extract(text)
    if found.answer is None:
        return f"{found.reason}: ours has no answer, Math-Verify reads a formula or number from the text"
    answer, gold = form_of(found.answer), form_of(label)
    if answer.text == gold.text:
        return "ours: the same canonical form"
    if {answer.kind, gold.kind} & {"tuple", "list", "union"}:
        return "ours: structures compare by kind, brackets and items"
    return "ours: exact values; Math-Verify: its own parse"


def part(name: str, groups: list[list[str]], labels: list[str], workers: int, votes: bool) -> float:
    """Time both paths, list the differences, print and return the ratio."""
    total = sum(map(len, groups))
    with Grader(workers=workers) as grader:
        grader.equal(
            [("\\sqrt{8}", "2\\sqrt{2}"), *((f"|x|+{i}", f"{i}+\\sqrt{{x^2}}") for i in range(1, 33))]
        )  # mpmath and the comparison processes start warm as well
        before = grader.counters
        start = time.perf_counter()
        if votes:
            grader.vote(groups)
        ours = [[v.correct for v in group] for group in grader.verify(groups, labels)]
        our_seconds = time.perf_counter() - start
        counters = {k: v - before[k] for k, v in grader.counters.items() if v > before[k]}
    start = time.perf_counter()
    theirs = plain_loop(groups, labels)
    their_seconds = time.perf_counter() - start
    differences: dict[str, list[str]] = {}
    for group, label, a, b in zip(groups, labels, ours, theirs, strict=True):
        for text, x, y in zip(group, a, b, strict=True):
            if x != y:
                line = f"answer {str(extract(text).answer)[:50]!r}, reference {label[:40]!r}: ours {x}, Math-Verify {y}"
                differences.setdefault(why(text, label), []).append(line)
    count = sum(map(len, differences.values()))
    print(f"{name}: {total} answers; {count} verdicts differ ({1 - count / total:.3%} equal); {counters}")
    for reason, lines in sorted(differences.items()):
        print(f"  {len(lines)} x {reason}")
        for line in sorted(set(lines)):
            print(f"    {lines.count(line)} x {line}")
    ratio = their_seconds / our_seconds
    print(
        f"  ours {total / our_seconds:,.0f} answers/s, loop {total / their_seconds:,.0f} answers/s, "
        f"{name} ratio: {ratio:.1f}"
    )
    return ratio


def flat_memory(problems: int, samples: int, workers: int) -> None:
    """Peak memory after N and after 4 N groups graded in buffers."""
    with Grader(workers=workers) as grader:
        peaks = []
        for block in range(4):
            groups, labels = grouped(problems, samples, seed=100 + block)
            grader.vote(groups)
            grader.verify(groups, labels)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(f"memory: peak {peaks[0]} MiB after {problems} groups, {peaks[-1]} MiB after {4 * problems}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="a tenth of the problems")
    args = parser.parse_args()
    problems = max(1, args.problems // 10) if args.fast else args.problems
    logging.disable(logging.CRITICAL)
    import math_verify  # both paths start warm

    math_verify.parse("$1$")
    flat_memory(problems, args.samples, args.workers)
    real = args.data / "rollouts_qwen_math50x8.parquet"
    if real.exists():
        frame = read_parquet(real).to_pandas()
        frame = frame[frame["response"].str.contains("boxed", regex=False)]
        by_problem = [(list(f["response"]), f["gold"].iloc[0]) for _, f in frame.groupby("problem_id", sort=False)]
        part(
            "real, 8 samples", [g for g, _ in by_problem], [label for _, label in by_problem], args.workers, votes=True
        )
    else:
        print("real rollouts are absent: generated ones only")
    voters = args.data / "rollouts_skythought.parquet"
    if voters.exists():  # one response per model: the models are the voters of a problem
        frame = read_parquet(voters).to_pandas()
        frame = frame[frame["response"].str.contains("boxed", regex=False) & (frame["response"].str.len() < 20000)]
        by_problem = [(list(f["response"]), f["gold"].iloc[0]) for _, f in frame.groupby("problem_id", sort=False)]
        part(
            "real, models as voters",
            [g for g, _ in by_problem],
            [label for _, label in by_problem],
            args.workers,
            votes=True,
        )
    part("distinct", *distinct(problems * 4), args.workers, votes=False)
    ratio = part("grouped", *grouped(problems, args.samples), args.workers, votes=True)
    print(f"ratio: {ratio:.1f}")


if __name__ == "__main__":
    main()
