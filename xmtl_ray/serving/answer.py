"""Conversations to a file of a generative model's answers: few in this process, many on a pool of Ray actors.

The unit of progress is a shard of conversations, see ``serving.shards``: of one kind of medium and prompts of like
length, so that a batch has little padding, the costliest first. At the end the shards become the output, in one step,
in the order of the conversations.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xmtl_ray.cluster.connection import set_environment
from xmtl_ray.cluster.jobs import Progress
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.data import fingerprint, videollama2
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.remote import Copy
from xmtl_ray.evaluation import generative
from xmtl_ray.events.answers import answer_line, write_samples
from xmtl_ray.events.json_format import STATES, State, parse
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Conversation, DataError, GenerativeSample
from xmtl_ray.events.schema_prompt import parse_reasoned, schema_of
from xmtl_ray.generative import folders
from xmtl_ray.generative.media_check import readable
from xmtl_ray.generative.prompting import Schema, prompted
from xmtl_ray.models import checkpoint_files, qlora
from xmtl_ray.report import generative_page
from xmtl_ray.serving import shards
from xmtl_ray.serving.answerer import Answerer, AnswerJob, as_item

log = logging.getLogger(__name__)

SchemaName = Literal["m2e2", "examples"]
"""The benchmark's event types and roles, or those that the examples' events have."""
BATCHES = 4
"""Of a shard."""
_COSTLY = ("video", "image", "text")


@dataclass(frozen=True)
class Counts:
    """What became of the conversations: ``conversations`` = ``answered`` + ``refused``."""

    conversations: int
    answered: int
    refused: int
    """Left out, each with its reason in the quarantine."""
    resumed: int
    """Answered by an earlier run that was stopped."""
    states: Mapping[State, int]
    """How many answers are event JSON, have it in them, have none."""
    cut: int
    """Answers that a limit on tokens stopped."""
    tokens: int
    """Generated."""
    shortened: int
    """Prompts that lost words at their end, being too long for the model."""
    gold: Path | None
    """Samples of the answered conversations whose own answer is event JSON; None where there are none."""
    samples: int
    """How many these are."""
    reasoned: bool
    """The model was asked to reason before the JSON."""
    quarantine: Path
    """Where it stands what was left out; not there if nothing was."""


def answer(
    model: Path,
    conversations: Path,
    out: Path,
    config: FinetuneConfig | None = None,
    *,
    media: Path | None = None,
    base: Path | None = None,
    bits: qlora.Bits | None = None,
    examples: Path | None = None,
    schema: SchemaName | None = None,
    gold: Path | None = None,
    actors: int | None = None,
    gpu: bool = False,
    shard: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    html: Path | None = None,
    copies: Sequence[Copy] = (),
    progress: Progress | None = None,
) -> Counts:
    """Answer the first prompt of each conversation and write ``out``, whole or not at all.

    Args:
        model: folder of a base, an adapter or a whole checkpoint.
        conversations: file in VideoLLaMA2's layout; its answers are not shown to the model.
        out: JSON lines ``{"id", "output", "cut"}``; beside it ``<out>.parts`` holds shards until the end, and with
            ``skip_bad`` ``<out>.quarantine.jsonl`` says what was left out.
        config: the model's, with prompts and generation as asked for; None: as saved.
        media: folder that images and videos lie below; None: the file's.
        base: where the base of an adapter lies now; None: where it lay.
        bits: of the language model's weights; None: as an adapter was trained, else 16.
        examples: file of conversations for few-shot prompts, and whose events may tell the schema.
        schema: None: the model's own, else the examples'.
        gold: where samples for the scorer are written; None: ``<out>.gold.jsonl``, if there are any.
        actors: of Ray; 0: this process; None: see ``shards.run``.
        gpu: one for each actor, or for this process.
        shard: conversations that are committed together; None: ``BATCHES`` batches.
        seed: of sampling, and of the choice of examples.
        skip_bad: leave broken records out instead of stopping at the first.
        html: page to write, see ``report.generative_page``; needs gold.
        copies: those of the inputs that were fetched, which other nodes fetch for themselves.
        progress: is told conversations.

    On a cluster all other paths must be reachable from every node. Raises ValueError: FolderError, DataError,
    ShardError, ClusterError, StorageError and others.
    """
    set_environment()
    config = config or folders.saved_config(model)
    media = (media or conversations.parent).absolute()
    everything, left_out = _read(conversations, media, skip_bad)
    samples = videollama2.samples(everything, conversations)
    if not samples and (gold or html):
        option = "--samples" if gold else "--html"
        raise ValueError(f"{option}: {conversations} has no answer that is event JSON, expected gold to score by")
    shown = [] if examples is None else _examples(examples)
    known = schema_of_prompts(model, config, schema, shown)
    asked = prompted(everything, config.prompt, known, shown, seed)
    job = AnswerJob(model.absolute(), None if base is None else base.absolute(), bits, config, known, media, seed, gpu)
    parts = out.absolute().with_name(f"{out.name}.parts")
    cut = _cut(job, asked, shard or BATCHES * config.generation.batch)
    todo = {key: items for key, items in cut.items() if not shards.is_done(shards.path_of(parts, key), skip_bad)}
    resumed = sum(map(len, cut.values())) - sum(map(len, todo.values()))
    if resumed:
        log.info("%s: %d conversations were answered before", parts, resumed)
    inputs = {"MODEL": job.model, "--media": media} | ({"--base": job.base} if job.base is not None else {})
    shards.run(
        todo,
        Answerer,
        {"job": job, "parts": parts},
        parts,
        actors=actors,
        gpu=gpu,
        skip_bad=skip_bad,
        noun="records",
        inputs=inputs,
        copies=copies,
        progress=progress,
    )
    found, broken = _gather(parts, cut)
    rows = [found[one.id] for one in everything if one.id in found]
    write_whole(out, lambda path: _write(path, rows))
    shards.write_quarantine(out, "id", [*left_out, *broken])
    samples = [sample for sample in samples if sample.id in found]
    gold = gold or out.with_name(f"{out.name}.gold.jsonl")
    if samples:
        write_whole(gold, lambda path: write_samples(path, samples))
    reasoned = config.prompt.instruction == "ours" and config.prompt.reason
    if html is not None:
        _write_page(html, out.stem, samples, rows, reasoned)
    shutil.rmtree(parts, ignore_errors=True)
    states = Counter(_state(row["output"], reasoned) for row in rows)
    return Counts(
        conversations=len(everything) + len(left_out),
        answered=len(rows),
        refused=len(left_out) + len(broken),
        resumed=resumed,
        states={state: states[state] for state in STATES},
        cut=sum(row["cut"] for row in rows),
        tokens=sum(row["tokens"] for row in rows),
        shortened=sum(row["lost"] > 0 for row in rows),
        gold=gold if samples else None,
        samples=len(samples),
        reasoned=reasoned,
        quarantine=shards.quarantine_of(out),
    )


def _read(file: Path, media: Path, skip_bad: bool) -> tuple[list[Conversation], list[tuple[str, str]]]:
    """Conversations that can be asked about, and id and reason of the others. Raises DataError, ShardError."""
    left_out = list[tuple[str, str]]()
    found = dict[str, Conversation]()

    def refuse(name: str, error: DataError) -> None:
        if not skip_bad:
            raise error
        left_out.append((name, str(error)))

    for one in videollama2.stream(file, (lambda error: refuse("", error)) if skip_bad else None):
        if one.id in found:
            refuse(one.id, DataError(file, one.id, "id", one.id, "an id that no record before has"))
        else:
            found[one.id] = one
    if not found:
        raise ValueError(f"{file}: found no conversation, expected one at least")
    for bad in readable(list(found.values()), media, "quick", 1):
        if not skip_bad:
            raise shards.ShardError(f"{file}: record {bad.id!r}: {bad.reason}; --skip-bad leaves such records out")
        left_out.append((bad.id, bad.reason))
        del found[bad.id]
    return list(found.values()), left_out


def _examples(file: Path) -> list[GenerativeSample]:
    found = videollama2.samples(videollama2.stream(file), file)
    if not found:
        raise ValueError(f"{file}: found no answer that is event JSON, expected training conversations")
    return found


def schema_of_prompts(
    model: Path, config: FinetuneConfig, named: SchemaName | None = None, shown: Sequence[GenerativeSample] = ()
) -> Schema:
    """The event types and roles that prompts tell and answers are held to; empty where none are known or needed.

    Args as in ``answer``; ``shown`` are its examples. Raises ValueError where there are none and they are needed.
    """
    if named == "examples" and not shown:
        raise ValueError("--schema examples: found no --examples, expected the file that has them")
    known = m2e2().roles_of if named == "m2e2" else {} if named else folders.saved_schema(model)
    known = known or schema_of(shown)
    spec, constrained = config.prompt, config.generation.constrained
    told = spec.instruction == "ours" and spec.schema_text
    if not known and (told or constrained != "none"):
        what = f"generation.constrained={constrained}" if constrained != "none" else "prompt.schema_text=true"
        raise ValueError(f"{what}: {model} knows no event schema; name one: --schema m2e2, or --examples FILE")
    if spec.instruction == "ours" and spec.shots and not shown:
        raise ValueError(f"prompt.shots: found {spec.shots}, expected 0, or --examples FILE to take them from")
    return known


def costliest_first(asked: Iterable[Conversation]) -> list[Conversation]:
    """By kind of medium, then by length: neighbours make batches with little padding."""

    def cost(one: Conversation) -> tuple[int, int]:
        return _COSTLY.index("text" if one.media is None else one.media.kind), -len(one.turns[0].prompt)

    return sorted(asked, key=cost)


def _cut(job: AnswerJob, asked: Iterable[Conversation], size: int) -> dict[str, list[str]]:
    """Items by their shard's key."""
    config = job.config
    settings = {
        "model": _hash(job.model, job.base),
        "bits": job.bits,
        "read": config.model.model_dump(mode="json", exclude={"path"}),
        "system": config.prompt.system,
        "generation": config.generation.model_dump(mode="json"),
        "schema": [] if config.generation.constrained == "none" else [*map(list, job.schema.items())],
        "seed": job.seed,
        "gpu": job.gpu,
    }

    ordered = costliest_first(asked)
    found = {}
    for start in range(0, len(ordered), size):
        some = ordered[start : start + size]
        items = [as_item(one) for one in some]
        looked_at = [_looked_at(job.media, one) for one in some]
        found[shards.key_of([settings, looked_at], items)] = items
    return found


