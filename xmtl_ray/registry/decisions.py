"""Who is champion, decided once: compare-and-set over an append-only log in the registry itself.

MLflow's ``set_registered_model_alias`` is an unconditional upsert: whoever writes last wins, on whatever champion he
had looked at. No lock around it can mend that for processes on several machines: a holder that stalls beyond its lease
writes late all the same, for the alias takes no condition. So the alias decides nothing here.

**What is atomic in MLflow** is the creation of a model version: its number is the highest so far plus one, (name,
number) is the primary key, and its tags are written in the same transaction. Hence ``NAME.decisions``, a registered
model beside ``NAME``, is a log: each of its versions is an entry that is there with all its tags or not at all, no two
have one number, and entry k is committed before k+1 can be numbered, for the number of k+1 was read from it. This holds
for every client of one server, of several servers over one database, or of the database itself (SQLite, PostgreSQL,
MySQL).

**An entry says what it expects**: "promote version 7; the champion that I measured it against is 5; request R". What
became of it follows from the entries before it and nothing else (``replay``): it moves the champion if the champion
there is still 5 and no entry before has request R; else it has lost, or repeats. Everybody who reads the log up to k
computes the same verdict on k, so of promotions that expect one champion exactly one wins, without a lock, a lease or a
clock. **Crashes**: a process that dies before its entry has done nothing; one that dies after it has decided, and
whoever comes next moves the aliases (``settle``). A request that is sent again, by a user, or by an HTTP client that
did not hear the answer, finds its entry, or makes one that repeats: one effect.

**The aliases** ``champion`` and ``previous`` are a copy for those who load models. A writer reads the log again after
it has written them, until nothing is new; so the last of them to finish leaves what the log says. What remains, and no
scheme over an unconditional write can take away: one that stalls between reading the log and writing the alias, and
then dies before it looks again, leaves an older champion there. No decision is ever made on it: the next promotion sees
that alias and log differ and says so, and `xmtl models NAME --restore` sets it right.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from xmtl_ray.registry.registration import made_model
from xmtl_ray.registry.server import CHAMPION, PREVIOUS
from xmtl_ray.tracking.registry import RegistryError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

Kind = Literal["promote", "rollback", "refuse", "restore"]
Outcome = Literal["moved", "lost", "repeated", "recorded"]
"""moved: it changed the champion. lost: the champion was another by then. repeated: its request stands further up.
recorded: it was not to change anything."""
LOG = ".decisions"
_APPLIED = "xmtl.applied"
_ABOUT = "Append-only log of promotions by xmtl: what it says is so. Do not delete versions of it."
_TRIES = 40
_FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "UNAUTHENTICATED"}
"""What MLflow says where another try would end the same."""


@dataclass(frozen=True)
class Entry:
    """A decision as it is written down."""

    kind: Kind
    request: str
    """Of whoever asked; the same again has no further effect."""
    version: str
    """That should be champion, or was refused."""
    expected: str | None
    """The champion that it was decided on; None: there was none."""
    by: str
    why: str
    at_ms: int
    run_id: str
    """MLflow's run that has the evidence."""
    seen: str = ""
    """``NUMBER:HASH`` of the last entry when this one was written: what is changed or removed later shows."""


@dataclass(frozen=True)
class Decision:
    """An entry with its number and what became of it."""

    number: int
    entry: Entry
    outcome: Outcome
    applied: bool
    """The aliases were set after it."""


@dataclass(frozen=True)
class State:
    """What the log says."""

    decisions: tuple[Decision, ...] = ()
    champions: tuple[str, ...] = ()
    """From the first to the present one; a rollback takes the last away."""
    begun: bool = False
    """Some decision has moved the champion; before, the alias counts as somebody has set it by hand."""
    broken: tuple[str, ...] = field(default=())
    """Places where the log is not what was written."""

    @property
    def champion(self) -> str | None:
        """The version, if there is one."""
        return self.champions[-1] if self.champions else None

    @property
    def previous(self) -> str | None:
        """The champion before."""
        return self.champions[-2] if len(self.champions) > 1 else None

    @property
    def number(self) -> int:
        """Of the last entry."""
        return self.decisions[-1].number if self.decisions else 0

    @property
    def settled(self) -> bool:
        """The aliases were set after the last decision that moved the champion."""
        return next((each.applied for each in reversed(self.decisions) if each.outcome == "moved"), True)

    def of_request(self, request: str) -> Decision | None:
        """The first decision of a request."""
        return next((each for each in self.decisions if each.entry.request == request), None)


def replay(entries: Iterable[tuple[int, Entry, bool]]) -> State:
    """The state that entries lead to, in the order of their numbers: (number, entry, whether applied)."""
    decisions: list[Decision] = []
    champions: list[str] = []
    requests: set[str] = set()
    hashes: dict[int, str] = {}
    broken: list[str] = []
    begun = False
    for number, entry, applied in entries:
        outcome: Outcome = "recorded"
        if entry.request in requests:
            outcome = "repeated"
        elif entry.kind == "promote":
            if not begun:
                champions = [] if entry.expected is None else [entry.expected]
            outcome = "moved" if entry.expected == (champions[-1] if champions else None) else "lost"
            if outcome == "moved":
                begun = True
                champions.append(entry.version)
        elif entry.kind == "rollback":
            right = len(champions) > 1 and champions[-2:] == [entry.version, entry.expected]
            outcome = "moved" if right else "lost"
            if right:
                champions.pop()
        requests.add(entry.request)
        if entry.seen:
            place, _, value = entry.seen.partition(":")
            if not place.isdigit() or hashes.get(int(place)) != value:
                broken.append(f"entry {place} is not what entry {number} saw: it was changed or removed")
        hashes[number] = _hash(number, entry)
        decisions.append(Decision(number, entry, outcome, applied))
    numbers = [each.number for each in decisions]
    if missing := sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
        broken.append(f"entries {', '.join(map(str, missing))} are gone")
    return State(tuple(decisions), tuple(champions), begun, tuple(broken))


