"""Answers of models with random weights, held to the grammar: none is wrong in form, whatever the weights."""

import unicodedata

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Conversation, Turn
from xmtl_ray.events.schema_prompt import PromptStyle, prompt_of
from xmtl_ray.generative.grammar import close_answer, words

pytest.importorskip("xgrammar")
from xmtl_ray.generative.constrained import AnswerGrammars

SCHEMA = {**m2e2().roles_of, "новый тип": ("роль", 'a "role"'), "rain": ()}
SOURCES = (
    'Labs «bought» it\nin Madrid: "C:\\x", 10 %.',
    "北京大学的研究人员发布了新芯片。",
    "Ёлка стоит на площади, за\u0301мок — нет 😀",
    "a a a b a a a",
)
FAMILIES = {
    "qwen_like": (Qwen2Config, Qwen2ForCausalLM),
    "llama_like_merge": (MistralConfig, MistralForCausalLM),
}


@pytest.fixture(params=FAMILIES)
def family(request, shared):
    """A tokenizer and a maker of models whose vocabulary is larger than the tokenizer's."""
    folder = shared / "vectors/videollama2/tokenizers" / request.param
    if not folder.is_dir():
        pytest.skip("the tokenizers are not at hand")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config, kind = FAMILIES[request.param]

    def model(seed):
        torch.manual_seed(seed)
        # A wide initialisation: the choices of one seed differ from those of another.
        settings = config(
            vocab_size=len(tokenizer) + 45, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=1.0, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        return kind(settings).eval()

    return tokenizer, model


def generated(tokenizer, model, mask, rows, tokens=160, **sampling):
    prompts = tokenizer(
        [f"text {number}" for number in range(rows)], return_tensors="pt", padding_side="left", padding=True
    )
    width = prompts["input_ids"].shape[1]
    mask.restart()
    found = model.generate(
        input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"],
        max_new_tokens=tokens, logits_processor=[mask], **sampling,
    )  # fmt: skip
    return found[:, width:]


def is_text(letters):
    return not {unicodedata.category(letter) for letter in letters} & {"Cc", "Cs"}


def is_quoted(text, source):
    runs = words(source)
    return any(
        text == "".join(gap + word for gap, word in runs[start:end])[len(runs[start][0]) :]
        for start in range(len(runs))
        for end in range(start + 1, len(runs) + 1)
    )


def test_hundreds_of_answers_of_random_models(family):
    """Greedy and at temperature 1.5, free text and quotations: all ok, of the schema, from the source."""
    tokenizer, model = family
    tokenizer.pad_token = tokenizer.eos_token
    grammars = AnswerGrammars(tokenizer, len(tokenizer) + 45, SCHEMA, letters=12, events=3, arguments=2, threads=1)
    sources = [None] * 8 + list(SOURCES) * 2
    mask = grammars.mask(sources)
    answers = events = arguments = whole = 0
    for seed in range(4):
        own = model(seed)
        for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 1.5, "top_k": 0}) * 2:
            for source, row in zip(sources, generated(tokenizer, own, mask, len(sources), **sampling), strict=True):
                text = tokenizer.decode(row, skip_special_tokens=True)
                ended = tokenizer.eos_token_id in row.tolist()
                closed, cut = close_answer(text)
                assert not (cut and ended)  # the last token that a limit allows may be an answer's last
                found = parse(closed)
                assert found.state == "ok" and dumps(found.events) == closed
                assert len(found.events) <= 3
                for event in found.events:
                    assert event.event_type in SCHEMA and len(event.arguments) <= 2
                    assert all(role in SCHEMA[event.event_type] for role, _ in event.arguments)
                    for quotation in (event.trigger, *(text for _, text in event.arguments)):
                        assert is_text(quotation) if source is None else is_quoted(quotation, source)
                        assert source is not None or 0 < len(quotation) <= 12
                answers, events, whole = answers + 1, events + len(found.events), whole + ended
                arguments += sum(len(event.arguments) for event in found.events)
    assert answers == 256 and events > 50 and arguments > 20 and 20 < whole < 256


def test_a_mask_is_what_the_grammar_allows(family):
    """First a brace, or a space before it; added tokens and those beyond the tokenizer's never; the end at the end."""
    tokenizer, _ = family
    size = len(tokenizer) + 45
    grammars = AnswerGrammars(tokenizer, size, SCHEMA, letters=9, threads=1)
    mask = grammars.mask([None])
    read = tokenizer('{"events": []}', add_special_tokens=False)["input_ids"]
    ids = torch.zeros((1, 0), dtype=torch.long)
    scores = torch.zeros((1, size))
    for token in [*read, tokenizer.eos_token_id]:
        allowed = mask(ids, scores)[0].isfinite().nonzero()[:, 0].tolist()
        assert token in allowed
        assert all(other < len(tokenizer) for other in allowed)
        assert (tokenizer.eos_token_id in allowed) == (token == tokenizer.eos_token_id)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert allowed == [tokenizer.eos_token_id]
    assert mask(ids, scores).isfinite().all()
    assert (scores == 0).all()

    mask.restart()
    inside = tokenizer('{"events": [{"trigger": "a', add_special_tokens=False)["input_ids"]
    for count in range(len(inside) + 1):
        allowed = mask(torch.tensor([[7] * 5 + inside[:count]]), scores)[0].isfinite().nonzero()[:, 0].tolist()
    assert len(allowed) > 200
    assert not {*tokenizer.added_tokens_decoder} & {*allowed}


