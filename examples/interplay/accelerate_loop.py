"""A loop with Hugging Face Accelerate around `CausalObjective`, with a bank of confounders.

    python examples/interplay/accelerate_loop.py
    torchrun --nproc_per_node 2 examples/interplay/accelerate_loop.py

`CausalObjective` is what to prepare: a training step is one call of it. The bank is part of it: all processes share it,
and `accelerator.save_state` saves it.
"""

from functools import partial

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import causalcxr
from causalcxr.data import SyntheticCXR


def train(accelerator: Accelerator, objective: causalcxr.CausalObjective, films: SyntheticCXR) -> None:
    """Go through the films once, in batches of 8; the objective's model and bank are changed in place."""
    prepare = partial(causalcxr.data.normalise, cfg=objective.model.pretrained_cfg)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    wrapped, optimizer, loader = accelerator.prepare(objective, optimizer, DataLoader(films, batch_size=8))
    for step, (images, targets) in enumerate(loader, start=1):
        losses = wrapped(prepare(images), targets)
        optimizer.zero_grad()
        accelerator.backward(losses["loss"])
        optimizer.step()
        if step % 10 == 0:
            accelerator.print(f"step {step}:", ", ".join(f"{name} {value:.3f}" for name, value in losses.items()))


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)  # without cpu=True: the GPU, where there is one
    films = SyntheticCXR(320, image_size=64, labels=["Cardiomegaly", "Mass"], prevalence=0.5)
    model = causalcxr.create_model("causal_test_resnet", num_classes=2, in_chans=1)
    bank = causalcxr.layers.ConfounderBank(64, num_classes=2, dim=model.head_hidden_size)
    train(accelerator, causalcxr.CausalObjective(model, bank=bank), films)

    images = torch.stack([films[i][0] for i in range(4)]).to(accelerator.device)
    probabilities = model.eval().predict_do(causalcxr.data.normalise(images, model.pretrained_cfg), bank)
    accelerator.print(f"P(Y | do(X)) of four films, with {len(bank)} confounders:\n{probabilities}")
    accelerator.end_training()  # and with it the process group


if __name__ == "__main__":
    main()
