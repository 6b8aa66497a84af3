"""A small language model that copies what it has never seen."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from xmtl_ray.models.induction import begin_with_induction

SIZES = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False, "attn_implementation": "eager",
}  # fmt: skip


def model(wired: bool, **sizes) -> Qwen2ForCausalLM:
    """Embeddings and head alike, as ``generative.built`` has them."""
    torch.manual_seed(0)
    made = Qwen2ForCausalLM(Qwen2Config(**SIZES | sizes))
    made.lm_head.weight.data.copy_(made.get_input_embeddings().weight.data.mul_(5))
    assert not wired or begin_with_induction(made)
    return made


def copied(made, steps: int) -> float:
    """Share of tokens that are copied rightly after ``steps`` of training on random spans; no two texts are alike."""
    drawn = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    share = 0.0
    for step in range(steps):
        length = int(torch.randint(5, 20, (1,), generator=drawn))
        begin = int(torch.randint(0, length - 3, (1,), generator=drawn))
        text = torch.randint(2, 200, (32, length), generator=drawn)
        span = text[:, begin : begin + 6]
        ids = torch.cat([text, torch.ones_like(text[:, :1]), span], 1)
        logits = made(input_ids=ids).logits[:, -span.shape[1] : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), span[:, 1:].flatten())
        if step >= steps - 10:
            share += (logits.argmax(-1) == span[:, 1:]).float().mean().item() / 10
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return share


def test_two_heads_look_back():
    """One and two tokens, whatever the tokens are."""
    attended = model(True)(torch.randint(0, 200, (3, 12)), output_attentions=True).attentions[0]
    for head in (0, 1):
        expected = torch.arange(12).sub(head + 1).clamp(min=0)
        assert torch.equal(attended[:, head].argmax(-1)[:, head + 1 :], expected.expand(3, -1)[:, head + 1 :])
        assert attended[:, head].amax(-1)[:, head + 1 :].min() > 0.7


def test_copying_is_learnt_at_once():
    """In a hundred steps, of spans of which none was seen before; by chance alone it is not."""
    assert copied(model(True), 100) > 0.6
    assert copied(model(False), 100) < 0.1


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 1}, {"num_key_value_heads": 1}])
def test_too_small_models_stay_random(sizes):
    """Told by the return value; no weight is touched."""
    made = model(False, **sizes)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert not begin_with_induction(made)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_models_without_biases_stay_random():
    """Mistral's heads cannot look a fixed number of tokens back."""
    assert not begin_with_induction(MistralForCausalLM(MistralConfig(**SIZES)))