def test_rows_have_their_own_grammars_and_a_compiled_one_is_kept(family):
    """One row may quote another text than the next; free text is compiled once."""
    tokenizer, _ = family
    grammars = AnswerGrammars(tokenizer, len(tokenizer), {"rain": ()}, letters=9, threads=1)
    assert grammars.compiled(None) is grammars.compiled(None)
    mask = grammars.mask(["x", "yy", None])
    start = tokenizer('{"events": [{"trigger": "', add_special_tokens=False)["input_ids"]
    scores = torch.zeros((3, len(tokenizer)))
    for count in range(len(start) + 1):
        allowed = mask(torch.tensor([start[:count]] * 3, dtype=torch.long), scores).isfinite()
    firsts = [{tokenizer.decode([token])[:1] for token in row.nonzero()[:, 0].tolist()} for row in allowed]
    assert firsts[0] == {"x"} and firsts[1] == {"y"} and len(firsts[2]) > 50


@pytest.mark.parametrize("quoted", [False, True])
def test_conversations_are_held_to_their_sources(family, quoted):
    """Of any style of prompt; one about an image alone has none to quote. What is cut off is closed."""
    tokenizer, model = family
    tokenizer.pad_token = tokenizer.eos_token
    size = len(tokenizer) + 45
    grammars = AnswerGrammars(tokenizer, size, SCHEMA, quoted=quoted, letters=9, threads=1)
    styles = (PromptStyle(), PromptStyle(schema=True, reason=True))
    sources = [source for source in (*SOURCES, "") for _ in styles] * 3
    prompts = [prompt_of(style, "ru", source, SCHEMA) for source, style in zip(sources, styles * 15, strict=True)]
    mask = grammars.processor([Conversation(str(n), (Turn(text, ""),)) for n, text in enumerate(prompts)])
    seen = set()
    for seed in range(3):
        rows = generated(tokenizer, model(seed), mask, len(sources), do_sample=True, temperature=1.5, top_k=0)
        for source, row in zip(sources, rows, strict=True):
            closed, _ = grammars.close(tokenizer.decode(row, skip_special_tokens=True).strip())
            assert parse(closed).state == "ok"
            seen |= {(bool(source), is_quoted(event.trigger, source)) for event in parse(closed).events}
    assert seen >= ({(True, True), (False, False)} if quoted else {(True, False), (False, False)})
    assert (True, False) not in seen or not quoted


def test_a_step_that_does_not_fit_is_an_error(family):
    """Rows, vocabulary, a step left out, a token that was forbidden, no end of text."""
    tokenizer, _ = family
    size = len(tokenizer)
    grammars = AnswerGrammars(tokenizer, size, SCHEMA, letters=9, threads=1)
    mask = grammars.mask([None, "x"])
    with pytest.raises(ValueError, match=f"found 1 rows of {size} tokens, expected 2 rows"):
        mask(torch.zeros((1, 3), dtype=torch.long), torch.zeros((1, size)))
    with pytest.raises(ValueError, match=f"found 2 rows of {size + 1} tokens"):
        mask(torch.zeros((2, 3), dtype=torch.long), torch.zeros((2, size + 1)))
    mask(torch.zeros((2, 3), dtype=torch.long), torch.zeros((2, size)))
    with pytest.raises(ValueError, match=r"tokens: found 5, expected 4; restart\(\)"):
        mask(torch.zeros((2, 5), dtype=torch.long), torch.zeros((2, size)))
    comma = tokenizer(",", add_special_tokens=False)["input_ids"][-1]
    with pytest.raises(ValueError, match=f"row 0: found token {comma}"):
        mask(torch.full((2, 4), comma), torch.zeros((2, size)))
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no token that ends a text"):
        AnswerGrammars(tokenizer, size, SCHEMA)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_mask_is_the_same_on_a_gpu(family):
    """The logits stay where they are."""
    tokenizer, _ = family
    size = len(tokenizer) + 45
    mask = AnswerGrammars(tokenizer, size, SCHEMA, letters=9, threads=1).mask([None, "x"])
    ids, scores = torch.zeros((2, 0), dtype=torch.long), torch.randn((2, size))
    expected = mask(ids, scores)
    mask.restart()
    found = mask(ids.cuda(), scores.cuda())
    assert found.is_cuda and torch.equal(found.cpu(), expected)
