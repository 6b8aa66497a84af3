"""A sweep as a file: which recipe, what is varied between which ends, how it is searched, when a trial is stopped.

Settings have the same dotted paths as in recipes, on the command line and in MLflow. What is wrong is told with the
file, the line and the field, before anything starts.
"""

from __future__ import annotations

import difflib
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from xmtl_ray.config.load import ConfigError, parse
from xmtl_ray.config.run import Fraction, Positive, Section
from xmtl_ray.tuning.domains import ENDLESS, Domain, Scalar

FOLDER = "tune_spaces"

Search = Literal["random", "grid", "tpe", "pbt"]


class SpaceError(ValueError):
    """A space that cannot be swept: file, line and field, what was found, what was expected."""


class Asha(Section):
    """Asynchronous successive halving: at each rung a trial that is not among the best 1/reduction is stopped."""

    grace: Positive = 1
    """Epochs that every trial is given: the first rung."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """Each rung is so many times the one before it."""


class Scheduler(Section):
    """Whether trials are stopped before their end."""

    asha: Asha | None = None


class Pbt(Section):
    """Population based training: now and then the worst go on with the weights of the best, at other settings."""

    interval: Positive = 1
    """Epochs between two such moments."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the population that is replaced, by the same share of the best."""
    resample: Fraction = 0.25
    """Probability that a setting is drawn anew rather than moved a step (factors 0.8 and 1.2)."""


class Space(Section):
    """A sweep."""

    recipe: str
    """A recipe of the package, or a YAML file; X-MTL's or one of a generative model."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Of the sweep: its folder in the recipe's `storage_path`, and its MLflow run."""
    metric: str
    """Dev metric that trials are compared by."""
    mode: Literal["max", "min"] = "max"
    """Whether more is better."""
    samples: Positive | None = None
    """Trials; with pbt the population. A grid has as many as it has points."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what is drawn. Trials train by the recipe's own seed."""
    search: Search = "random"
    """random: independent draws. grid: every combination. tpe: Optuna's tree of Parzen estimators, after ten draws.
    pbt: settings change while trials run."""
    scheduler: Scheduler | Literal["none"] = "none"
    """none, or asha with its numbers."""
    pbt: Pbt = Pbt()
    """Only with search: pbt."""
    concurrency: Positive | None = None
    """Trials side by side at most; none: as many as the cluster has room for now. On a cluster that is joined, and may
    grow, so many are begun even where there is no room for them yet."""
    fixed: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Settings on top of the recipe, the same for all trials."""
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    """Dotted path → what its values are drawn from."""

    @property
    def asha(self) -> Asha | None:
        """ASHA's numbers; None: no trial is stopped."""
        return None if self.scheduler == "none" else self.scheduler.asha

    @property
    def drawn(self) -> dict[str, Domain]:
        """The coordinates of the search."""
        return {path: domain for path, domain in self.space.items() if domain.drawn}

    @field_validator("metric")
    @classmethod
    def _dev(cls, metric: str) -> str:
        if metric.startswith("test/"):
            raise ValueError(
                f"found {metric}, expected a dev metric: settings chosen by test scores fit the test set, whose scores "
                "then no longer tell how the model does on new documents; the best trial is scored on it once, by "
                "training its best.yaml"
            )
        if not metric.startswith("dev/"):
            raise ValueError(f"found {metric}, expected a dev metric, such as dev/mean_f1")
        return metric

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.drawn:
            raise ValueError("space: nothing in it is drawn")
        for path, domain in self.space.items():
            if path in self.fixed:
                raise ValueError(f"fixed.{path}: is in space too; leave it out of one")
            if domain.kind == "grid" and self.search != "grid":
                raise ValueError(f"space.{path}: found grid with search: {self.search}, expected choice")
            if domain.kind in ENDLESS and self.search == "grid":
                raise ValueError(f"space.{path}: found {domain.kind}, expected grid, choice, int or quniform in a grid")
            if domain.source == path:
                raise ValueError(f"space.{path}: depends on itself")
            other = self.space.get(domain.source or "")
            if other is not None and other.source is not None:
                raise ValueError(f"space.{path}: {domain.source} itself follows {other.source}; name that one")
        if (self.samples is None) != (self.search == "grid"):
            raise ValueError(
                "samples: found a number, but a grid has as many trials as points; leave it out"
                if self.search == "grid"
                else f"samples: found none, expected how many trials with search: {self.search}"
            )
        if self.search == "pbt" and self.asha is not None:
            raise ValueError("scheduler: found asha, expected none with search: pbt, which replaces the worst itself")
        if self.search != "pbt" and self.pbt != Pbt():
            raise ValueError(f"pbt: found numbers for it with search: {self.search}")
        if self.search == "pbt" and (self.samples or 0) < 2:
            raise ValueError("samples: found 1, expected a population of at least 2 with search: pbt")
        return self


