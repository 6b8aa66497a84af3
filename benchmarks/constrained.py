"""What holding answers to a grammar costs: compiling, and a step with the mask against one without.

``python benchmarks/constrained.py [--rows N] [--steps N] [--cuda] [--json]``; a Qwen2 of random weights and four narrow
layers, with a vocabulary of VideoLLaMA2.1's size made up of random letters. Its step is far shorter than that of seven
billion weights, so the ratio is the worst case; the mask's own time per step is what can be carried over.
"""

import argparse
import json
import random
import string
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from xmtl_ray.events.ontology import m2e2
from xmtl_ray.generative.constrained import AnswerGrammars, AnswerMask

VOCABULARY, WORDS = 152_064, 200
"""Tokens; words of a source."""


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: all bytes, then tokens of one to eight letters, some with a quotation mark."""
    draw = random.Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = dict.fromkeys(alphabet)
    while len(texts) < vocabulary - 3:
        text = "".join(draw.choices(string.ascii_letters, k=draw.randint(1, 8)))
        start = draw.choice(["", "Ġ"])
        texts[start + (text[:2] + '"' + text[2:4] if draw.random() < 0.04 else text)] = None
    made = Tokenizer(models.BPE(vocab={text: token for token, text in enumerate(texts)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def seconds(work, device: str) -> float:
    """Wall time of ``work``."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(rows: int, steps: int, device: str) -> dict[str, float]:
    """Milliseconds, and the ratio of a step with its mask to the same without."""
    torch.manual_seed(0)
    words = tokenizer()
    config = Qwen2Config(vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
                         num_attention_heads=8, num_key_value_heads=2, initializer_range=0.5)  # fmt: skip
    model = Qwen2ForCausalLM(config).to(device).eval()
    # Answers that hardly end: a row that has ended costs no mask.
    grammars = AnswerGrammars(words, VOCABULARY, m2e2().roles_of, events=1000)
    endings = torch.tensor([token for text, token in words.get_vocab().items() if text.startswith("]")], device=device)
    draw = random.Random(1)
    source = " ".join("".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 9))) for _ in range(WORDS))
    found = {
        "compile_free_ms": 1e3 * seconds(lambda: grammars.compiled(None), device),
        f"compile_{WORDS}_words_ms": 1e3 * seconds(lambda: grammars.compiled(source), device),
    }
    prompt = torch.randint(0, 256, (rows, 16), device=device)

    def going_on(input_ids, scores):
        scores[:, endings] -= 1e4
        return scores

    for name, given in (("free", None), ("quoted", source)):
        times = []
        for _ in range(3):
            mask = Timed(grammars.mask([given] * rows), device)
            sampling = {"do_sample": True, "temperature": 1.5, "pad_token_id": 0, "max_new_tokens": steps}

            def generate(mask=mask, sampling=sampling):
                model.generate(prompt, logits_processor=[mask, going_on], **sampling)

            times.append((seconds(generate, device), mask.spent))
        whole, own = (1e3 * value / steps for value in min(times))
        found |= {f"{name}_step_ms": whole, f"{name}_mask_ms": own, f"{name}_ratio": whole / (whole - own)}
    return found


class Timed:
    """A mask and the seconds that it has taken."""

    def __init__(self, mask: AnswerMask, device: str) -> None:
        self.mask, self.device, self.spent = mask, device, 0.0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """As the mask does."""
        start = time.perf_counter()
        allowed = self.mask(input_ids, scores)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.spent += time.perf_counter() - start
        return allowed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = main(asked.rows, asked.steps, "cuda" if asked.cuda else "cpu")
    if asked.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value:10.2f}")
