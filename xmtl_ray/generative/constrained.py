"""Answers that cannot be wrong in form: a model's choice of the next token held to a grammar (XGrammar).

Masks are made on the CPU, one row of the batch each, and applied where the logits are. The surprising fact: the model's
vocabulary says more than text. Every token that was added to it, ``<|im_start|>`` as well as ``<image>``, is forbidden
within an answer: as letters it might pass for free text, and decoding would drop it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import torch
import xgrammar
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from xmtl_ray.events.records import Conversation
from xmtl_ray.events.schema_prompt import source_of
from xmtl_ray.generative.grammar import ARGUMENTS, EVENTS, LETTERS, answer_grammar, close_answer, words

_CACHE_BYTES = 256 << 20
"""Of grammars of sources, which take some 30 kB a word."""


class AnswerGrammars:
    """Compiles the answers that a schema allows for one model's vocabulary.

    Free text is compiled once, which takes seconds where the vocabulary has 150,000 tokens (some 50 ms a letter that
    it may have, shared by the threads); a source some 0.4 ms a word.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: int,
        schema: Mapping[str, Sequence[str]],
        *,
        stops: Sequence[int] | None = None,
        events: int = EVENTS,
        arguments: int = ARGUMENTS,
        letters: int = LETTERS,
        quoted: bool = False,
        threads: int | None = None,
    ) -> None:
        """Read the vocabulary; nothing is compiled yet.

        Args:
            tokenizer: byte-level BPE or one with byte fallback.
            vocabulary: columns of the model's logits; may be more than the tokenizer has.
            schema: event type → its roles.
            stops: tokens that end an answer; None: the tokenizer's end of text.
            events: of an answer, at most.
            arguments: of an event, at most.
            letters: of a free text, at most.
            quoted: for ``processor``: triggers and arguments are quoted from the prompt's source where it has words.
            threads: None: all processors.

        Raises ValueError for a tokenizer without end of text where ``stops`` is None, and as ``answer_grammar`` does.
        """
        self._schema = {event_type: tuple(roles) for event_type, roles in schema.items()}
        self._bounds = {"events": events, "arguments": arguments, "letters": letters}
        self._free_text = answer_grammar(self._schema, **self._bounds)
        self._threads = threads or os.cpu_count() or 1
        self._compiler = xgrammar.GrammarCompiler(
            _tokens(tokenizer, vocabulary, stops), max_threads=self._threads, cache_limit_bytes=_CACHE_BYTES
        )
        self._quoted = quoted
        self._free: xgrammar.CompiledGrammar | None = None

    def compiled(self, source: str | None) -> xgrammar.CompiledGrammar:
        """The grammar of answers that quote ``source``, or of free text where it is None; see ``answer_grammar``."""
        if source is not None:
            return self._compiler.compile_grammar(answer_grammar(self._schema, source, **self._bounds))
        if self._free is None:
            self._free = self._compiler.compile_grammar(self._free_text)
        return self._free

    def mask(self, sources: Iterable[str | None]) -> AnswerMask:
        """What holds a batch to its grammars, one source (None: free text) a row."""
        return AnswerMask([self.compiled(source) for source in sources], self._threads)

    def processor(self, conversations: Iterable[Conversation]) -> AnswerMask:
        """The mask of a batch of answers to conversations' first prompts; free text where an image speaks alone."""
        sources = [source_of(conversation.turns[0].prompt) for conversation in conversations]
        return self.mask(source if self._quoted and words(source) else None for source in sources)

    def close(self, text: str) -> tuple[str, bool]:
        """See ``close_answer``."""
        return close_answer(text)


def _tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int, stops: Sequence[int] | None) -> xgrammar.TokenizerInfo:
    """The bytes that each token stands for; none for added tokens, which XGrammar never allows."""
    if stops is None:
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer: found no token that ends a text, expected one, or stops")
        stops = [tokenizer.eos_token_id]
    read = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=list(stops))
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    letters = [b"" if token in added else text for token, text in enumerate(read.decoded_vocab)]
    return xgrammar.TokenizerInfo(letters, vocab_size=vocabulary, stop_token_ids=list(stops))


class AnswerMask(LogitsProcessor):
    """Forbids what the grammars of a batch's rows do not allow next: for ``generate``, or any loop that goes like it.

    It sees tokens only from its first call on, so the prompt, whatever it is, counts for nothing; each further call
    must bring one token more. For beams it is of no use: their rows change places. ``restart`` before another text.
    """

    def __init__(self, grammars: Sequence[xgrammar.CompiledGrammar], threads: int = 1) -> None:
        """``grammars``: one a row, all of one vocabulary. ``threads`` share the rows of a step."""
        self._matchers = [xgrammar.GrammarMatcher(grammar) for grammar in grammars]
        self._vocabulary = grammars[0].tokenizer_info.vocab_size
        self._mask = xgrammar.allocate_token_bitmask(len(grammars), self._vocabulary)
        self._batch = xgrammar.BatchGrammarMatcher(max_threads=threads)
        self._width: int | None = None

    def restart(self) -> None:
        """Back to the beginning of all answers."""
        for matcher in self._matchers:
            matcher.reset()
        self._width = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Logits with -inf for each token that would leave its row's grammar; a row that has ended may go on anyhow.

        Args:
            input_ids: [B, T], the last column of which was chosen by the logits of the call before.
            scores: [B, V], on any device; not changed.

        Raises ValueError for a batch or vocabulary of another size, for more or less than one token since the last
        call, and for one that was not allowed.
        """
        rows, width = input_ids.shape
        if (rows, scores.shape[1]) != (len(self._matchers), self._vocabulary):
            expected = f"{len(self._matchers)} rows of {self._vocabulary} tokens"
            raise ValueError(f"logits: found {rows} rows of {scores.shape[1]} tokens, expected {expected}")
        if self._width is not None:
            if width != self._width + 1:
                raise ValueError(f"tokens: found {width}, expected {self._width + 1}; restart() before another text")
            self._accept(input_ids[:, -1].tolist())
        self._width = width
        going = self._going()
        self._mask.fill_(-1)
        self._batch.batch_fill_next_token_bitmask([self._matchers[row] for row in going], self._mask, going)
        allowed = scores.clone(memory_format=torch.contiguous_format)
        xgrammar.apply_token_bitmask_inplace(allowed, self._mask.to(scores.device))
        return allowed

    def _going(self) -> list[int]:
        return [row for row, matcher in enumerate(self._matchers) if not matcher.is_terminated()]

    def _accept(self, tokens: Sequence[int]) -> None:
        going = self._going()
        chosen = [tokens[row] for row in going]
        accepted = self._batch.batch_accept_token([self._matchers[row] for row in going], chosen)
        for row, token, right in zip(going, chosen, accepted, strict=True):
            if not right:
                raise ValueError(f"row {row}: found token {token}, expected one that its grammar allows")