def shipped() -> dict[str, Path]:
    """Name → file of the spaces that can be given by name.

    Those of ``tune_spaces`` in the working folder come first, then those beside the package in its repository, then
    those that an installation has put under ``share/xmtl_ray``.
    """
    beside = Path(__file__).resolve().parents[2] / FOLDER
    installed = Path(sysconfig.get_path("data")) / "share" / "xmtl_ray" / FOLDER
    found: dict[str, Path] = {}
    for folder in (Path.cwd() / FOLDER, beside, installed):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load(space: str, overrides: Sequence[str] = (), fields: Mapping[str, int] = MappingProxyType({})) -> Space:
    """A file, or a name in ``tune_spaces`` → the sweep. Raises SpaceError.

    Args:
        space: file or name.
        overrides: ``path.to.field=value`` for ``fixed``; ``name=…`` names the sweep.
        fields: of the space itself, in the place of the file's.
    """
    path = _find(space)
    text = path.read_text(encoding="utf-8")
    try:
        tree = parse(text, str(path))
    except ConfigError as error:
        raise SpaceError(str(error)) from None
    tree |= fields
    fixed = tree.setdefault("fixed", {})
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name:
            raise SpaceError(f"{override!r}: expected path.to.field=value")
        if not isinstance(fixed, dict):
            break
        given = parse(f"value: {value}", override)["value"]
        if name == "name":
            tree["name"] = given
        else:
            fixed[name] = given
    try:
        return Space.model_validate(tree)
    except ValidationError as error:
        raise SpaceError("\n".join(_lines(error, path, text))) from None


def dump(space: Space) -> str:
    """YAML that ``load`` takes, whole: with what was given on the command line."""
    return yaml.safe_dump(plain(space), sort_keys=False, allow_unicode=True, width=110)


def plain(space: Space) -> dict[str, Any]:
    """What was given, as plain values, from which the space is built again; keys keep their types, as in no JSON."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return [listed(item) for item in value] if isinstance(value, tuple) else value

    found: dict[str, Any] = listed(space.model_dump(by_alias=True, exclude_unset=True))
    return found


def _find(space: str) -> Path:
    path = Path(space)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise SpaceError(f"{path}: no such file")
        return path
    names = shipped()
    if space not in names:
        close = difflib.get_close_matches(space, names, n=1, cutoff=0.5)
        nearest = f"; did you mean {close[0]!r}?" if close else ""
        raise SpaceError(f"no space {space!r}{nearest}; there are {', '.join(names)}")
    return names[space]


def _lines(error: ValidationError, path: Path, text: str) -> Iterator[str]:
    """An error a line: file, line number, field, what is wrong."""
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    for item in error.errors(include_url=False):
        location = [part for part in item["loc"] if part not in {"Scheduler", "literal['none']"}]
        field = ".".join(str(part) for part in location)
        told = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            told = "no such field"
        if field == "" and ": " in told:  # of the whole: begins with the field it is about
            location = _known(told.partition(": ")[0])
        line = _line(tree, location)
        yield f"{path}, line {line}: {field}{': ' if field else ''}{told}"


def _known(field: str) -> list[int | str]:
    """A field as the parts of its location: dotted paths of settings are one part."""
    first, dot, rest = field.partition(".")
    return [first, rest] if dot else [first]


def _line(node: Any, location: Sequence[int | str]) -> int:
    """Line of the deepest part of ``location`` that the file has."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
