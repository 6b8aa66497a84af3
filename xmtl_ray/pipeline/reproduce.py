"""The paper's tables, done again: a row is a way of training, and its seeds are chains of stages.

All rows and seeds are one set of stages, run side by side, and share what they have in common: X-MTL's teachers are the
row "Separate", its pseudo-labels those of the row without dynamic weights. Whatever is done stays done, so another row,
seed or setting costs only what is new.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xmtl_ray.config.load import load
from xmtl_ray.config.schema import Config
from xmtl_ray.evaluation.m2e2 import REPORTED, score_by_document
from xmtl_ray.evaluation.seeds import MEAN, Runs, differences, estimates
from xmtl_ray.evaluation.summary import published, published_strategies
from xmtl_ray.events import predictions as prediction_files
from xmtl_ray.pipeline.diagnosis import listings
from xmtl_ray.pipeline.launch import own_folder, run_stages, stages_of, tracked
from xmtl_ray.pipeline.running import Ended, Watcher
from xmtl_ray.pipeline.stages import Planned, Stage, Stages
from xmtl_ray.pipeline.xmtl import Chain, chain, separate
from xmtl_ray.report.reproduction import ClaimResult, Reproduction, RowResult

What = Literal["table1", "table2", "fig3"]
WORLD = "world"
PAIRS = 4000
"""Image-text pairs of the world that is drawn: gold is scarce beside them, as in the paper."""
RECIPES = {True: "xmtl_world", False: "xmtl_full"}
"""Default recipe for the world, and for data of one's own."""


class ReproductionError(ValueError):
    """A table that cannot be done again so: what is in its way, and what to do."""


@dataclass(frozen=True)
class Row:
    """A way of training."""

    name: str
    label: str
    settings: tuple[str, ...] = ()
    """Overrides on the recipe, which is X-MTL's."""
    separate: bool = False
    """The single-task models extract together."""


@dataclass(frozen=True)
class Claim:
    """The paper says that one row is above another."""

    text: str
    first: str
    second: str
    column: str = MEAN


def _strategy(name: str, weighting: str) -> tuple[str, ...]:
    return (f"multitask.strategy={name}", f"multitask.weighting.name={weighting}")


XMTL = Row("xmtl", "X-MTL")
TABLE2 = (
    XMTL,
    Row("without_dwa", "w/o dynamic weights", ("multitask.weighting.name=fixed",)),
    Row("separate", "Separate", separate=True),
    Row("without_pseudo", "w/o pseudo-labels", _strategy("joint", "dwa")),
    Row("joint", "Joint", _strategy("joint", "fixed")),
    Row("ark", "ARK", _strategy("ark", "fixed")),
    Row("alternating", "Alternating", _strategy("alternating", "fixed")),
)
"""X-MTL's chain is the longest, so it comes first."""
_PRESENTED = ("separate", "alternating", "ark", "joint", "xmtl", "without_dwa", "without_pseudo")

CLAIMS = (
    Claim("X-MTL is above Joint", "xmtl", "joint"),
    Claim("X-MTL is above its ablation without dynamic weights", "xmtl", "without_dwa"),
    Claim("X-MTL is above its ablation without pseudo-labels", "xmtl", "without_pseudo"),
    Claim("X-MTL is above Separate", "xmtl", "separate"),
    Claim("Joint does not reach Separate", "separate", "joint"),
    Claim("Joint is above Alternating", "joint", "alternating"),
    Claim("Alternating forgets: image arguments fall below Separate's", "separate", "alternating", "image_argument"),
    Claim("ARK forgets less than Alternating", "ark", "alternating"),
    Claim("ARK stays below Joint", "joint", "ark"),
)

_VARIANTS = (
    ("prompt", "prompt, box", ("model.argument=prompt", "data.visual_prompt.kind=box")),
    ("span", "span, box", ("model.argument=span", "data.visual_prompt.kind=box")),
    ("concat", "concatenation, box", ("model.argument=concat", "data.visual_prompt.kind=box")),
    ("crop", "prompt, crop", ("model.argument=prompt", "data.visual_prompt.kind=crop")),
)
FIG3 = tuple(
    Row(f"{name}_{way}", f"{label} {star}", settings, separate=way == "single")
    for way, star in (("multi", "in X-MTL"), ("single", "alone"))
    for name, label, settings in _VARIANTS
)
FIG3_CLAIMS = (
    Claim("Alone: prompt is above span", "prompt_single", "span_single", "text_argument"),
    Claim("Alone: prompt is above concatenation", "prompt_single", "concat_single", "text_argument"),
    Claim("Alone: concatenation is above span", "concat_single", "span_single", "text_argument"),
    Claim("In X-MTL: prompt is above span", "prompt_multi", "span_multi"),
    Claim("In X-MTL: prompt is above concatenation", "prompt_multi", "concat_multi"),
    Claim("In X-MTL: span is above concatenation", "span_multi", "concat_multi"),
    Claim("In X-MTL: box is above crop", "prompt_multi", "crop_multi"),
)

