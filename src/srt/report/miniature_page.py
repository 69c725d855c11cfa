"""The page of a miniature run (docs/miniature): its template, filled from the tables beside it.

The template holds marks such as `{{claim raises_avg}}`: no number in the page is typed by hand. Only the CSVs beside
the page are read, so the page can be made again, and checked, without the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from srt.claims.verdict import SIGN
from srt.common.errors import SrtError, nearest

MARK = re.compile(r"\{\{(\w+)((?: [\w.+-]+)*)\}\}")
EXTENSIONS = "extensions"  # the figure that compares them


def fill(template: str, folder: Path) -> str:
    """The template with every mark replaced by what the CSVs in `folder` say."""
    page = _Page(folder)

    def replaced(mark: re.Match[str]) -> str:
        kind, args = mark[1], mark[2].split()
        maker: Callable[..., str] | None = page.kinds.get(kind)
        if maker is None:
            raise SrtError(f"template: unknown mark '{kind}'{nearest(kind, page.kinds)}")
        try:
            return maker(*args)
        except TypeError:
            raise SrtError(f"template: {mark[0]}: wrong number of arguments") from None

    return MARK.sub(replaced, template)


class _Page:
    """What marks stand for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds: dict[str, Callable[..., str]] = {
            "claim": self.claim, "number": self.number, "alarm_counts": self.alarm_counts,
            "claims": self.claims, "counts": self.counts, "accuracy": self.accuracy,
            "alarms": self.alarms, "extensions": self.extensions, "sustains_longest": self.sustains_longest,
            "costs": self.costs, "hours": self.hours, "earlier": self.earlier, "verdict": self.verdict,
            "above_srt": self.above_srt,
        }  # fmt: skip

    def table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise SrtError(f"{path} does not exist: collect it from a finished run")
        return pd.read_csv(path)

    def claim(self, name: str) -> str:
        """{{claim NAME}}: the verdict and its numbers."""
        table = self.table("claims")
        rows = table[table["claim"] == name]
        if rows.empty:
            raise SrtError(f"template: unknown claim '{name}'{nearest(name, table['claim'].unique())}")
        verdict = f"**{rows['verdict'].iloc[0]}**"
        numbers = rows.dropna(subset=["estimate"])
        said = [f"{r.number}: {_number(r.estimate)} [{_number(r.lo)}, {_number(r.hi)}]" for r in numbers.itertuples()]
        why = rows["reason"].iloc[0] if rows["verdict"].iloc[0] == "undecided" else ""
        return "; ".join([verdict, *said]) + (f" ({why.rstrip('.')})" if isinstance(why, str) and why else "")

    def verdict(self, name: str) -> str:
        """{{verdict NAME}}: the verdict alone."""
        return self.claim(name).split("**")[1]

    def above_srt(self, *names: str) -> str:
        """{{above_srt NAME ...}}: which variants' whole intervals, those of claims "variant minus SRT", lie above 0."""
        table, panels = self.table("claims"), self.table(EXTENSIONS).dropna(subset=["runs"])
        # a chain is named by its last run
        labels = {str(r.runs).split("+")[0].rpartition("-s")[0]: str(r.panel) for r in panels.itertuples()}
        ends = panels.groupby("panel", sort=False)["runs"].last()
        labels |= {runs.split("+")[0].rpartition("-s")[0]: panel for panel, runs in ends.items()}
        held: dict[bool, list[str]] = {True: [], False: []}
        for name in names:
            numbers = self.number(name)
            row = table[table["claim"] == name].iloc[0]
            run = str(row["number"]).partition(" of ")[2].partition(" minus ")[0]
            held[bool(row["lo"] > 0)].append(f"`{labels.get(run, run)}` ({numbers})")
        said = [", ".join(held[True]) or "none"] + ([f"and not for {', '.join(held[False])}"] if held[False] else [])
        return "the whole interval is above SRT for " + ", ".join(said)

    def number(self, name: str) -> str:
        """{{number NAME}}: the claim's numbers and intervals alone."""
        table = self.table("claims")
        rows = table[(table["claim"] == name) & table["estimate"].notna()]
        if rows.empty:
            raise SrtError(f"template: no numbers of claim '{name}'{nearest(name, table['claim'].unique())}")
        return ", ".join(f"{_number(r.estimate)} [{_number(r.lo)}, {_number(r.hi)}]" for r in rows.itertuples())

    def claims(self) -> str:
        """{{claims}}: a table of all claims."""
        table = self.table("claims")
        lines = ["| statement | source | verdict, numbers with 95 % intervals |", "|---|---|---|"]
        for name, rows in table.groupby("claim", sort=False):
            source = f"{rows['version'].iloc[0]}, {rows['where'].iloc[0]}"
            lines.append(f"| {rows['statement'].iloc[0]} | {source} | {self.claim(str(name))} |")
        return "\n".join(lines)

    def counts(self) -> str:
        """{{counts}}: how many claims have which verdict."""
        verdicts = self.table("claims").drop_duplicates("claim")["verdict"]
        return ", ".join(f"{int((verdicts == verdict).sum())} {verdict}" for verdict in SIGN)

    def earlier(self) -> str:
        """{{earlier}}: what an earlier run of the same configuration said otherwise (earlier_claims.csv)."""
        now, then = (self.table(name).groupby("claim", sort=False) for name in ("claims", "earlier_claims"))
        lines = ["| statement | here | earlier |", "|---|---|---|"]
        names, turned = [name for name, _ in now if name in then.groups], 0
        for name in names:
            here, before = now.get_group(name), then.get_group(name)
            verdicts = {here["verdict"].iloc[0], before["verdict"].iloc[0]}
            if len(verdicts) == 1:
                continue
            turned += "undecided" not in verdicts
            cells = [
                f"{rows['verdict'].iloc[0]}: "
                + ", ".join(f"{_number(r.estimate)} [{_number(r.lo)}, {_number(r.hi)}]" for r in rows.itertuples())
                for rows in (here, before)
            ]
            lines.append(f"| {here['statement'].iloc[0]} | {cells[0]} | {cells[1]} |")
        same = len(names) - len(lines) + 2
        said = (
            f"{same} of {len(names)} verdicts were the same. These were not; {turned or 'none'} of them turned round, "
            "from supported to not supported or back:"
        )
        return "\n".join([said, "", *lines])

    def accuracy(self, run: str, dataset: str, step: str, metric: str) -> str:
        """{{accuracy RUN DATASET STEP avg|maj}}: the mean over seeds; STEP a number or `last`."""
        table = self.table("results")
        rows = table[table["run"].str.fullmatch(rf"{run}-s\d+") & (table["dataset"] == dataset)]
        rows = rows[rows["step"] == (rows["step"].max() if step == "last" else int(step))]
        if rows.empty or metric not in ("avg", "maj"):
            raise SrtError(f"template: results.csv has no {metric} of run '{run}' on '{dataset}' at step {step}")
        return f"{rows[metric].mean():.3f}"

    def alarms(self) -> str:
        """{{alarms}}: a table by run, seeds in one cell."""
        lines = [
            "| run | steps | alarm | fall of avg@32 | lead | false | missed |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, rows in self.table("alarm").groupby("run", sort=False):
            cells = [
                ", ".join("none" if pd.isna(v) else f"{v:.0f}" for v in rows[c]) for c in ("alarm", "fall", "lead")
            ]
            judged = [str(int(rows[c].sum())) for c in ("false_alarm", "missed")]
            lines.append(f"| {' | '.join([str(name), str(rows['steps'].iloc[0]), *cells, *judged])} |")
        return "\n".join(lines)

    def alarm_counts(self) -> str:
        """{{alarm_counts}}: how often it rang, by what the accuracy did."""
        table = self.table("alarm")
        fell, held = table[table["fall"].notna()], table[table["fall"].isna()]
        rang = fell[fell["alarm"].notna()]
        before, falsely = int((rang["lead"] > 0).sum()), int(held["alarm"].notna().sum())
        return (
            f"in {len(rang)} of {len(fell)} runs whose accuracy fell, in {before} of them before the fall was seen, "
            f"and in {falsely} of {len(held)} that held"
        )

    def sustained(self) -> pd.DataFrame:
        """By panel of the extensions: start, end with interval, and the last step whose interval reaches the start.

        Only up to the last step that all of them take.
        """
        table = self.table(EXTENSIONS)
        table = table[table["quantity"].str.startswith("avg") & table["value"].notna()]
        rows = []
        table = table[table["step"] <= table.groupby("panel")["step"].max().min()]
        for panel, part in table.groupby("panel", sort=False):
            # where a chain goes on, the same model is there twice: as an end, and as a start
            curve = part.sort_values("step", kind="stable").drop_duplicates("step", keep="first")
            start, end = curve.iloc[0], curve.iloc[-1]
            below = curve[curve["hi"] < start["value"]]
            held = curve[curve["step"] < below["step"].min()]["step"].max() if len(below) else end["step"]
            rows.append(
                {"panel": panel, "start": start["value"], "best": curve["value"].max(), "end": end["value"],
                 "lo": end["lo"], "hi": end["hi"], "held": int(held), "steps": int(end["step"])}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def extensions(self) -> str:
        """{{extensions}}: the table of what sustains self-training."""
        lines = ["| variant | start | best | end [95 %] | not below the start until step |", "|---|---|---|---|---|"]
        for r in self.sustained().itertuples():
            lines.append(
                f"| {r.panel} | {r.start:.3f} | {r.best:.3f} | {r.end:.3f} [{r.lo:.3f}, {r.hi:.3f}] | {r.held} |"
            )
        return "\n".join(lines)

    def sustains_longest(self) -> str:
        """{{sustains_longest}}: the variants that hold longest, the one with the best end first."""
        table = self.sustained()
        best = table[table["held"] == table["held"].max()].sort_values("end", ascending=False, kind="stable")
        return "; ".join(f"{r.panel} (end {r.end:.3f} [{r.lo:.3f}, {r.hi:.3f}])" for r in best.itertuples())

    def costs(self) -> str:
        """{{costs}}: a table of what was measured, by rule and model."""
        lines = ["| rule | model | jobs | hours | CPU-hours | largest memory, MiB |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.rule} | {'' if pd.isna(r.model) else r.model} | {r.measured} | {r.hours:.2f} | {r.cpu_hours:.2f} "
            f"| {r.peak_memory_mib:.0f} |"
            for r in self.table("cost").query("measured > 0").itertuples()
        ]
        return "\n".join(lines)

    def hours(self) -> str:
        """{{hours}}: hours of all measured jobs, one after the other."""
        table = self.table("cost")
        return f"{table.loc[table['rule'] == 'total', 'hours'].item():.2f}"


def _number(value: float) -> str:
    """Three decimals; steps and infinities as they are."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}" if abs(value) != float("inf") else f"{value}"
