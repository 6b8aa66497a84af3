"""One rank that trains a small model under DeepSpeed; run as a program: ``FOLDER RANK WORLD_SIZE FROM TO``.

For each ZeRO stage it goes on from ``FOLDER/FROM/STAGE`` (or begins, where FROM is ``-``), does three steps, leaves
``FOLDER/TO/STAGE``, does three more, and prints all losses by stage as JSON. Every global batch is the same whatever
the number of ranks.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from xmtl_ray.config.run import Engine, Optimisation
from xmtl_ray.training import engine as engines

STAGES = (0, 1, 2, 3)


class Objective(nn.Module):
    """Squared errors of a small network, with a weight that does not learn and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.Tanh(), nn.Linear(7, 3))
        self.model[1].eval()
        self.model[0].bias.requires_grad_(False)

    def forward(self, batch):
        return {"td": (self.model(batch["x"]) - batch["y"]).square().sum(1)}


def main(folder: Path, rank: int, world: int, source: str, target: str) -> dict[int, list[float]]:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "LOCAL_SIZE": str(world)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{target}", rank=rank, world_size=world)
    found: dict[int, list[float]] = {}
    for stage in STAGES:
        objective = Objective()
        groups = [
            {"params": [objective.model[0].weight], "lr": 0.05, "peak": 0.05, "weight_decay": 0.1},
            {"params": list(objective.model[3].parameters()), "lr": 0.02, "peak": 0.02, "weight_decay": 0.0},
        ]
        spec = Optimisation(precision="fp32", clip_norm=10)
        config = Engine(name="deepspeed", zero_stage=stage)
        engine = engines.create(config, spec, objective, groups, torch.device("cpu"))
        first = 0
        if source != "-":
            engine.load(
                folder / source / str(stage),
                lambda stage=stage: torch.load(folder / source / str(stage) / "weights", weights_only=True),
            )
            first = int((folder / source / str(stage) / "step").read_text())
        found[stage] = []
        for step in range(first, first + 6):
            drawn = torch.Generator().manual_seed(step)
            x, y = torch.randn(8, 5, generator=drawn), torch.randn(8, 3, generator=drawn)
            mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
            (losses,) = engine.step([{"x": x[mine], "y": y[mine]}], lambda each: each["td"].sum() / 8, 1.0)
            total = losses["td"].double().sum() / 8
            dist.all_reduce(total)
            found[stage].append(total.item())
            if step == first + 2:
                out = folder / target / str(stage)
                weights = engine.weights()
                if rank == 0:
                    out.mkdir(parents=True)
                    torch.save(weights, out / "weights")
                    (out / "step").write_text(str(step + 1))
                dist.barrier()
                engine.save(out)
                dist.barrier()
    dist.destroy_process_group()
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
