"""Property tests: votes, equivalence, canonical form, extraction."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.answers import Grader, canonical, extract
from srt.answers.canonical import parse
from srt.answers.extract import EXTRACTORS
from srt.answers.formula_value import evaluate

FEW = settings(deadline=None, derandomize=True, max_examples=60)
MANY = settings(deadline=None, derandomize=True, max_examples=400)


@pytest.fixture(scope="module")
def clean():
    with Grader(preset="clean", timeout_s=2.0) as grader:
        yield grader


integers = st.sampled_from([-5, -1, 0, 1, 2, 3, 100, 1000, 1234])  # few values, so that equal ones occur


@st.composite
def numbers(draw):
    """A number in one of its spellings."""
    value = draw(integers)
    form = draw(
        st.sampled_from(
            ["{}", "{}.0", "{:,}", "\\frac{{{}}}{{1}}", "{}\\%", "{}^\\circ", "x={}", "{}\\text{{ cm}}", "${}$"]
        )
    )
    return form.format(value)


@st.composite
def fractions(draw):
    top, bottom = draw(st.integers(-2, 4)), draw(st.integers(1, 4))
    return draw(st.sampled_from([f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}"]))


@st.composite
def formulas(draw):
    a, b = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    return draw(
        st.sampled_from(
            [
                f"{a}\\sqrt{{{b}}}",
                f"\\sqrt{{{a * a * b}}}",
                f"{a}x+{b}",
                f"{b}+{a}x",
                f"x^{b}+{a}",
                f"{a}\\pi",
                f"\\frac{{{a}\\pi}}{{{b}}}",
            ]
        )
    )


scalars = st.one_of(numbers(), fractions(), formulas())
structures = st.lists(scalars, min_size=2, max_size=3).flatmap(
    lambda items: st.sampled_from(
        [f"({','.join(items)})", f"[{','.join(items)}]", f"\\{{{','.join(items)}\\}}", ", ".join(items)]
    )
)
latex = st.one_of(
    scalars, structures, st.sampled_from(["\\text{yes}", "No", "\\emptyset", "(-\\infty,3]", "x>2", "(C)"])
)


@MANY
@given(latex)
def test_canonical_is_idempotent(answer):
    text = canonical(answer)
    assert canonical(text) == text


@MANY
@given(st.text(max_size=60))
def test_canonical_and_extraction_survive_any_text(text):
    assert canonical(canonical(text)) is not None
    parse(text)
    evaluate(text)
    for name in EXTRACTORS:
        found = extract(text + "\\boxed{" + text, name)
        assert (found.answer is None) == (found.reason != "ok")


@pytest.mark.slow
@FEW
@given(latex, latex)
def test_equivalence_is_reflexive_and_symmetric(clean, a, b):
    assert clean.equal([(a, a), (b, b)]) == [True, True]
    ab, ba = clean.equal([(a, b), (b, a)])
    assert ab == ba


@FEW
@given(st.lists(latex, min_size=3, max_size=5))
def test_equivalence_is_transitive(clean, answers):
    table = {(a, b): clean.equal([(a, b)])[0] for a in answers for b in answers}
    for a in answers:
        for b in answers:
            for c in answers:
                assert not (table[a, b] and table[b, c]) or table[a, c], (a, b, c)


def boxes(answers):
    return [f"text \\boxed{{{a}}} text" if a else "nothing" for a in answers]


@FEW
@given(st.lists(st.one_of(latex, st.just("")), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_vote_is_invariant_under_permutation(clean, answers, random):
    order = list(range(len(answers)))
    random.shuffle(order)
    first, second = clean.vote([boxes(answers), boxes([answers[i] for i in order])])
    assert (first.majority, first.count, first.parsed) == (second.majority, second.count, second.parsed)
    assert [first.classes[i] for i in order] == list(second.classes)


@MANY
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.permutations(range(6)))
def test_vote_is_invariant_under_relabelling(clean, answers, names):
    first, second = clean.vote([boxes([str(a) for a in answers]), boxes([str(1000 + names[a]) for a in answers])])
    assert sorted(first.classes.count(c) for c in set(first.classes)) == sorted(
        second.classes.count(c) for c in set(second.classes)
    )
    assert (first.count, first.parsed) == (second.count, second.parsed)
    pairs = set(zip(answers, second.classes, strict=True))
    assert len(pairs) == len(set(answers))  # the classes stay the same
    if sorted(answers.count(a) for a in set(answers))[-2:].count(first.count) == 1:  # the first place is not tied
        assert int(second.majority) == 1000 + names[int(first.majority)]


balanced = st.recursive(
    st.text(st.characters(blacklist_characters="{}\\", blacklist_categories=("Cs",)), max_size=8),
    lambda inner: st.tuples(inner, inner).map(lambda p: f"{p[0]}{{{p[1]}}}"),
    max_leaves=6,
)


@MANY
@given(balanced, st.text(st.characters(blacklist_characters="{}\\", blacklist_categories=("Cs",)), max_size=20))
def test_extraction_inverts_writing_a_box(answer, around):
    found = extract(f"{around}\\boxed{{{answer}}}{around}")
    assert found.answer == (answer.strip() or None)


@FEW
@given(formulas(), formulas())
def test_numeric_screen_never_contradicts_the_prover(clean, a, b):
    from srt.answers.equivalence import decide

    decided = decide(parse(a), parse(b))
    if decided is not None and parse(a).kind == parse(b).kind == "formula":
        assert clean._pool.run([["text", f"${a}$", f"${b}$", ["latex"], 6, False]]) == [decided]
