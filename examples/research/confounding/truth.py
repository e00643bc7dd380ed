"""Compare `predict_do` with the known P(Y | do(X)) of a structural causal model.

    python -m confounding.truth --output runs/truth --json confounding/results/truth.json

The films are generated: X is a mass, C an associated stamp, and Y depends on both. The stamp is known in training.
Each of its two strata has a code, a fixed random vector that replaces the confounding feature c:

- "adjusted" learns P(Y | X, c) as sigma(Phi(h_x + c)) with the code of each film's own stratum. Film borders are
  borrowed from other films, so that h_x hardly sees the stamp. `predict_do` then sums over the codes by P(c).
- "own_stratum" does the same on unchanged films, where h_x sees the stamp.
- "all_pairs" pairs each film with both codes by P(c), as the backdoor loss of arXiv 2305.12072, Eq. 7, does with the
  features of other films.

"seen" are the plain predictions of the same models, without an intervention. The last epoch is measured, and nothing is
selected. Each run is a file in OUTPUT. Run the same command again to resume.
"""

import argparse
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import causalcxr
from causalcxr.data import normalise
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss
from records import kept, markdown_table, publish

from .structural import StructuralCXR

MODES = ("adjusted", "own_stratum", "all_pairs")
TEST_FILMS = 1000
TRAINING = {"films": 4000, "correlation": 0.9, "epochs": 12, "batch_size": 32, "lr": 3e-3}
BORROW = causalcxr.BorrowRegions("thorax", probability=1.0)


def paired(mode: str, images: Tensor, strata: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return the films of a mode and the weights of the codes: P(c) for all films, or (B, 2) per film."""
    weights = prior if mode == "all_pairs" else F.one_hot(strata, 2)  # the film's own stratum only
    return BORROW(images) if mode == "adjusted" else images, weights


def train(mode: str, films: StructuralCXR, images: Tensor, seed: int) -> tuple[Any, ConfounderBank]:
    """Train a causal model, and return it with a bank of the codes of all films, whose frequencies are P(c)."""
    torch.manual_seed(seed)
    model = causalcxr.create_model("causal_test_resnet", num_classes=1)
    prior = films.strata.bincount(minlength=2) / len(films)
    codes = torch.randn(2, 1, model.head_hidden_size)
    criterion = CausalLoss(alpha_conf=0.0, alpha_bd=1.0, uniform="bernoulli")
    lr, epochs, batch_size = (TRAINING[name] for name in ("lr", "epochs", "batch_size"))
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    steps = len(films) // batch_size
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps, pct_start=0.2)
    model.train()
    for _ in tqdm(range(epochs), mode, leave=False):
        for batch in torch.randperm(len(films))[: steps * batch_size].view(steps, -1):
            x = normalise(images[batch], model.pretrained_cfg)
            x, weights = paired(mode, x, films.strata[batch], prior)
            output = model.forward_causal(x, codes)
            loss = criterion(output, films.targets[batch], prior=weights)["loss"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    bank = ConfounderBank(len(films), 1, model.head_hidden_size)
    bank.update(codes[films.strata])
    return model.eval(), bank


@torch.no_grad()
def measure(model: Any, bank: ConfounderBank, films: StructuralCXR, images: Tensor) -> dict[str, float]:
    """Return the mean absolute errors of adjusted and plain probabilities, on films like those of training."""
    batches = normalise(images, model.pretrained_cfg).split(100)
    adjusted = torch.cat([model.predict_do(x, bank) for x in batches])[:, 0]
    seen = torch.cat([model(x).sigmoid() for x in batches])[:, 0]
    truth = torch.tensor([films.do_probability(value) for value in (0, 1)])[films.finding]
    return {name: float((p - truth).abs().mean()) for name, p in (("adjusted", adjusted), ("seen", seen))}


def carry_out(mode: str, seed: int) -> dict[str, Any]:
    """Train and measure one model on its own films."""
    trained, tested = (
        StructuralCXR(length, correlation=TRAINING["correlation"], seed=2 * seed + number)
        for number, length in enumerate((TRAINING["films"], TEST_FILMS))
    )
    images = [torch.stack([films[i][0] for i in range(len(films))]) for films in (trained, tested)]
    model, bank = train(mode, trained, images[0], seed)
    return {"mode": mode, "seed": seed, "result": measure(model, bank, tested, images[1])}


def markdown(runs: list[dict[str, Any]]) -> str:
    """Return a table of means over seeds."""
    body = []
    for mode in dict.fromkeys(run["mode"] for run in runs):
        results = [run["result"] for run in runs if run["mode"] == mode]
        body.append([mode, *(f"{fmean(result[name] for result in results):.3f}" for name in ("adjusted", "seen"))])
    return markdown_table(["training", "error of predict_do", "of the model"], body)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write all runs to this file, and the table next to it")
    args = parser.parse_args(argv)
    runs = []
    for seed in args.seeds:
        for mode in MODES:
            path = args.output / f"{mode}-seed{seed}.json"
            runs.append(kept(path, TRAINING, partial(carry_out, mode, seed)))
    publish(args.json, {"runs": runs}, markdown(runs))


if __name__ == "__main__":
    main()