def _looked_at(media: Path, one: Conversation) -> list[int]:
    """Size and time of a medium's file, since reading it would take as long again."""
    if one.media is None:
        return []
    found = (media / one.media.path).stat()
    return [found.st_size, found.st_mtime_ns]


def _hash(model: Path, base: Path | None) -> str:
    """Of all that answers hang on in a model's folder; an adapter's base is pinned, its weights are not read here."""
    if (where := folders.base_folder(model, base)) is not None:
        weights = [model / name for name in (qlora.ADAPTER, qlora.REST) if (model / name).is_file()]
        own = [qlora.base_of(model).sha256, fingerprint.of_files([*weights, *_described(model)], model)]
        return shards.key_of(own, [fingerprint.of_files(_described(where), where)])
    return shards.key_of(checkpoint_files.sha256(model), [fingerprint.of_files(_described(model), model)])


def _described(folder: Path) -> list[Path]:
    """Files that say how a checkpoint is read: settings, tokenizer, chat template, preprocessing."""
    kinds = {".json", ".yaml", ".jinja", ".model", ".txt"}
    below = (path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    return sorted(path for path in below if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _gather(parts: Path, keys: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """Rows of the shards by id; ids and reasons of what was refused."""
    found, broken = dict[str, dict[str, Any]](), list[tuple[str, str]]()
    for key in keys:
        with shards.path_of(parts, key).open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if (reason := shards.refusal(line)) is None:
                    found[row["id"]] = row
                else:
                    broken.append((row["refused"], reason))
    return found, broken


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(answer_line(row["id"], row["output"], row["cut"]) + "\n")


def _state(output: str, reasoned: bool) -> State:
    return (parse_reasoned(output).parsed if reasoned else parse(output)).state


def _write_page(
    html: Path, title: str, samples: Sequence[GenerativeSample], rows: Iterable[Mapping[str, Any]], reasoned: bool
) -> None:
    """The scores of the answers, and what went wrong."""
    told = {row["id"]: row["output"] for row in rows}
    scored = generative.score(samples, told, reasoned)
    found = generative.summary(scored, reason=reasoned, cut=[row["id"] for row in rows if row["cut"]])
    write_whole(html, lambda path: generative_page.write_page(path, title, scored, found))
