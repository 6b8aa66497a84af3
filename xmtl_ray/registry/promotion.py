"""`xmtl promote`, `xmtl rollback`: a challenger against the champion, now, on the same documents, and who is champion.

The order makes the guarantee: who is champion is read first, both models are checked and measured, the evidence is
kept, and only then is the decision written down with the champion that it was made on. If that is no longer the
champion, the decision has lost, see ``decisions``.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from xmtl_ray.data import fingerprint
from xmtl_ray.registry import decisions, evidence
from xmtl_ray.registry import gate as gates
from xmtl_ray.registry.decisions import Entry, Kind
from xmtl_ray.registry.evidence import Evidence
from xmtl_ray.registry.registration import FAMILY, experiment_id
from xmtl_ray.registry.server import check_name, checked_out, registry, version_of
from xmtl_ray.tracking.artifacts import address
from xmtl_ray.tracking.registry import SHA256, RegistryError
from xmtl_ray.tracking.run import environment_tags

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Tell = Callable[[str], None]
Word = Literal["promoted", "refused", "lost", "would be promoted", "would be refused", "rolled back"]


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    word: Word
    name: str
    version: str
    """That was to be champion."""
    champion: str | None
    """Now."""
    previous: str | None
    why: str
    request: str
    run_id: str | None
    """MLflow's run with the evidence; None of a dry run."""
    verdicts: tuple[gates.Verdict, ...] = ()
    repeated: bool = False
    """The request was answered before; nothing was done."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured on."""

    data: Path
    """Folder in M2E2's layout, or a file of conversations."""
    objects: Path | None = None
    """Detections of the folder's images."""
    media: Path | None = None
    """Folder of the conversations' media."""
    base: Path | None = None
    """Where adapters' base lies now."""
    gpu: bool = False

    def measure(self, family: str, models: Mapping[str, Path], rules: gates.Gate) -> dict[str, Evidence]:
        """Evidence of models, by version as their folders; by turns if a rule is about latency. Raises ValueError."""
        turns = rules.cost.latency is not None
        if family == "xmtl":
            return evidence.of_documents(models, self.data, self.objects, rules.protocol, self.gpu, turns)
        return evidence.of_conversations(models, self.data, self.media, self.base, self.gpu, turns)

    def sha256(self) -> dict[str, str]:
        """What was given → hash of its content."""
        given = {"data": self.data, "objects": self.objects}
        found = {}
        for name, path in given.items():
            if path is not None and path.is_dir():
                texts = sorted(each for each in path.iterdir() if each.suffix in {".json", ".jsonl", ".txt"})
                found[name] = fingerprint.of_files(texts, path)
            elif path is not None:
                found[name] = fingerprint.of_file(path)
        return found


def promote(
    name: str,
    gate: Path,
    on: Evaluation,
    *,
    version: str | None = None,
    tracking_uri: str | None = None,
    request: str | None = None,
    by: str | None = None,
    note: str = "",
    dry_run: bool = False,
    tell: Tell = lambda text: None,
) -> Outcome:
    """Measure a version and the champion, judge, and make the version champion if the gate lets it pass.

    Args:
        name: of the registered model.
        gate: file of rules.
        on: what is measured on.
        version: None: the newest.
        tracking_uri: MLflow's; None: the environment's.
        request: names this promotion; the same again is answered from the log. None: a new one.
        by: who asks; None: user and machine.
        note: a reason in the user's words, kept with the decision.
        dry_run: decide nothing and write nothing.
        tell: is told each step.

    Raises ValueError. What could not be measured because files or a base were changed is written down as a refusal
    before it is raised.
    """
    rules = gates.read(gate)
    request = request or uuid.uuid4().hex
    with registry(tracking_uri, check_name(name)) as client:
        state = decisions.current(client, name)
        if (known := state.of_request(request)) is not None:
            return _known(name, known, state, {"promote", "refuse"}, version)
        asked = version or _newest(client, name)
        if asked == state.champion:
            raise RegistryError(f"{name}: found version {asked} as champion already, expected another; see --version")
        book = _Book(client, name, address(name, tracking_uri), request, by or _who())
        try:
            family = _family(client, name, asked, state.champion)
            gates.check_fits(rules, family != "xmtl")
            mine, theirs = _measured(client, name, asked, state.champion, family, rules, on, tell)
        except ValueError as error:
            # Changed files or another base are refused; data that cannot be read is the user's business alone.
            if not dry_run and _is_refusal(error):
                book.write("refuse", asked, state.champion, str(error), {})
                book.mark(asked, "refused", str(error))
            raise
        verdicts = gates.judge(rules, mine, theirs)
        passed = gates.passes(verdicts)
        why = "; ".join(str(each) for each in verdicts if passed or each.passed is False)
        why = f"{note}: {why}" if note else why
        if dry_run:
            word: Word = "would be promoted" if passed else "would be refused"
            return Outcome(word, name, asked, state.champion, state.previous, why, request, None, tuple(verdicts))
        tell("writing the decision down")
        files = _files(client, name, gate, rules, on, mine, theirs, verdicts)
        kind: Kind = "promote" if passed else "refuse"
        decision, run_id = book.write(kind, asked, state.champion, why, files)
        after = decisions.read(client, name)
        word = {"moved": "promoted", "recorded": "refused"}.get(decision.outcome, "lost")  # type: ignore[assignment]
        champion = after.champion if after.begun else state.champion
        if word == "lost":
            why = f"the champion is version {champion} by now, and version {state.champion} was measured against"
        book.mark(asked, word, why)
        return Outcome(word, name, asked, champion, after.previous, why, request, run_id, tuple(verdicts))


