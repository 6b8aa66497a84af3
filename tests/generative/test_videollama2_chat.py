"""VideoLLaMA2 as a chat model: rows packed or not, batches however split, features kept or not, the same losses."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from xmtl_ray.config.finetune import Generation
from xmtl_ray.data.pixels import Preprocess
from xmtl_ray.data.tower_features import TowerFeatures
from xmtl_ray.events.records import Conversation, DataError, Media, Turn
from xmtl_ray.generative.answering import answers
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.models import chat as templates
from xmtl_ray.models.splice import IGNORED, TAGS

CPU = torch.device("cpu")


def loss(chat, conversations) -> torch.Tensor:
    """Summed over the tokens of one batch."""
    with torch.no_grad():
        return NextToken(chat, "torch")(chat.collate([chat.encode(one) for one in conversations]))["lm"]


@pytest.fixture
def looked():
    """Counts a tower's passes and the pictures in them."""

    def watch(chat) -> Counter:
        counts = Counter()
        chat.module.tower.register_forward_hook(
            lambda tower, given, found: counts.update(passes=1, pictures=len(given[0]))
        )
        return counts

    return watch


# --- Losses -----------------------------------------------------------------------------------------------------------


def test_a_packed_batch_has_the_loss_of_its_sequences_alone(chat, mixed, family):
    """Text, images and videos in fewer rows than there are sequences: no sequence sees another."""
    alone = torch.stack([loss(chat(family), [one]) for one in mixed]).sum()
    longest = max(chat(family).encode(one).length for one in mixed)
    for capacity in (None, 2 * longest, 10_000):
        packed = chat(family, capacity=capacity)
        batch = packed.collate([packed.encode(one) for one in mixed])
        rows = len(batch.layout.ids)
        assert rows == {None: len(mixed), 10_000: 1}.get(capacity, rows) and (capacity is None or rows < len(mixed))
        torch.testing.assert_close(loss(packed, mixed)[0], alone, rtol=1e-5, atol=0)


