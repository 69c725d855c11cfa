"""Runs that inherit the keys of others by `extends`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srt.common.errors import SrtError, nearest
from srt.config.explain import show

DEEPEST = 50  # entries that extend each other in a row


class Inheritance:
    """Runs with the keys that they inherit by `extends`; entries whose id starts with `_` are only inherited from."""

    def __init__(self, runs: Any, location: Callable[[Sequence[str]], str]) -> None:
        self.runs, self.location = runs if isinstance(runs, dict) else {}, location

    def owner(self, name: str, keys: list[str]) -> str:
        """The entry that sets these keys: `name`, or the nearest entry that it extends."""
        chain = [name]
        while isinstance(above := look_up(self.runs, [chain[-1], "extends"]), str) and above not in chain:
            chain.append(above)
        return next((each for each in chain if keys and look_up(self.runs, [each, *keys[:2]]) is not None), name)

    def resolved(self) -> dict[Any, Any]:
        """All runs with their inherited keys."""
        found = {name: self.entry(name, []) for name in self.runs}
        return {name: entry for name, entry in found.items() if not (isinstance(name, str) and name.startswith("_"))}

    def entry(self, name: Any, path: list[str]) -> Any:
        """An entry with its inherited keys; `path`: the entries that extend it."""
        own = self.runs[name]
        if not isinstance(own, dict) or own.get("extends") is None:
            return own
        other, where = own["extends"], self.location(["runs", str(name), "extends"])
        if not isinstance(other, str):
            raise SrtError(f"{where}: must be the id of an entry, not {show(other)}")
        if other not in self.runs:
            raise SrtError(f"{where}: unknown run '{other}'{nearest(other, [str(n) for n in self.runs])}")
        if other in [*path, name]:
            circle = " -> ".join([*[*path, str(name)][[*path, name].index(other) :], other])
            raise SrtError(f"{where}: the entries extend each other ({circle}): remove extends from one of them")
        if len(path) >= DEEPEST:
            raise SrtError(f"{where}: more than {DEEPEST} entries extend each other in a row: extend a nearer one")
        above = self.entry(other, [*path, str(name)])
        if not isinstance(above, dict):
            raise SrtError(f"{where}: '{other}' is {show(above)}: write `key: value` lines there")
        made = {**above, **{key: value for key, value in own.items() if key != "extends"}}
        if isinstance(above.get("train"), dict) and isinstance(own.get("train"), dict):
            made["train"] = {**above["train"], **own["train"]}
        return made


def look_up(data: Any, keys: Sequence[str]) -> Any:
    """The value under a path of keys, None if there is none; a list is indexed by `item 1`, `item 2` and so on."""
    for key in keys:
        if isinstance(data, list) and key.startswith("item ") and int(key[5:]) <= len(data):
            data = data[int(key[5:]) - 1]
        elif isinstance(data, dict):
            data = data.get(key)
        else:
            return None
    return data