def rollback(
    name: str,
    *,
    tracking_uri: str | None = None,
    request: str | None = None,
    by: str | None = None,
    note: str = "",
) -> Outcome:
    """Make the champion before the present one champion again; its files must be as registered.

    Args as in ``promote``. Raises ValueError, also where no champion was before.
    """
    request = request or uuid.uuid4().hex
    with registry(tracking_uri, check_name(name)) as client:
        state = decisions.current(client, name)
        if (known := state.of_request(request)) is not None:
            return _known(name, known, state, {"rollback", "refuse"})
        if state.champion is None or state.previous is None:
            raise RegistryError(
                f"{name}: found no champion before {state.champion or 'any'}, expected one to go back to"
            )
        book = _Book(client, name, address(name, tracking_uri), request, by or _who())
        try:
            with checked_out(client, name, state.previous):
                pass
        except RegistryError as error:
            book.write("refuse", state.previous, state.champion, str(error), {})
            raise
        why = note or f"back from version {state.champion}"
        decision, run_id = book.write("rollback", state.previous, state.champion, why, {})
        after = decisions.read(client, name)
        word: Word = "rolled back" if decision.outcome == "moved" else "lost"
        if word == "lost":
            why = f"the champion is version {after.champion} by now, and no longer {state.champion}"
        book.mark(state.previous, word, why)
        return Outcome(word, name, state.previous, after.champion, after.previous, why, request, run_id)


def restore(name: str, *, tracking_uri: str | None = None, by: str | None = None) -> decisions.State:
    """Set the aliases as it was decided, whoever has moved them, and write that down. Raises ValueError."""
    with registry(tracking_uri, check_name(name)) as client:
        state = decisions.read(client, name)
        if not state.begun or state.champion is None:
            raise RegistryError(f"{name}: found no decision of xmtl, expected one that aliases can be set by")
        book = _Book(client, name, address(name, tracking_uri), uuid.uuid4().hex, by or _who())
        book.write("restore", state.champion, state.champion, "aliases set as decided", {})
        return decisions.settle(client, name)


class _Book:
    """Writes a request's decision down: its run with the evidence, the entry, and the mark on the version."""

    def __init__(self, client: MlflowClient, name: str, tracking_uri: str, request: str, by: str) -> None:
        self.client, self.name, self.uri, self.request, self.by = client, name, tracking_uri, request, by

    def write(
        self, kind: Kind, version: str, expected: str | None, why: str, files: dict[str, str]
    ) -> tuple[decisions.Decision, str]:
        """Keep the evidence, then decide; the decision and the run with the evidence."""
        at_ms = int(time.time() * 1000)
        entry = Entry(kind, self.request, version, expected, self.by, why, at_ms, "")
        hashes = {f"sha256.{file}": hashlib.sha256(text.encode()).hexdigest() for file, text in files.items()}
        tags = environment_tags({"xmtl.request": self.request, "xmtl.decided_by": self.by, **hashes})
        experiment = experiment_id(self.client, f"{self.name}{decisions.LOG}", self.uri)
        run_id = str(self.client.create_run(experiment, run_name=f"{kind} {version}", tags=tags).info.run_id)
        listed = {**asdict(entry), "files": hashes}
        with TemporaryDirectory(prefix="xmtl-decision-") as folder:
            for file, text in {**files, "decision.json": json.dumps(listed, indent=1)}.items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
            self.client.log_artifacts(run_id, folder, "decision")
        self.client.set_terminated(run_id)
        return decisions.append(self.client, self.name, Entry(**{**asdict(entry), "run_id": run_id})), run_id

    def mark(self, version: str, word: str, why: str) -> None:
        """Say on the version what was decided last."""
        told = f"{word} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} by {self.by}: {why}"
        self.client.set_model_version_tag(self.name, version, "xmtl.decision", told[:5000])