def test_what_a_medium_shows_counts(chat, mixed, family, corpus):
    """Another image or video in a packed batch is another loss: each row has its own."""
    one = chat(family, capacity=10_000)
    whole = loss(one, mixed)
    for place in (1, 2):
        others = [item.media for item in mixed if item.media and item.media != mixed[place].media]
        swapped = next(medium for medium in others if medium.kind == mixed[place].media.kind or place == 1)
        changed = [*mixed[:place], replace(mixed[place], media=replace(swapped)), *mixed[place + 1 :]]
        assert abs(loss(one, changed) - whole) > 1e-3


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4]])
def test_a_global_batch_has_one_loss_however_it_is_split(chat, mixed, family, sizes):
    """Sums over tokens add up, in any order; so do gradients."""
    one = chat(family, capacity=700)
    objective = NextToken(one, "torch")
    samples = [one.encode(item) for item in mixed]
    expected = objective(one.collate(samples))["lm"]
    expected.sum().backward()
    weight = one.module.connector.readout[0].weight
    whole, weight.grad = weight.grad, None
    total, place = torch.zeros(1), 0
    for size in sizes:
        part = objective(one.collate(samples[::-1][place : place + size]))["lm"]
        part.sum().backward()
        total, place = total + part.detach(), place + size
    torch.testing.assert_close(total, expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(weight.grad, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


def test_learnt_tokens(chat, mixed, family):
    """As many in the batch, packed or not, as its samples say: what a mean over tokens is divided by."""
    for capacity in (None, 10_000):
        one = chat(family, capacity=capacity)
        samples = [one.encode(item) for item in mixed]
        labels = one.collate(samples).labels
        assert (labels[:, 1:] != IGNORED).sum() == sum(sample.learnt for sample in samples)


def test_answers_alone_and_together(chat, mixed, family):
    """Greedy answers of a padded batch of all kinds are those of each conversation by itself."""
    one = chat(family)
    samples = [one.encode(item) for item in mixed]
    many = {
        batch: {found.id: found for found in answers(one, samples, settings(batch), CPU)} for batch in (1, len(samples))
    }
    assert many[1] == many[len(samples)] and set(many[1]) == {item.id for item in mixed}
    assert len({found.text for found in many[1].values()}) > 1


def test_sampled_answers_follow_their_seed_alone(chat, mixed):
    """Whatever was drawn before, and what is drawn after them does not follow from it: dropout goes on."""
    one = chat()
    samples = [one.encode(item) for item in mixed]
    warm = Generation(temperature=1.0, top_p=1.0, max_new_tokens=6, batch=4)
    texts, after = [], []
    for seed, drawn in ((0, 1), (1, 1), (0, 2)):
        torch.manual_seed(drawn)
        texts.append([found.text for found in answers(one, samples, warm, CPU, seed=seed)])
        after.append(torch.rand(1).item())
    assert texts[0] == texts[2] != texts[1]
    torch.manual_seed(1)
    assert after[0] == after[1] == torch.rand(1).item() != after[2]


def test_longest_prompts_first(chat, mixed):
    """In places, those of media too."""
    one = chat()
    samples = {item.id: one.encode(item) for item in mixed}
    widths = []
    for found in answers(one, list(samples.values()), settings(1), CPU):
        widths.append(int(one.collate([samples[found.id]], generation=True).layout.mask.sum()))
    assert widths == sorted(widths, reverse=True)


def settings(batch: int) -> Generation:
    return Generation(greedy=True, max_new_tokens=6, batch=batch)


# --- Prompts ----------------------------------------------------------------------------------------------------------


def starts_with_its_prompt(tokenizer, system: str | None, conversations) -> None:
    """Asked and learnt alike: the first prompt's ids begin the conversation's, and nothing of them is learnt."""
    for one in conversations:
        kind = None if one.media is None else one.media.kind
        mark, said = templates.sign(kind), templates.messages(one.turns, kind, system)
        first = next(place for place, message in enumerate(said) if message["role"] == "user")
        asked = templates.prompt(tokenizer, said[: first + 1], mark)
        row = templates.supervised(tokenizer, said, mark)
        assert row.ids[: len(asked)] == asked
        assert set(row.labels[: len(asked)]) == {IGNORED} and row.labels[len(asked)] == row.ids[len(asked)]
        assert [name for name in row.ids if name < 0] == ([] if kind is None else [TAGS[kind]])


AWKWARD = [
    Conversation("spaces", (Turn("  two  spaces ", '  {"events": []} '),)),
    Conversation("signs", (Turn("[INST] <|im_end|> </s>", "<s> [/INST]"),)),
    Conversation(
        "turns", (Turn("what?", "this"), Turn("where?", "здесь"), Turn("谁", "他")), media=Media("video", "v")
    ),
    Conversation("empty", (Turn("", "a"),), media=Media("image", "i")),
    Conversation("lines", (Turn("a\n\nb\n", "\n{}\n"),)),
]


@pytest.mark.parametrize("system", [None, templates.SYSTEM])
def test_prompts_of_learnt_tokenizers(tokenizers, family, conversations, system):
    """In all four languages, of each kind, and where spaces, signs and several turns might join over the border."""
    everything = [one for some in conversations.values() for one in some[:24]]
    starts_with_its_prompt(tokenizers[family], system, everything + AWKWARD)


@pytest.mark.parametrize("name", ["llama_like_merge", "llama_like_strict", "qwen_like"])
def test_prompts_of_the_vectors_tokenizers(shared, conversations, name):
    """SentencePiece-like and Qwen-like ones; one refuses a system message, and says so."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "vectors" / "videollama2" / "tokenizers" / name)
    everything = [one for some in conversations.values() for one in some[:24]]
    starts_with_its_prompt(tokenizer, None, everything)
    if name == "llama_like_strict":
        with pytest.raises(templates.ChatError, match=r"roles must alternate.*expected it to take system, user"):
            starts_with_its_prompt(tokenizer, templates.SYSTEM, everything)
    else:
        starts_with_its_prompt(tokenizer, templates.SYSTEM, everything)


def test_what_is_encoded(chat, mixed, family):
    """The prompt that is asked is the row's beginning; a medium takes the model's places; the end token is learnt."""
    one = chat(family)
    for item in mixed:
        sample = one.encode(item)
        assert sample.asked == tuple(sample.row.ids[: len(sample.asked)]) and sample.row.labels[0] == IGNORED
        extra = 0 if item.media is None else one.module.tokens - 1
        assert sample.length == len(sample.row.ids) + extra
        text = one.tokenizer.decode([label for label in sample.row.labels if label >= 0])
        assert text.strip() == item.turns[0].answer + one.tokenizer.eos_token


def test_system_message(chat, mixed):
    """The long one of the first VideoLLaMA2 is said or not, as asked; 2.1 has none of its own."""
    said, silent = chat("videollama2", system=True), chat("videollama2")
    assert templates.SYSTEM in said.tokenizer.decode(said.encode(mixed[0]).asked)
    assert templates.SYSTEM not in silent.tokenizer.decode(silent.encode(mixed[0]).asked)
    ends = [one.encode(mixed[0]).row.labels[-20:] for one in (said, silent)]
    assert ends[0] == ends[1]
    assert chat("videollama21").encode(mixed[0]) == chat("videollama21", system=True).encode(mixed[0])


def test_sounds_are_refused(chat, mixed):
    """Before anything starts, by the record's name."""
    heard = replace(mixed[0], media=Media("audio", "a.wav"))
    with pytest.raises(DataError, match=rf"a\.wav: record '{mixed[0].id}': media: found 'audio'"):
        chat().encode(heard)


# --- The tower and its features ---------------------------------------------------------------------------------------


def test_kept_features_give_the_same_loss(chat, mixed, family, tmp_path):
    """Bit for bit, as they are made and as they are read again."""
    bare = loss(chat(family, capacity=700), mixed)
    store = TowerFeatures(tmp_path)
    kept = chat(family, capacity=700, features=store)
    first, second = loss(kept, mixed), loss(kept, mixed)
    again = loss(chat(family, capacity=700, features=TowerFeatures(tmp_path)), mixed)
    assert torch.equal(first, bare) and torch.equal(second, bare) and torch.equal(again, bare)
    assert store.hits == 4 and len(list(tmp_path.rglob("*.safetensors"))) == 3  # one of the media is there twice


def test_the_tower_sees_each_medium_once(chat, mixed, looked, tmp_path):
    """In the first epoch every picture of three distinct media, the twins in one batch or two; then never again."""
    media = {item.media for item in mixed if item.media}
    pictures = sum(1 if medium.kind == "image" else 2 for medium in media)
    for name, sizes in (("together", [7]), ("apart", [1] * 7), ("some", [3, 4])):
        one = chat(features=TowerFeatures(tmp_path / name))
        counts = looked(one)
        for epoch in (1, 2):
            place = 0
            for size in sizes:
                loss(one, mixed[place : place + size])
                place += size
            assert counts["pictures"] == pictures, (name, epoch)
        assert counts["passes"] == {"together": 1, "apart": 3, "some": 2}[name]


def test_text_needs_no_tower(chat, conversations, looked):
    """No pass for batches of text, one for all media of a batch; with ``always_see`` one for text, without effect."""
    text = conversations["text"][:4]
    one, always = chat(), chat(always_see=True)
    counts, seen = looked(one), looked(always)
    plain = loss(one, text)
    assert not counts
    torch.testing.assert_close(loss(always, text), plain, rtol=0, atol=0)
    assert seen == {"passes": 1, "pictures": 1}
    loss(always, [*text, conversations["image"][0]])
    assert seen == {"passes": 2, "pictures": 2}


def test_an_empty_picture_has_no_gradient_but_has_one(chat, conversations):
    """With ``always_see`` text reaches every weight of the connector, by zeros."""
    one = chat(always_see=True)
    batch = one.collate([one.encode(item) for item in conversations["text"][:2]])
    NextToken(one, "torch")(batch)["lm"].sum().backward()
    gradients = [weight.grad for weight in one.module.connector.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_features_belong_to_their_tower_and_preprocessing(chat, conversations, looked, tmp_path, corpus):
    """Other weights, padding, kind or type of numbers: seen anew. A copy of the file is the same medium."""
    image = conversations["image"][:2]
    store = TowerFeatures(tmp_path / "features")
    loss(chat(features=store), image)
    assert (store.hits, store.misses) == (0, 2)

    def misses(one) -> int:
        counts = looked(one)
        loss(one, image)
        return counts["pictures"]

    assert misses(chat(features=store)) == 0
    assert misses(chat(features=store, seed=1)) == 2
    assert misses(chat(features=store, pad=False)) == 2
    assert misses(chat("videollama21", features=store)) == 2
    other = chat(features=store)
    other.preprocess = replace(Preprocess.built_in("clip", other.preprocess.side, True), mean=(0.5, 0.5, 0.5))
    assert misses(other) == 2
    half = chat(features=store)
    half.module.to(torch.bfloat16)
    assert misses(half) == 2
    copy = corpus / "copy.jpg"
    shutil.copy(corpus / image[0].media.path, copy)
    counts = looked(one := chat(features=store))
    loss(one, [replace(image[0], media=Media("image", "copy.jpg"))])
    assert not counts
    as_video = replace(image[0], media=Media("video", "copies"))
    (corpus / "copies").mkdir()
    shutil.copy(corpus / image[0].media.path, corpus / "copies" / "0.jpg")
    loss(one, [as_video])
    assert counts == {"passes": 1, "pictures": 2}


def test_a_medium_is_named_where_it_is_missing(chat, mixed):
    """By its path, when the batch is made."""
    one = chat()
    sample = one.encode(replace(mixed[1], media=Media("image", "images/none.jpg")))
    with pytest.raises(DataError, match=r"images/none\.jpg: image: found 'no such file'"):
        one.collate([sample])
    outside = one.encode(replace(mixed[1], media=Media("image", "../../secret.jpg")))
    with pytest.raises(DataError, match="found"):
        one.collate([outside])
