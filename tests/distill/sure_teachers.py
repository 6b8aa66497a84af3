"""Four single-task models with random weights that are sure of what they say: teachers for tests and benchmarks."""

import torch

from xmtl_ray.config.load import load
from xmtl_ray.data import ace05
from xmtl_ray.inference.scorer import Scorer
from xmtl_ray.models import weights

TASKS = ("td", "ae", "vc", "rc")


def make(world, folder, recipe="xmtl_smoke"):
    """Write a model of each task of ``recipe``'s size into ``folder``; by them some pairs of ``world`` agree.

    Their last layers are scaled until the probabilities are near 0 and 1, and moved until triggers are rare and each
    type is shown by less than half of the images.
    """
    words = [sentence.words for sentence in ace05.read(world / "ace" / "train.json")]
    images = sorted((world / "voa" / "images").iterdir())[:40]
    for seed, task in enumerate(TASKS):
        single = [f"multitask.tasks=[{task}]", "multitask.strategy=single", f"train.seed={seed}"]
        config = load(recipe, [f"data.root={world}", *single])
        loaded = weights.create(config, weights.make_tokenizer(config, words))
        head = next(module for name, module in loaded.model.named_modules() if name.endswith("scores"))
        scorer = Scorer([loaded], 64)
        with torch.no_grad():
            if task == "vc":
                head.bias -= torch.tensor(scorer.types(images), dtype=torch.float64).logit().mean(0)
            scale = 300 if task in {"td", "vc"} else 30
            head.weight *= scale
            head.bias *= scale
            if task == "vc":
                head.bias -= 25
            if task == "td":
                head.bias[0] += 400
        weights.save(folder / task, loaded)
