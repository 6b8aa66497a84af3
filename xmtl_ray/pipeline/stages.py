"""What a stage is, when it is done, and why it must run; knows nothing of what stages do.

A stage's key is a hash of its kind, the settings that matter to it, its input files' content and the keys of the stages
before it. Its outputs lie in ``ROOT/KIND-KEY``, so whoever asks for the same work finds it done: another pipeline, a
sweep, a row of a table. ``stage.json`` is written last and by renaming: a folder without it is unfinished, and is
gone on with. Keys follow from definitions alone, which makes a whole plan known before anything runs; that what a stage
has read is still what the stage before it holds is checked beside them, by content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xmtl_ray.pipeline.hashing import Hashes, combined

FORMAT = 1
"""Of keys and of stage.json; another one makes every stage run again."""
RECORD, LOG = "stage.json", "stage.log"

Plain = str | int | float | bool | None


class StageError(ValueError):
    """A stage that cannot be planned: what it lacks."""


@dataclass(frozen=True)
class Demand:
    """What a stage takes from a cluster while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    inside: bool = True
    """Whether the stage's own process uses it; false: it starts tasks or actors that do, and itself needs nothing."""


@dataclass(frozen=True)
class Work:
    """What a stage is given to run with."""

    folder: Path
    """Where its outputs go; may hold what an earlier, unfinished start left."""
    before: Mapping[str, Path]
    """Folders of the stages before it, by the names that it has for them."""
    facts: Mapping[str, str]
    """Where it comes from, for whoever keeps records: its key, its inputs' hashes."""
    parent: str | None
    """The tracked run that this is a part of."""


@dataclass(frozen=True)
class Stage:
    """A piece of work whose outputs follow from its settings and inputs."""

    kind: str
    """Names the work and begins its folder's name."""
    settings: Mapping[str, Plain]
    """Dotted path → value of each setting that the outputs depend on."""
    run: Callable[[Work], None]
    """Does the work; a module's own function or a partial of one, for it goes to another process. Raises ValueError
    for what the user can mend."""
    outputs: tuple[str, ...]
    """Files and folders, relative to its folder, that must be there afterwards; what else it leaves does not count."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Input files and folders, by name."""
    before: Mapping[str, Stage] = field(default_factory=dict)
    """Stages whose outputs it reads, by the name that it has for them."""
    demand: Demand = Demand()
    title: str = ""
    """For people; none: the kind."""

    @property
    def name(self) -> str:
        """What it is called on the terminal."""
        return self.title or self.kind


class Record(BaseModel):
    """``stage.json``: what a finished stage was made of and what it has made."""

    model_config = ConfigDict(frozen=True)

    format: int
    kind: str
    key: str
    settings: dict[str, Plain]
    files: dict[str, str]
    """Input name → sha256."""
    before: dict[str, str]
    """Name → key of the stage before."""
    read: dict[str, str]
    """Name → sha256 of that stage's outputs when they were read."""
    outputs: dict[str, str] = {}
    """File → sha256."""
    seconds: float = 0.0
    """Of its last start."""
    finished: str = ""
    """UTC, ISO 8601."""


State = Literal["done", "runs", "waits"]


@dataclass(frozen=True)
class Planned:
    """One stage of a plan. ``waits``: it depends on one that runs."""

    stage: Stage
    key: str
    folder: Path
    state: State
    why: str

    @property
    def log(self) -> Path:
        """What the stage prints."""
        return self.folder / LOG