ROWS: Mapping[What, tuple[Row, ...]] = {"table1": (XMTL,), "table2": TABLE2, "fig3": FIG3}
_CLAIMS: Mapping[What, tuple[Claim, ...]] = {"table1": (), "table2": CLAIMS, "fig3": FIG3_CLAIMS}
_TITLES: Mapping[What, str] = {
    "table1": "Table 1 of X-MTL: the method beside published ones",
    "table2": "Table 2 of X-MTL: training strategies and ablations",
    "fig3": "Figure 3 of X-MTL: what stands for an argument",
}


@dataclass(frozen=True)
class Plan:
    """What a reproduction consists of."""

    what: What
    config: Config
    """The base of all rows."""
    folder: Path
    """Of its own run."""
    stages: Stages
    rows: tuple[Row, ...]
    chains: Mapping[tuple[str, int], Chain]
    """(row, seed) → its stages."""
    seeds: tuple[int, ...]
    drawn: bool
    """Whether its data is a world drawn here."""

    @property
    def wanted(self) -> tuple[Stage, ...]:
        """The last stages of all chains, row after row of one seed before the next seed."""
        return tuple(stage for seed in self.seeds for row in self.rows for stage in self.chains[row.name, seed].last)

    def planned(self) -> list[Planned]:
        """Every stage, once."""
        return self.stages.plan(self.wanted)


