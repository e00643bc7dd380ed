"""A Hugging Face Accelerate training loop around `CausalObjective`, with a bank of confounders.

    python examples/integrations/accelerate_loop.py
    torchrun --nproc_per_node 2 examples/integrations/accelerate_loop.py

Pass `CausalObjective` to `accelerator.prepare`: a training step is one call to it. The bank is part of it, so all
processes share the bank and `accelerator.save_state` saves it.
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, TensorDataset

import causalcxr
from causalcxr.data import SyntheticCXR


def train(accelerator: Accelerator, objective: causalcxr.CausalObjective, films: Dataset) -> None:
    """Train for one epoch in batches of 8, updating the objective's model and bank in place."""
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    wrapped, optimizer, loader = accelerator.prepare(objective, optimizer, DataLoader(films, batch_size=8))
    for step, (images, targets) in enumerate(loader, start=1):
        losses = wrapped(images, targets)
        optimizer.zero_grad()
        accelerator.backward(losses["loss"])
        optimizer.step()
        if step % 10 == 0:
            accelerator.print(f"step {step}:", ", ".join(f"{name} {value:.3f}" for name, value in losses.items()))


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)  # leave out cpu=True to use a GPU if available
    model = causalcxr.create_model("causal_test_resnet", num_classes=2, in_chans=1)
    films = SyntheticCXR(320, image_size=64, labels=["Cardiomegaly", "Mass"], prevalence=0.5)
    images = torch.cat([model.preprocess(image, size=64) for image, _ in films])
    bank = causalcxr.layers.ConfounderBank(64, num_classes=2, dim=model.head_hidden_size)
    train(accelerator, causalcxr.CausalObjective(model, bank=bank), TensorDataset(images, films.targets))

    probabilities = model.eval().predict_do(images[:4].to(accelerator.device), bank)
    accelerator.print(f"P(Y | do(X)) of four images, with {len(bank)} confounders:\n{probabilities}")
    accelerator.end_training()  # also destroys the process group


if __name__ == "__main__":
    main()