class Stages:
    """All stages under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes = Hashes(root / ".hashes")
        self._definitions: dict[int, tuple[Stage, Record]] = {}

    def definition(self, stage: Stage) -> Record:
        """The stage's record as far as it is known before it runs. Raises StageError for a missing input."""
        found = self._definitions.get(id(stage))
        if found is None:
            files = {}
            for name, path in stage.files.items():
                try:
                    files[name] = self.hashes.of(path)
                except FileNotFoundError:
                    raise StageError(f"{stage.name}: {name}: {path} does not exist") from None
            before = {name: self.definition(other).key for name, other in stage.before.items()}
            body = {
                "format": FORMAT,
                "kind": stage.kind,
                "settings": dict(stage.settings),
                "files": files,
                "before": before,
            }
            text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
            key = hashlib.sha256(text.encode()).hexdigest()
            found = (stage, Record.model_validate(body | {"key": key, "read": {}}))
            self._definitions[id(stage)] = found  # holds the stage too, so that its id stays its own
        return found[1]

    def folder(self, stage: Stage) -> Path:
        """Where the stage's outputs are or will be."""
        return self.root / f"{stage.kind}-{self.definition(stage).key[:12]}"

    def record(self, stage: Stage) -> Record | None:
        """What the stage left when it finished; None if it never did."""
        return read_record(self.folder(stage))

    def read(self, stage: Stage) -> dict[str, str]:
        """Name → sha256 of the outputs of each stage before it, all of which must be done."""
        found = {}
        for name, other in stage.before.items():
            record = self.record(other)
            assert record is not None, f"{other.name} is not done"
            found[name] = combined(record.outputs)
        return found

    def damage(self, stage: Stage) -> str | None:
        """What is wrong with the outputs of a finished stage."""
        record = self.record(stage)
        return None if record is None else damage(self.folder(stage), record, self.hashes)

    def reason(self, stage: Stage) -> str | None:
        """Why the stage must run, given that all before it are done; None where it need not."""
        record, definition = self.record(stage), self.definition(stage)
        if record is None:
            return self._undone(stage)
        if (broken := self.damage(stage)) is not None:
            return broken
        changed = [name for name, value in self.read(stage).items() if record.read.get(name) != value]
        if changed:
            return f"{', '.join(changed)} came out otherwise than when it was read"
        assert record.key == definition.key
        return None

    def plan(self, stages: Iterable[Stage]) -> list[Planned]:
        """All of ``stages`` and what they depend on, each once, those before others first."""
        planned: dict[str, Planned] = {}
        for stage in in_order(stages):
            definition, folder = self.definition(stage), self.folder(stage)
            if definition.key in planned:
                continue
            pending = [other.name for other in stage.before.values() if planned[self._key(other)].state != "done"]
            if not pending:
                why = self.reason(stage)
                planned[definition.key] = Planned(
                    stage, definition.key, folder, "done" if why is None else "runs", why or "nothing has changed"
                )
                continue
            on = f"depends on {', '.join(dict.fromkeys(pending))}"
            if self.record(stage) is None:
                on = f"{self._undone(stage)}; {on}"
            else:
                on = self.damage(stage) or f"{on}; not if that comes out as it was"
            planned[definition.key] = Planned(stage, definition.key, folder, "waits", on)
        return list(planned.values())

    def _key(self, stage: Stage) -> str:
        return self.definition(stage).key

    def _undone(self, stage: Stage) -> str:
        """Why a stage without a record has none."""
        if self.folder(stage).exists():
            return "was begun and not finished; goes on"
        definition = self.definition(stage)
        others = [record for record in self._finished(stage.kind) if record.format == FORMAT]
        if not others:
            return "never run"
        newest_first = sorted(others, key=lambda record: record.finished, reverse=True)
        nearest = min(newest_first, key=lambda record: len(list(_differences(record, definition))))
        parts = list(_differences(nearest, definition))
        # What is another stage before it is told only where nothing else is: that one has told why itself.
        parts = parts or [
            f"another {name}" for name in definition.before if nearest.before.get(name) != definition.before[name]
        ]
        return "; ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")

    def _finished(self, kind: str) -> Iterator[Record]:
        for folder in self.root.glob(f"{kind}-*"):
            if (record := read_record(folder)) is not None and record.kind == kind:
                yield record


def _differences(earlier: Record, now: Record) -> Iterator[str]:
    """What makes two stages of a kind differ, in words; stages before them aside."""
    for path in sorted(earlier.settings.keys() | now.settings.keys()):
        old, new = earlier.settings.get(path), now.settings.get(path)
        if path not in earlier.settings:
            yield f"setting {path} is new"
        elif path not in now.settings:
            yield f"setting {path} is gone"
        elif old != new:
            yield f"setting {path} was {old}, is {new}"
    for name in sorted(earlier.files.keys() | now.files.keys()):
        if earlier.files.get(name) != now.files.get(name):
            yield f"input {name} has changed"


def read_record(folder: Path) -> Record | None:
    """``stage.json`` of a folder; None where there is none, or none that can be trusted."""
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def damage(folder: Path, record: Record, hashes: Hashes) -> str | None:
    """The first output that is not as it was written, in words; None if all are."""
    roots = dict.fromkeys(name.split("/")[0] for name in record.outputs)
    now: dict[str, str] = {}
    for root in roots:
        if (folder / root).exists():
            now |= _named(folder, root, hashes)
    for name, value in record.outputs.items():
        if name not in now:
            return f"output {name} is missing"
        if now[name] != value:
            return f"output {name} was altered"
    return None


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """The stages and all that they depend on, each after those before it."""
    found: dict[int, Stage] = {}

    def visit(stage: Stage) -> None:
        if id(stage) not in found:
            for other in stage.before.values():
                visit(other)
            found[id(stage)] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def written(folder: Path, outputs: Sequence[str], hashes: Hashes) -> dict[str, str]:
    """File → sha256 of what a stage has left. Raises StageError for an output that is not there."""
    found: dict[str, str] = {}
    for output in outputs:
        if not (folder / output).exists():
            raise StageError(f"{folder / output}: not there, though the stage has ended; expected it to leave it")
        found |= _named(folder, output, hashes)
    return found


def _named(folder: Path, output: str, hashes: Hashes) -> dict[str, str]:
    """File → sha256 under an output, named relative to ``folder``."""
    files = hashes.files(folder / output)
    return {f"{output}/{name}" if name else output: value for name, value in files.items()}