def _known(
    name: str, known: decisions.Decision, state: decisions.State, kinds: set[Kind], version: str | None = None
) -> Outcome:
    """What a request was answered before. Raises RegistryError where that was another one of the same id."""
    entry = known.entry
    if entry.kind not in kinds or version not in {None, entry.version}:
        raise RegistryError(
            f"request {entry.request}: found entry {known.number}, {entry.kind} of {entry.version}, by that id; "
            "expected a new id for another request"
        )
    words: dict[tuple[str, str], Word] = {
        ("promote", "moved"): "promoted", ("rollback", "moved"): "rolled back", ("refuse", "recorded"): "refused",
    }  # fmt: skip
    word = words.get((entry.kind, known.outcome), "lost")
    return Outcome(
        *(word, name, entry.version, state.champion, state.previous, entry.why, entry.request, entry.run_id),
        repeated=True,
    )


def _is_refusal(error: ValueError) -> bool:
    adapters = sys.modules.get("xmtl_ray.models.qlora")  # who has not loaded it has loaded no adapter
    return isinstance(error, RegistryError) or (adapters is not None and isinstance(error, adapters.AdapterError))


def _newest(client: MlflowClient, name: str) -> str:
    found = [int(each.version) for each in client.search_model_versions(f"name='{name}'")]
    if not found:
        raise RegistryError(f"{name}: found no version, expected one by xmtl register")
    return str(max(found))


def _family(client: MlflowClient, name: str, challenger: str, champion: str | None) -> str:
    """Of both. Raises RegistryError where they cannot be compared."""
    mine = version_of(client, name, challenger).tags[FAMILY]
    if champion is not None:
        theirs = version_of(client, name, champion).tags[FAMILY]
        if (mine == "xmtl") != (theirs == "xmtl"):
            raise RegistryError(f"{name}: found {mine} against champion {theirs}, expected models that answer the same")
    return mine


def _measured(
    client: MlflowClient,
    name: str,
    challenger: str,
    champion: str | None,
    family: str,
    rules: gates.Gate,
    on: Evaluation,
    tell: Tell,
) -> tuple[Evidence, Evidence | None]:
    """Both models' evidence; their files are checked before the first is measured."""
    with ExitStack() as stack:
        folders = {}
        for version in filter(None, (challenger, champion)):
            tell(f"checking version {version}")
            folders[version] = stack.enter_context(checked_out(client, name, version))
        tell("measuring version " + " and version ".join(folders) + (" (champion)" if champion else ""))
        found = on.measure(family, folders, rules)
        return found[challenger], None if champion is None else found[champion]


def _files(
    client: MlflowClient,
    name: str,
    gate: Path,
    rules: gates.Gate,
    on: Evaluation,
    mine: Evidence,
    theirs: Evidence | None,
    verdicts: list[gates.Verdict],
) -> dict[str, str]:
    """The evidence as files."""
    versions = [each.version for each in (mine, theirs) if each is not None]
    found = {
        "protocol": rules.protocol,
        "gate": rules.model_dump(mode="json", by_alias=True),
        "verdicts": [asdict(each) for each in verdicts],
        "challenger": mine.as_dict(),
        "champion": None if theirs is None else theirs.as_dict(),
        "sha256": {
            **on.sha256(),
            "gate": fingerprint.of_file(gate),
            **{f"version.{each}": version_of(client, name, each).tags[SHA256] for each in versions},
        },
    }
    files = {
        "gate.yaml": gate.read_text(encoding="utf-8"),
        "evaluation.json": json.dumps(found, indent=1),
        f"version-{mine.version}.jsonl": evidence.as_lines(mine),
    }
    if theirs is not None:
        files[f"version-{theirs.version}.jsonl"] = evidence.as_lines(theirs)
    return files


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