def read(client: MlflowClient, name: str) -> State:
    """What the log of the registered model ``name`` says."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}{LOG}'", 1000, ["version_number ASC"], token)
        found += page
        if not (token := page.token):
            break
    return replay(sorted((_read(each) for each in found), key=lambda each: each[0]))


def current(client: MlflowClient, name: str) -> State:
    """The state, after aliases that a crash has left behind were set. Raises RegistryError.

    Before the first decision the champion is the alias's; afterwards an alias that says otherwise was moved by hand, or
    by a process that died in the worst moment: then nothing is decided until somebody has looked.
    """
    for attempt in range(4):
        state = read(client, name)
        alias = _aliases(client, name).get(CHAMPION)
        if not state.begun:
            return State(state.decisions, () if alias is None else (alias,), False, state.broken)
        if not state.settled:
            return settle(client, name)
        if alias == state.champion:
            return state
        time.sleep(0.3 * (attempt + 1))  # somebody may be moving it just now
    raise RegistryError(
        f"{name}: found alias {CHAMPION} at {alias or 'no version'}, expected {state.champion}, as decided: it was "
        f"moved by other means than xmtl; xmtl models {name} --restore sets it as decided"
    )


def append(client: MlflowClient, name: str, entry: Entry) -> Decision:
    """Write ``entry`` down, once for its request, and tell what became of it; see the module. Raises RegistryError."""
    source = f"{client.get_run(entry.run_id).info.artifact_uri}/decision"

    def once() -> Decision:
        """Looked for before it is written, so that a try whose answer was lost is not written twice."""
        state = read(client, name)
        if (found := state.of_request(entry.request)) is None:
            last = state.decisions[-1] if state.decisions else None
            seen = "" if last is None else f"{last.number}:{_hash(last.number, last.entry)}"
            if last is None:
                made_model(client, f"{name}{LOG}", {"xmtl.log": name}, _ABOUT)
            client.create_model_version(
                f"{name}{LOG}", source, entry.run_id, _tags(entry, seen), await_creation_for=None
            )
            found = read(client, name).of_request(entry.request)
            assert found is not None
        return found

    decision = _insisting(once)
    _check_same(decision.entry, entry)
    if decision.outcome == "moved" and not decision.applied:
        settle(client, name)
    return decision


def _insisting(action: Callable[[], T]) -> T:
    """Do what has no effect when done twice, until the server can: of many who write at once it refuses some."""
    from mlflow.exceptions import MlflowException

    for attempt in range(_TRIES):
        try:
            return action()
        except MlflowException as error:
            if error.error_code in _FINAL or attempt + 1 == _TRIES:
                raise
            time.sleep(random.uniform(0.05, 0.4))  # noqa: S311
    raise AssertionError("unreachable")


def settle(client: MlflowClient, name: str) -> State:
    """Set the aliases as the log says, until it says nothing new; returns that."""
    state = read(client, name)
    while state.begun:
        before = state
        _insisting(lambda before=before: _copy(client, name, before))  # type: ignore[misc]
        state = read(client, name)
        if state.number == before.number:
            _insisting(lambda state=state: _mark(client, name, state))  # type: ignore[misc]
            return read(client, name)
    return state


def _copy(client: MlflowClient, name: str, state: State) -> None:
    found = _aliases(client, name)
    for alias, version in ((PREVIOUS, state.previous), (CHAMPION, state.champion)):
        if version is None and alias in found:
            client.delete_registered_model_alias(name, alias)
        elif version is not None and found.get(alias) != version:
            client.set_registered_model_alias(name, alias, version)


def _mark(client: MlflowClient, name: str, state: State) -> None:
    applied = {each.number for each in read(client, name).decisions if each.applied}
    for each in state.decisions:
        if each.outcome == "moved" and each.number not in applied:
            client.set_model_version_tag(f"{name}{LOG}", str(each.number), _APPLIED, "true")


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


_FIELDS = ("kind", "request", "version", "expected", "by", "why", "at_ms", "run_id", "seen")
_LONGEST = 5000
"""Of a tag's value, where databases cut or refuse."""


def _tags(entry: Entry, seen: str) -> dict[str, str]:
    values = {name: getattr(entry, name) for name in _FIELDS} | {"seen": seen}
    return {f"xmtl.{name}": "" if value is None else str(value)[:_LONGEST] for name, value in values.items()}


def _read(version: ModelVersion) -> tuple[int, Entry, bool]:
    tags = version.tags
    values = {name: tags.get(f"xmtl.{name}", "") for name in _FIELDS}
    kind: Kind = values["kind"] if values["kind"] in {"promote", "rollback", "restore"} else "refuse"  # type: ignore[assignment]
    entry = Entry(
        kind, values["request"], values["version"], values["expected"] or None, values["by"], values["why"],
        int(values["at_ms"] or 0), values["run_id"], values["seen"],
    )  # fmt: skip
    return int(version.version), entry, _APPLIED in tags


def _hash(number: int, entry: Entry) -> str:
    line = json.dumps([number, *(getattr(entry, name) for name in _FIELDS)])
    return hashlib.sha256(line.encode()).hexdigest()[:32]


def _check_same(found: Entry, asked: Entry) -> None:
    told, asks = (found.kind, found.version), (asked.kind, asked.version)
    if told != asks and "refuse" not in {found.kind, asked.kind}:
        raise RegistryError(
            f"request {asked.request}: found it as {told[0]} of version {told[1]}, expected one that is new for "
            f"{asks[0]} of version {asks[1]}"
        )
