"""How two people in the story of a family are related, to find labels that a generator got wrong."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

_MARRIED = re.compile(r"(\w+) is married to (\w+)\.")
_CHILDREN = re.compile(r"They have (?:a child called|children called) ([^.]+)\.")
# relation: (word for a man, word for a woman)
_WORDS = {
    "spouse": ("husband", "wife"),
    "parent": ("father", "mother"),
    "child": ("son", "daughter"),
    "sibling": ("brother", "sister"),
    "grandparent": ("grandfather", "grandmother"),
    "grandchild": ("grandson", "granddaughter"),
    "parent's sibling": ("uncle", "aunt"),
    "sibling's child": ("nephew", "niece"),
    "spouse's parent": ("father-in-law", "mother-in-law"),
    "child's spouse": ("son-in-law", "daughter-in-law"),
}


@dataclass
class Family:
    """The marriages and parents that a story tells."""

    spouse: dict[str, str] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)

    @staticmethod
    def read(story: str) -> Family:
        """Read sentences 'A is married to B.' and 'They have a child called C.' or 'children called C and D.'"""
        family = Family()
        ends = [*(match.start() for match in _MARRIED.finditer(story)), len(story)]
        for match, end in zip(_MARRIED.finditer(story), ends[1:], strict=True):
            one, two = match.groups()
            family.spouse |= {one: two, two: one}
            for named in _CHILDREN.findall(story[match.end() : end]):
                family.parents |= {child: {one, two} for child in re.split(r", | and ", named)}
        return family

    def relation(self, one: str, two: str) -> str | None:
        """What `one` is to `two`, as a key of `_WORDS`, by blood before marriage; None if no key applies."""

        def parents(name: str | None) -> set[str]:
            return self.parents.get(name or "", set())

        def grandparents(name: str) -> set[str]:
            return {old for parent in parents(name) for old in parents(parent)}

        if self.spouse.get(one) == two:
            return "spouse"
        if one in parents(two):
            return "parent"
        if two in parents(one):
            return "child"
        if parents(one) and parents(one) == parents(two):
            return "sibling"
        if one in grandparents(two):
            return "grandparent"
        if two in grandparents(one):
            return "grandchild"
        if parents(one) & grandparents(two):
            return "parent's sibling"
        if parents(two) & grandparents(one):
            return "sibling's child"
        if one in parents(self.spouse.get(two)):
            return "spouse's parent"
        if two in parents(self.spouse.get(one)):
            return "child's spouse"
        return None


def relationship(story: str, one: str, two: str, male: Collection[str]) -> str | None:
    """The word for what `one` is to `two` in a story; None if no word applies. `male`: the names of men.

    >>> story = "Adam is married to Eve. They have children called Abel and Cain. Cain is married to Awan."
    >>> [relationship(story, *pair, {"Adam", "Abel", "Cain"}) for pair in (("Awan", "Adam"), ("Eve", "Awan"))]
    ['daughter-in-law', 'mother-in-law']
    """
    found = Family.read(story).relation(one, two)
    return None if found is None else _WORDS[found][one not in male]
