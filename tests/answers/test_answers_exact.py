"""Equivalence is exact: 3,000 pairs (SRT_LONG: 10,000), half of them near-misses, against values to 50 digits.

The generator has its own formulas, spelling and arithmetic (mpmath): it shares no code with the canonical form.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass

import mpmath
import pytest

from srt.answers import Grader

PAIRS, GROUPS = (10_000 if os.environ.get("SRT_LONG") else 3_000), 300
EXACT, ROUNDED = mpmath.mpf(10) ** -45, mpmath.mpf(10) ** -5  # relative differences that make two answers different
NOISE = mpmath.mpf(10) ** -48  # relative, in sums and functions


@pytest.fixture(scope="module")
def clean():
    with Grader(preset="clean", workers=2, timeout_s=2.0) as grader:
        yield grader


@dataclass(frozen=True)
class Node:
    """A formula: `kind` is an operation, "number" or "variable"; `leaf` its number or name."""

    kind: str
    parts: tuple[Node, ...] = ()
    leaf: object = None


def number(n: int) -> Node:
    return Node("number", leaf=n)


X, Y, PI = Node("variable", leaf="x"), Node("variable", leaf="y"), Node("pi")
FUNCTIONS = ("sqrt", "sin", "cos", "ln")


def formula(rng: random.Random, depth: int, variables: bool) -> Node:
    """A random formula, with closed forms only unless `variables`."""
    if depth == 0 or rng.random() < 0.15:
        if variables and rng.random() < 0.5:
            return rng.choice((X, Y))
        return PI if rng.random() < 0.1 else number(rng.randint(1, 20))
    kind = rng.choices(
        ("add", "subtract", "multiply", "divide", "power", "function", "factorial"), (5, 3, 5, 4, 2, 3, 1)
    )[0]
    if kind == "factorial":
        return Node("factorial", (number(rng.choice((3, 5, 40, 98, 400, 2004))),))
    if kind == "power":
        base = formula(rng, depth - 1, variables)
        tall = base.kind == "number" and rng.random() < 0.4
        return Node("power", (base,), rng.choice((98, 200, 2006)) if tall else rng.randint(2, 4))
    if kind == "function":
        return Node(rng.choice(FUNCTIONS), (formula(rng, depth - 1, variables),))
    return Node(kind, (formula(rng, depth - 1, variables), formula(rng, depth - 1, variables)))


def latex(node: Node) -> str:
    """One LaTeX spelling of a formula."""
    parts = [latex(part) for part in node.parts]
    if node.kind in ("number", "variable"):
        return str(node.leaf)
    if node.kind in FUNCTIONS:
        return f"\\sqrt{{{parts[0]}}}" if node.kind == "sqrt" else f"\\{node.kind}({parts[0]})"
    return {
        "pi": lambda: "\\pi",
        "factorial": lambda: f"({parts[0]})!" if node.parts[0].parts else f"{parts[0]}!",
        "power": lambda: f"({parts[0]})^{{{node.leaf}}}",
        "add": lambda: f"{parts[0]}+{parts[1]}",
        "subtract": lambda: f"{parts[0]}-({parts[1]})",
        "multiply": lambda: f"({parts[0]})\\cdot({parts[1]})",
        "divide": lambda: f"\\frac{{{parts[0]}}}{{{parts[1]}}}",
    }[node.kind]()


def value(node: Node, point: dict[str, mpmath.mpf]) -> mpmath.mpf:
    """The value at a point; ValueError where it is not a real number."""
    parts = [value(part, point) for part in node.parts]
    if node.kind == "number":
        return mpmath.mpf(node.leaf)
    if node.kind == "variable":
        return point[node.leaf]
    if node.kind == "pi":
        return +mpmath.pi
    if node.kind == "factorial":
        return mpmath.factorial(parts[0])
    if node.kind == "power":
        return parts[0] ** node.leaf
    if node.kind in FUNCTIONS:
        if (node.kind == "sqrt" and parts[0] < 0) or (node.kind == "ln" and parts[0] <= 0):
            raise ValueError
        if node.kind in ("sin", "cos") and abs(parts[0]) > 10**20:
            raise ValueError
        return unless_noise(getattr(mpmath, node.kind)(parts[0]), parts[0])
    if node.kind == "divide":
        if parts[1] == 0:
            raise ValueError
        return parts[0] / parts[1]
    a, b = parts
    if node.kind == "multiply":
        return a * b
    return unless_noise(a + b if node.kind == "add" else a - b, max(abs(a), abs(b)))


def unless_noise(result: mpmath.mpf, operand: mpmath.mpf) -> mpmath.mpf:
    """Zero if the operands cancelled to the last digits, as in sin(pi)."""
    return mpmath.mpf(0) if abs(result) < NOISE * abs(operand) else result


def points(rng: random.Random) -> list[dict[str, mpmath.mpf]]:
    """Random points of all signs."""
    return [
        {name: sign * mpmath.mpf(rng.uniform(0.1, 9)) for name, sign in zip("xy", signs, strict=True)}
        for signs in itertools.product((1, -1), repeat=2)
    ]


def differ(a: Node, b: Node, where: list[dict[str, mpmath.mpf]]) -> bool:
    """Whether two formulas have different values at a point where both are real."""
    with mpmath.workdps(80):
        for point in where:
            try:
                x, y = value(a, point), value(b, point)
            except ValueError:
                continue
            if abs(x - y) > EXACT * max(abs(x), abs(y)):
                return True
    return False


def respelled(rng: random.Random, node: Node) -> Node:
    """The same value in another form."""
    parts = tuple(respelled(rng, part) for part in node.parts)
    node = Node(node.kind, parts, node.leaf)
    draw = rng.random()
    if node.kind in ("add", "multiply") and draw < 0.5:
        return Node(node.kind, parts[::-1])
    if node.kind == "multiply" and parts[1].kind in ("add", "subtract") and draw < 0.9:
        return Node(parts[1].kind, tuple(Node("multiply", (parts[0], part)) for part in parts[1].parts))
    if node.kind == "divide" and draw < 0.5:
        return Node("multiply", (parts[0], Node("divide", (number(1), parts[1]))))
    if node.kind == "number" and node.leaf > 2 and draw < 0.2:
        return Node("add", (number(node.leaf - 1), number(1)))
    if node.kind == "factorial" and draw < 0.5:
        n = parts[0].leaf if parts[0].kind == "number" else 0
        return Node("multiply", (number(n), Node("factorial", (number(n - 1),)))) if n else node
    return node


def near_miss(rng: random.Random, node: Node) -> Node:
    """A formula that differs a little: by a neighbouring constant, a tiny term or a tiny factor."""
    small = Node("divide", (number(1), Node("power", (number(2),), rng.choice((30, 60, 98, 150)))))
    draw = rng.random()
    if draw < 0.2:
        return Node("add", (node, small))
    if draw < 0.4:
        return Node("multiply", (node, Node("add", (number(1), small))))
    if draw < 0.5:
        return Node("divide", (node, Node("factorial", (number(rng.choice((2, 30, 60))),))))
    return neighbour(rng, node)


def neighbour(rng: random.Random, node: Node) -> Node:
    """One constant, exponent or function is another one."""
    if node.kind == "number":
        return number(node.leaf + 1)
    if node.kind in ("variable", "pi"):
        return Node("multiply", (number(2), node))
    if node.kind == "power" and rng.random() < 0.5:
        return Node("power", node.parts, node.leaf + 1)
    chosen = rng.randrange(len(node.parts))
    parts = (*node.parts[:chosen], neighbour(rng, node.parts[chosen]), *node.parts[chosen + 1 :])
    return Node(node.kind, parts, node.leaf)


def tiny_or_huge(rng: random.Random, node: Node) -> Node:
    """The formula times a power far from 1, so that an absolute tolerance would show."""
    scale = Node("power", (number(rng.choice((2, 3, 10))),), rng.choice((40, 98, 700)))
    return Node("divide" if rng.random() < 0.8 else "multiply", (node, scale))


def drawn(rng: random.Random) -> Node:
    node = formula(rng, rng.randint(1, 3), rng.random() < 0.5)
    return tiny_or_huge(rng, node) if rng.random() < 0.4 else node


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_false_yes(clean):
    rng = random.Random(14)
    where = points(rng)
    pairs = []
    for i in range(PAIRS):
        node = drawn(rng)
        pairs.append((node, near_miss(rng, node) if i % 2 else respelled(rng, node)))
    found = clean.equal([(latex(a), latex(b)) for a, b in pairs])
    truth = [differ(a, b, where) for a, b in pairs]
    wrong = [(latex(a), latex(b)) for (a, b), same, apart in zip(pairs, found, truth, strict=True) if same and apart]
    assert not wrong, (len(wrong), wrong[:5])
    assert sum(found) > 0.3 * PAIRS and sum(truth) > 0.4 * PAIRS  # there was something to tell apart
    assert clean.counters["timeouts"] + clean.counters["memory_kills"] < PAIRS // 200


@pytest.mark.timeout(300)
def test_decimals_are_compared_relatively(clean):
    rng = random.Random(7)
    pairs, apart = [], []
    while len(pairs) < 1000:
        node = drawn(rng)
        try:
            with mpmath.workdps(60):
                x = value(node, {}) * (1 + rng.choice((0, 1)) * mpmath.mpf(rng.uniform(2e-5, 1e-2)))
                text = mpmath.nstr(x, 60, min_fixed=-400, max_fixed=400, strip_zeros=False)
        except (ValueError, KeyError, OverflowError):
            continue
        whole, _, places = text.partition(".")
        if "e" in text or not 8 <= len(places) <= 300:
            continue
        decimal = f"{whole}.{places[: rng.randint(6, 12)]}"
        with mpmath.workdps(60):
            exact, rounded = value(node, {}), mpmath.mpf(decimal)
        pairs.append((latex(node), decimal))
        apart.append(abs(exact - rounded) > ROUNDED * max(abs(exact), abs(rounded)))
    found = clean.equal(pairs)
    assert not [pair for pair, same, far in zip(pairs, found, apart, strict=True) if same and far]
    assert sum(found) > 100 and sum(apart) > 100


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_votes_join_equal_answers_only(clean):
    rng = random.Random(41)
    where = points(rng)
    groups = []
    for _ in range(GROUPS):
        node = drawn(rng)
        same = [node, *(respelled(rng, node) for _ in range(3))]
        groups.append([*same, *(near_miss(rng, rng.choice(same)) for _ in range(3))])
    votes = clean.vote([[f"\\boxed{{{latex(node)}}}" for node in group] for group in groups])
    equal = clean.equal([(latex(a), latex(b)) for group in groups for a, b in itertools.product(group, repeat=2)])
    verdicts = iter(equal)
    for group, vote in zip(groups, votes, strict=True):
        table = {(i, j): next(verdicts) for i, j in itertools.product(range(len(group)), repeat=2)}
        for i, j, k in itertools.product(range(len(group)), repeat=3):
            assert not (table[i, j] and table[j, k]) or table[i, k], [latex(group[n]) for n in (i, j, k)]
        for i, j in itertools.combinations(range(len(group)), 2):
            if vote.classes[i] == vote.classes[j]:
                assert not differ(group[i], group[j], where), (latex(group[i]), latex(group[j]))
