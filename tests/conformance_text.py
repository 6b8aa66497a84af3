"""Text and media of VideoLLaMA2's conformance vectors (README §5 and §6) against ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from conformance_vectors import EXACT, Found, Unchecked, read, tokenizer_in, unequal
from transformers import PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import EosTokenCriteria

from xmtl_ray.data import videollama2 as rows_file
from xmtl_ray.events.records import DataError, Turn
from xmtl_ray.models import chat
from xmtl_ray.models.splice import Row


def check_tokenisation(folder: Path) -> Iterator[Found | Unchecked]:
    """README §6: text and a tag → ids."""
    for record in read(folder / "text/multimodal_tokenisation.json"):
        tokenizer = tokenizer_in(folder / "tokenizers" / record["tokenizer"])
        ids = chat.encode(tokenizer, record["text"], record["modal_token"] or "")
        yield Found("multimodal_tokenisation ids", unequal(ids, record["input_ids"]), EXACT)


def kind_of(modal: str | None) -> str | None:
    """A modality or tag of the vectors → what ours calls it."""
    name = (modal or "text").strip("<>")
    return None if name == "text" else name


def turns_of(instruct: str | Sequence[Mapping[str, str]]) -> list[Turn]:
    """What is to be answered, after what was said before."""
    if isinstance(instruct, str):
        return [Turn(instruct, "")]
    said = [message["content"] for message in instruct] + [""]
    return [Turn(*pair) for pair in zip(said[::2], said[1::2], strict=False)]


def prompt_of(folder: Path, tokenizer: str, model_type: str, record: Mapping[str, Any]) -> tuple[list, str, list[int]]:
    """Messages, text and ids of an instruction. Raises ChatError."""
    kind, read_by = kind_of(record["modal"]), tokenizer_in(folder / "tokenizers" / tokenizer)
    said = chat.messages(turns_of(record["instruct"]), kind, chat.system_of(model_type))
    text = chat.template(read_by, said, generation=True)
    return said, text, chat.prompt(read_by, said, chat.sign(kind))


def check_prompts(folder: Path) -> Iterator[Found | Unchecked]:
    """README §6: instructions as the model is asked them, and templates that refuse to."""
    for record in read(folder / "text/inference_prompts.json"):
        try:
            said, text, ids = prompt_of(folder, record["tokenizer"], record["model_type"], record)
        except chat.ChatError:
            yield Found("inference_prompts refused", unequal(True, record["error"] is not None), EXACT)
            continue
        yield Found("inference_prompts refused", unequal(False, record["error"] is not None), EXACT)
        yield Found("inference_prompts messages", unequal(said, record["messages"]), EXACT)
        yield Found("inference_prompts text", unequal(text, record["prompt"]), EXACT)
        yield Found("inference_prompts ids", unequal(ids, record.get("input_ids")), EXACT)
        pad = chat.pad_id(tokenizer_in(folder / "tokenizers" / record["tokenizer"]))
        mask = [int(name != pad) for name in ids]
        yield Found("inference_prompts attention_mask", unequal(mask, record.get("attention_mask")), EXACT)


def said_of(conversations: Sequence[Mapping[str, str]]) -> list[chat.Message]:
    """A training row, its tags normalised → messages; an answer before the first question is dropped."""
    roles = {"human": "user", "gpt": "assistant"}
    said = [chat.Message(role=roles[one["from"]], content=one["value"]) for one in conversations]
    return said[said[0]["role"] == "assistant" :]


def normalised(row: Mapping[str, Any]) -> list[chat.Message]:
    """A training row by our reader, then as the original's training says it. Raises DataError."""
    spoken = row["conversations"]
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "rows.json"
        kept = spoken[spoken[0]["from"] == "gpt" :]  # ours refuses a row that begins with an answer
        file.write_text(json.dumps([{"id": 0, **row, "conversations": kept}]), encoding="utf-8")
        (found,) = rows_file.read(file)
    kind = found.media.kind if found.media else None
    return chat.messages(found.turns, kind, system=None, newline=False)


def check_labels(folder: Path) -> Iterator[Found | Unchecked]:
    """README §6: conversations → ids and what is learnt from."""
    for number, record in enumerate(read(folder / (file := "text/training_labels.json"))):
        mark, tokenizer = record["modal_token"] or "", tokenizer_in(folder / "tokenizers" / record["tokenizer"])
        said = said_of(record["after_tag_normalisation"])
        media = {} if not mark else {mark.strip("<>"): "medium"}
        try:
            ours = normalised(media | {"conversations": record["conversations"]})
            yield Found("after_tag_normalisation", unequal(ours, said), EXACT)
        except DataError as error:
            yield Unchecked(f"{file} {number}", f"normalisation: our reader refuses it: {error}")
        row, wanted = chat.supervised(tokenizer, said, mark), record["finetune"]
        yield Found("training_labels ids", unequal(list(row.ids), wanted["input_ids"]), EXACT)
        yield Found("training_labels labels", unequal(list(row.labels), wanted["labels"]), EXACT)
        text = chat.template(tokenizer, said, generation=False)
        yield Found("training_labels text", unequal(text, wanted["conversation_text"]), EXACT)
        if wanted := record.get("pretrain"):
            row = described(tokenizer, said, mark)
            yield Found("training_labels pretrain ids", unequal(list(row.ids), wanted["input_ids"]), EXACT)
            yield Found("training_labels pretrain labels", unequal(list(row.labels), wanted["labels"]), EXACT)


def described(tokenizer: PreTrainedTokenizerBase, said: Sequence[chat.Message], mark: str) -> Row:
    """The connector's pre-training on a question and its answer."""
    asked, answer = (message["content"] for message in said)
    return chat.described(tokenizer, Turn(asked.removeprefix(mark).removeprefix("\n"), answer), mark.strip("<>"))


def check_stopping(folder: Path) -> Iterator[Found | Unchecked]:
    """README §6: transformers' criterion, which generation stops by, with the tokenizer's end token."""
    for record in read(folder / "text/stopping.json"):
        end = tokenizer_in(folder / "tokenizers" / record["tokenizer"]).eos_token_id
        ids = torch.tensor([[end] * record["prompt_length"] + record["new_tokens"]])
        stops = bool(EosTokenCriteria(end)(ids, torch.empty(0)))
        yield Found("stopping", unequal(stops, record["stops"]), EXACT)
