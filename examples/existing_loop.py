"""Add the causal head and the backdoor loss to an existing training loop: five changed lines, marked with +.

    python examples/existing_loop.py            # the plain classifier
    python examples/existing_loop.py --causal   # the same loop with the five lines changed

The classifier is a plain timm model. Any other network that returns a feature map works the same way.
"""

import argparse

import timm
import torch
from torch.utils.data import DataLoader

import causalcxr  # + 1
from causalcxr.data import SyntheticCXR
from causalcxr.losses import classification_loss


def plain(steps: int) -> list[float]:
    model = timm.create_model("test_resnet", num_classes=14, in_chans=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for images, targets in DataLoader(SyntheticCXR(16 * steps, image_size=64), batch_size=16):
        loss = classification_loss(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def causal(steps: int) -> list[float]:
    model = timm.create_model("test_resnet", num_classes=14, in_chans=1)
    head = causalcxr.CausalHead(model.num_features, num_classes=14, dim=64)  # + 2
    criterion = causalcxr.losses.CausalLoss()  # + 3
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)  # + 4
    history = []
    for images, targets in DataLoader(SyntheticCXR(16 * steps, image_size=64), batch_size=16):
        loss = criterion(head(model.forward_features(images)), targets)["loss"]  # + 5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causal", action="store_true", help="train with the causal head and the backdoor loss")
    parser.add_argument("--steps", type=int, default=20, help="number of training steps; default: 20")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    for step, loss in enumerate((causal if args.causal else plain)(args.steps), start=1):
        print(f"step {step}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