def plan(
    what: What,
    data: str,
    out: Path,
    seeds: int,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Plan:
    """What is to run.

    Args:
        what: the table or figure.
        data: ``world``, a medium one that ``draw`` puts under ``out``, or a folder that is laid out like it.
        out: where the world, the stages and the result go.
        seeds: how many, from 0.
        recipe: of X-MTL, what all rows vary; None: one made for the world, or the paper's.
        overrides: settings on top of it, for all rows.
        only: names of rows; empty: all.

    Raises ReproductionError and ConfigError.
    """
    names = [row.name for row in ROWS[what]]
    if unknown := [name for name in only if name not in names]:
        raise ReproductionError(f"row: found {unknown[0]!r}, expected one of {', '.join(names)}")
    root = out / "world-medium" if data == WORLD else Path(data)
    if not root.is_dir():
        raise ReproductionError(f"data: {root} is no folder, expected one laid out like what `xmtl world` writes")
    recipe = recipe or RECIPES[data == WORLD]
    settings = [f"name={what}", f"storage_path={out / 'runs'}", f"data.root={root}", *overrides]
    base = tracked(load(recipe, settings))
    if base.multitask.strategy != "xmtl" or base.data.test is None:
        raise ReproductionError(f"recipe: {recipe} must have multitask.strategy=xmtl and data.test; xmtl_full has")
    rows = tuple(row for row in ROWS[what] if not only or row.name in only)
    chains = {}
    for row in rows:
        for seed in range(seeds):
            config = tracked(load(recipe, [*settings, *row.settings, f"train.seed={seed}"]))
            make = separate if row.separate else chain
            chains[row.name, seed] = make(config, f"{row.name} {seed}")
    return Plan(what, base, own_folder(base), stages_of(base), rows, chains, tuple(range(seeds)), data == WORLD)


def draw(out: Path) -> bool:
    """Draw the medium world under ``out`` if it is not there; returns whether it was not. Raises ReproductionError."""
    from xmtl_ray.data.world import VERSION, version_of, write_world

    folder = out / "world-medium"
    found = version_of(folder)
    if found not in {None, VERSION}:
        raise ReproductionError(
            f"{folder}: found {found}, expected {VERSION}; delete that folder or give another --out"
        )
    if found is None:
        write_world(folder, 0, "medium", os.cpu_count() or 1, pairs=PAIRS)
    return found is None


def reproduce(todo: Plan, watcher: Watcher) -> tuple[Reproduction, list[Ended]]:
    """Run what is not done and count. Rows whose stages failed are in it without figures."""
    from xmtl_ray.data import m2e2

    ended = run_stages(todo.stages, todo.wanted, todo.config, todo.folder, watcher)
    good = {item.planned.key for item in ended if item.good}
    data = todo.config.data
    assert data.test is not None
    documents = m2e2.read(data.test, objects=data.test_objects)
    runs: dict[tuple[str, str], Runs] = {}
    for row in todo.rows:
        paths = {seed: _predictions(todo, row.name, seed, good) for seed in todo.seeds}
        read = {seed: prediction_files.read(path) for seed, path in paths.items() if path is not None}
        for name in REPORTED:
            runs[row.name, name] = Runs({seed: score_by_document(documents, own, name) for seed, own in read.items()})
    rows = tuple(_row(todo, row, runs) for row in _presented(todo.rows))
    claims = tuple(_claim(claim, todo.what, runs) for claim in _CLAIMS[todo.what] if _both(claim, todo.rows))
    chains = {key: one for key, one in todo.chains.items() if _predictions(todo, *key, good) is not None}
    labels = {row.name: row.label for row in _presented(todo.rows)}
    found = Reproduction(
        todo.what,
        _TITLES[todo.what],
        _facts(todo, len(documents)),
        rows,
        claims,
        tuple(listings(todo.stages, labels, chains, todo.config)),
        _notes(todo, rows),
    )
    return found, ended


def _predictions(todo: Plan, row: str, seed: int, good: set[str]) -> Path | None:
    """The prediction file of a row and seed, if its stages came out well."""
    stage = todo.chains[row, seed].extract
    if stage is None or todo.stages.definition(stage).key not in good:
        return None
    return todo.stages.folder(stage) / "predictions.json"


def _presented(rows: Sequence[Row]) -> list[Row]:
    """In the paper's order."""
    return sorted(rows, key=lambda row: _PRESENTED.index(row.name) if row.name in _PRESENTED else 0)


def _row(todo: Plan, row: Row, runs: Mapping[tuple[str, str], Runs]) -> RowResult:
    f1 = {name: estimates(runs[row.name, name]) for name in REPORTED if runs[row.name, name].seeds}
    return RowResult(row.name, row.label, runs[row.name, REPORTED[0]].seeds, f1, _paper(todo.what, row.name))


def _paper(what: What, row: str) -> Mapping[str, float]:
    """The paper's six figures of a row; Figure 3 prints none."""
    if what == "table1":
        return {item.metric: item.f1 for item in published() if item.system == "X-MTL"}
    return published_strategies()[row] if what == "table2" else {}


def _both(claim: Claim, rows: Sequence[Row]) -> bool:
    return {claim.first, claim.second} <= {row.name for row in rows}


def _claim(claim: Claim, what: What, runs: Mapping[tuple[str, str], Runs]) -> ClaimResult:
    first, second = _paper(what, claim.first), _paper(what, claim.second)
    paper = None
    if first and second:
        columns = list(first) if claim.column == MEAN else [claim.column]
        paper = sum(first[name] - second[name] for name in columns) / len(columns)
    found = {}
    for name in REPORTED:
        one, other = runs[claim.first, name], runs[claim.second, name]
        if set(one.seeds) & set(other.seeds):
            found[name] = differences(one, other)
    return ClaimResult(claim.text, claim.column, claim.first, claim.second, paper, found)


def _facts(todo: Plan, documents: int) -> tuple[tuple[str, str], ...]:
    spec = todo.config
    root = "a medium miniature world, drawn from seed 0" if todo.drawn else str(spec.data.root)
    return (
        ("Data", root),
        ("Test documents", str(documents)),
        ("Seeds", ", ".join(map(str, todo.seeds))),
        ("Epochs", str(spec.train.epochs)),
        ("Batch", str(spec.train.global_batch)),
        ("Text encoder", spec.model.text_encoder),
        ("Image encoder", spec.model.image_encoder),
    )


def _notes(todo: Plan, rows: Sequence[RowResult]) -> tuple[str, ...]:
    notes = [
        "Figures are F1 in percent: the mean over seeds, and in brackets a 95 % interval from a bootstrap that draws "
        "test documents and seeds with replacement, crossed (each drawn seed is scored on the same drawn documents).",
        "A difference is taken within each draw, of the same documents and the same seeds, so it is paired in both.",
        "A claim holds if the whole interval of the difference is above 0, does not hold if it is below, and cannot be "
        f"told otherwise; it is decided by protocol `{REPORTED[0]}`. Each interval is 95 % by itself: of twenty such, "
        "one is wrong by chance.",
        "`table` is the headline protocol, `strict` counts every image and every pair of a document.",
    ]
    if any(row.seeds != todo.seeds for row in rows):
        notes.append(
            "Of some rows a seed failed: their figures are over the others, differences over the seeds that both have."
        )
    if len(todo.seeds) == 1:
        notes.append("With one seed the intervals tell of these very models only, nothing of how training varies.")
    elif len(todo.seeds) < 5:
        notes.append(
            f"With {len(todo.seeds)} seeds an interval's part that comes from seeds is hardly more than the range seen."
        )
    if todo.drawn:
        notes.append(
            "The paper's figures are of M2E2 and pretrained encoders, ours of the miniature world: only the order can "
            "be compared."
        )
    if todo.what == "fig3":
        notes.append("The paper's Figure 3 is a picture without numbers: there are none to set beside ours.")
    return tuple(notes)
