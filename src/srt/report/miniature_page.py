"""The page of a small run (docs/miniature, docs/real): its template, filled from the tables beside it.

The Jinja2 template holds calls such as `{{ claim("raises_avg") }}`: no number in the page is typed by hand. Only the
CSVs beside the page are read, so the page can be made again, and checked, without the run.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from jinja2 import TemplateError

from srt.claims.training_estimators import exact_interval
from srt.claims.verdict import CHANCE, REFUTED, SIGN, SUPPORTED, UNDECIDED
from srt.claims.verdict_tables import FALSE_DISCOVERIES
from srt.common.errors import SrtError, nearest
from srt.common.markup import fill_template, markdown_table
from srt.report.miniature_tables import BOOTSTRAP

EXTENSIONS = "extensions"  # the figure that compares the variants of SRT


def fill(template: str, folder: Path) -> str:
    """The template with every call replaced by what the CSVs in `folder` say."""
    page = _Page(folder)
    calls = {name: getattr(page, name) for name in dir(page) if not name.startswith("_")}
    try:
        return fill_template(template, **calls)
    except (TemplateError, TypeError) as error:  # an unknown name, or arguments that a method does not have
        raise SrtError(f"template: {error}") from None


class _Page:
    """What the template can call: each public method returns the text that takes the place of the call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _table(self, name: str) -> pd.DataFrame:
        path = self._folder / f"{name}.csv"
        if not path.is_file():
            raise SrtError(f"{path} does not exist: collect it from a finished run")
        return pd.read_csv(path)

    def claim(self, name: str) -> str:
        """The verdict on a claim and its numbers."""
        table = self._table("claims")
        rows = table[table["claim"] == name]
        if rows.empty:
            raise SrtError(f"template: unknown claim '{name}'{nearest(name, table['claim'].unique())}")
        verdict, reason = rows["verdict"].iloc[0], rows["reason"].iloc[0]
        numbers = rows.dropna(subset=["estimate"])
        parts = [f"**{verdict}**", *(f"{row.number}: {_interval(row)}" for row in numbers.itertuples())]
        undecided = verdict == "undecided" and isinstance(reason, str) and reason
        if undecided and len(numbers) == 1:
            reason = reason.rpartition("]: ")[2]  # the number with its interval stands before it already
        return "; ".join(parts) + (f" ({reason.rstrip('.')})" if undecided else "")

    def verdict(self, name: str) -> str:
        """The verdict on a claim alone."""
        return self.claim(name).split("**")[1]

    def finding(self, name: str) -> str:
        """A claim's statement with the verdict on it and its numbers."""
        table = self._table("claims")
        self.verdict(name)  # an unknown claim is a sentence
        statement = table.loc[table["claim"] == name, "statement"].iloc[0].rstrip(".")
        numbers = table[(table["claim"] == name) & table["estimate"].notna()]
        measured = f": {_intervals(numbers)}" if len(numbers) else ""
        return f"*{statement}* is **{self.verdict(name)}**{measured}"

    def number(self, name: str) -> str:
        """The numbers of a claim and their intervals alone."""
        table = self._table("claims")
        rows = table[(table["claim"] == name) & table["estimate"].notna()]
        if rows.empty:
            raise SrtError(f"template: no numbers of claim '{name}'{nearest(name, table['claim'].unique())}")
        return _intervals(rows)

    def claims(self) -> str:
        """A table of all claims."""
        rows = [
            (claim["statement"].iloc[0], f"{claim['version'].iloc[0]}, {claim['where'].iloc[0]}", self.claim(str(name)))
            for name, claim in self._table("claims").groupby("claim", sort=False)
        ]
        return markdown_table(["statement", "source", "verdict, numbers with 95 % intervals"], rows)

    def counts(self) -> str:
        """How many claims have which verdict."""
        verdicts = self._table("claims").drop_duplicates("claim")["verdict"]
        return ", ".join(f"{int((verdicts == verdict).sum())} {verdict}" for verdict in SIGN)

    def earlier(self) -> str:
        """The claims on which an earlier run of the same configuration had another verdict (earlier_claims.csv)."""
        mine = BOOTSTRAP.removesuffix(".csv")  # by the same rule as the earlier run's
        mine = mine if (self._folder / BOOTSTRAP).is_file() else "claims"
        now, then = (self._table(name).groupby("claim", sort=False) for name in (mine, "earlier_claims"))
        names = [name for name, _ in now if name in then.groups]
        rows, reversed_ = [], 0
        for name in names:
            here, before = now.get_group(name), then.get_group(name)
            verdicts = [claim["verdict"].iloc[0] for claim in (here, before)]
            if verdicts[0] == verdicts[1]:
                continue
            reversed_ += "undecided" not in verdicts
            cells = [f"{verdict}: {_intervals(claim)}" for verdict, claim in zip(verdicts, (here, before), strict=True)]
            rows.append((here["statement"].iloc[0], *cells))
        summary = (
            f"{len(names) - len(rows)} of {len(names)} verdicts were the same. {reversed_ or 'None'} of the others "
            "changed from supported to not supported or back:"
        )
        return f"{summary}\n\n{markdown_table(['statement', 'here', 'earlier'], rows)}"

    def turned(self) -> str:
        """The claims whose verdict the present rule changes, with the reason."""
        now = self._table("claims").groupby("claim", sort=False)
        then = self._table(BOOTSTRAP.removesuffix(".csv")).groupby("claim", sort=False)
        rows = []
        for name, here in now:
            before = then.get_group(name)
            verdicts = [claim["verdict"].iloc[0] for claim in (before, here)]
            if verdicts[0] == verdicts[1]:
                continue
            seeds = int(here["seeds"].min())
            if verdicts[0] == "undecided":
                why = "a clear result counts however wide its interval"
            elif "peak" in str(here["number"].iloc[0]):
                why = f"the peak is chosen by other seeds, and {seeds} seeds have a t interval"
            else:
                why = f"{seeds} seeds have a t interval"
            cells = [f"{verdict}: {_intervals(rows_)}" for verdict, rows_ in zip(verdicts, (before, here), strict=True)]
            rows.append((f"`{name}`", *cells, why))
        return markdown_table(["claim", "with the bootstrap", "now", "why"], rows)

    def in_short(self) -> str:
        """The paper's statements, grouped by their verdicts."""
        claims = self._table("claims").drop_duplicates("claim")
        claims = claims[claims["version"] != "ours"]
        heads = {SUPPORTED: "Supported", REFUTED: "Not supported", UNDECIDED: "Undecided"}
        return "\n".join(
            f"- **{head}**: {' '.join(part['statement'])}"
            for verdict, head in heads.items()
            if len(part := claims[claims["verdict"] == verdict])
        )

    def chance(self) -> str:
        """How many claims chance alone would support, and how many of the supported a correction leaves."""
        claims = self._table("claims").drop_duplicates("claim")
        supported = claims[claims["verdict"] == SUPPORTED]
        measured, left = int(claims["p"].notna().sum()), int((supported["p_adjusted"] <= FALSE_DISCOVERIES).sum())
        return (
            f"If none of the {measured} measured claims were true, at most {CHANCE * measured:.1f} would be supported "
            f"by chance; {left} of the {len(supported)} supported ones remain after Benjamini and Hochberg's correction"
        )

    def detectable(self) -> str:
        """A table of the undecided claims with the effect that their seeds could have found."""
        claims = self._table("claims")
        rows = [
            (row.statement, str(int(row.seeds)), _interval(row), _number((row.hi - row.lo) / 2))
            for row in claims[(claims["verdict"] == UNDECIDED) & claims["estimate"].notna()].itertuples()
        ]
        if not rows:
            return "No measured claim is undecided."
        return (
            "For each undecided claim, half the width of its interval: an effect of about that size would have been "
            "told from none.\n\n" + markdown_table(["statement", "seeds", "measured", "could have found"], rows)
        )

    def above_srt(self, *names: str) -> str:
        """The variants whose whole interval lies above 0, from claims on "variant minus SRT"."""
        table, panels = self._table("claims"), self._table(EXTENSIONS).dropna(subset=["runs"])
        # a chain is named by its last run
        labels = {_run_of(row.runs): str(row.panel) for row in panels.itertuples()}
        ends = panels.groupby("panel", sort=False)["runs"].last()
        labels |= {_run_of(runs): panel for panel, runs in ends.items()}
        above: list[str] = []
        others: list[str] = []
        for name in names:
            interval = self.number(name)
            row = table[table["claim"] == name].iloc[0]
            run = str(row["number"]).partition(" of ")[2].partition(" minus ")[0]
            (above if row["lo"] > 0 else others).append(f"`{labels.get(run, run)}` ({interval})")
        but = [f"and not for {', '.join(others)}"] if others else []
        return "the whole interval is above SRT for " + ", ".join([", ".join(above) or "none", *but])

    def accuracy(self, run: str, dataset: str, step: int | str, metric: str) -> str:
        """The mean over seeds of avg or maj at a step, or at the `last` one."""
        table = self._table("results")
        rows = table[table["run"].str.fullmatch(rf"{run}-s\d+") & (table["dataset"] == dataset)]
        rows = rows[rows["step"] == (rows["step"].max() if step == "last" else step)]
        if rows.empty or metric not in ("avg", "maj"):
            raise SrtError(f"template: results.csv has no {metric} of run '{run}' on '{dataset}' at step {step}")
        return f"{rows[metric].mean():.3f}"

    def alarms(self) -> str:
        """A table of alarms and falls with one row per run, its seeds in one cell."""
        rows = []
        for name, run in self._table("alarm").groupby("run", sort=False):
            steps = [
                ", ".join("none" if pd.isna(step) else f"{step:.0f}" for step in run[column])
                for column in ("alarm", "fall", "lead")
            ]
            judged = [str(int(run[column].sum())) for column in ("false_alarm", "missed")]
            rows.append((str(name), str(run["steps"].iloc[0]), *steps, *judged))
        return markdown_table(["run", "steps", "alarm", "fall of avg@32", "lead", "false", "missed"], rows)

    def alarm_counts(self, *tuned: str) -> str:
        """How often the alarm rang, by what the accuracy did, with exact 95 % intervals.

        `tuned`: runs on which the thresholds were chosen; all their seeds are left out.
        """
        table = self._table("alarm")
        if unknown := [name for name in tuned if name not in set(table["run"])]:
            raise SrtError(f"template: alarm_counts: alarm.csv has no run '{unknown[0]}'")
        table = table[~table["run"].isin(tuned)]
        fell, held = table[table["fall"].notna()], table[table["fall"].isna()]
        rang = fell[fell["alarm"].notna()]
        before, falsely = int((rang["lead"] > 0).sum()), int(held["alarm"].notna().sum())
        return (
            f"in {_share(len(rang), len(fell))} runs whose accuracy fell, in {before} of them before the fall was "
            f"seen, and in {_share(falsely, len(held))} that held"
        )

    def extensions(self) -> str:
        """The table of what sustains self-training."""
        rows = [
            (r.panel, f"{r.start:.3f}", f"{r.best:.3f}", f"{r.end:.3f} [{r.lo:.3f}, {r.hi:.3f}]", str(r.held))
            for r in self._sustained().itertuples()
        ]
        return markdown_table(["variant", "start", "best", "end [95 %]", "not below the start until step"], rows)

    def sustains_longest(self) -> str:
        """The variants that hold longest, the one with the best end first."""
        table = self._sustained()
        best = table[table["held"] == table["held"].max()].sort_values("end", ascending=False, kind="stable")
        return "; ".join(f"{r.panel} (end {r.end:.3f} [{r.lo:.3f}, {r.hi:.3f}])" for r in best.itertuples())

    def _sustained(self) -> pd.DataFrame:
        """One row per panel of the extensions, up to the last step that all of them reach.

        Columns panel, start, best, end, lo and hi (of the end), and held: the last step before the whole interval lies
        below the start.
        """
        table = self._table(EXTENSIONS)
        table = table[table["quantity"].str.startswith("avg") & table["value"].notna()]
        table = table[table["step"] <= table.groupby("panel")["step"].max().min()]
        rows = []
        for panel, part in table.groupby("panel", sort=False):
            # where one run of a chain ends and the next begins, the same model is listed twice
            curve = part.sort_values("step", kind="stable").drop_duplicates("step", keep="first")
            start, end = curve.iloc[0], curve.iloc[-1]
            below = curve[curve["hi"] < start["value"]]
            held = curve[curve["step"] < below["step"].min()]["step"].max() if len(below) else end["step"]
            rows.append(
                {"panel": panel, "start": start["value"], "best": curve["value"].max(), "end": end["value"],
                 "lo": end["lo"], "hi": end["hi"], "held": int(held)}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def costs(self) -> str:
        """A table of what was measured, by rule and model."""
        rows = [
            (r.rule, "" if pd.isna(r.model) else r.model, str(r.measured), f"{r.hours:.2f}", f"{r.cpu_hours:.2f}",
             f"{r.peak_memory_mib:.0f}")
            for r in self._table("cost").query("measured > 0").itertuples()
        ]  # fmt: skip
        return markdown_table(["rule", "model", "jobs", "hours", "CPU-hours", "largest memory, MiB"], rows)

    def hours(self) -> str:
        """Hours of all measured jobs, one after the other."""
        table = self._table("cost")
        return f"{table.loc[table['rule'] == 'total', 'hours'].item():.2f}"


def _run_of(runs: object) -> str:
    """`srt-s1+srt-s2` -> `srt`."""
    return str(runs).split("+")[0].rpartition("-s")[0]


def _interval(row: object) -> str:
    """Estimate and interval of a row of the claims table."""
    return f"{_number(row.estimate)} [{_number(row.lo)}, {_number(row.hi)}]"


def _intervals(rows: pd.DataFrame) -> str:
    return ", ".join(map(_interval, rows.itertuples()))


def _share(count: int, of: int) -> str:
    """A count with the exact 95 % interval of its share."""
    lo, hi = exact_interval(count, of)
    return f"{count} of {of} [{lo:.2f}, {hi:.2f}]"


def _number(value: float) -> str:
    """Three decimals; steps and infinities as they are."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}" if abs(value) != float("inf") else f"{value}"
