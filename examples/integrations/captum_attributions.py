"""The effect of a stamp on the score, pixel by pixel, with integrated gradients from Captum.

    python examples/integrations/captum_attributions.py

Integrated gradients divide the difference between the scores of two images among their pixels. The baseline here is the
same image without the stamp, so the difference is the effect of the stamp, and only pixels that it changes get a share.
Captum accepts any function that returns (B, K): here the prediction and the model's confounding branch.
"""

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

import causalcxr
from causalcxr.bench import ConfoundedDataset, paint
from causalcxr.data import SyntheticCXR


def train(model: causalcxr.CausalCXR, images: Tensor, targets: Tensor) -> None:
    """Train for five epochs, which takes seconds for 640 images."""
    criterion = causalcxr.losses.CausalLoss(uniform="bernoulli")  # one label has no distribution over labels
    objective = causalcxr.CausalObjective(model, criterion)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(16):
            optimizer.zero_grad()
            objective(images[batch], targets[batch])["loss"].backward()
            optimizer.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", num_classes=1, in_chans=1)
    options = dict(image_size=64, labels=["Cardiomegaly"], prevalence=0.5)
    films = SyntheticCXR(640, **options)
    bare = [films.sample(i, markers=[]).image for i in range(640)]
    films = ConfoundedDataset(bare, films.targets, marker="portable", correlation=0.95)  # a stamp on 95 % of positives
    train(model, model.preprocess([image for image, _ in films], size=64), films.targets)

    films = SyntheticCXR(8, seed=1, **options)
    unmarked = [films.sample(i, markers=[]).image for i in range(8)]
    marked = [paint(image, "portable", np.random.default_rng(i))[0] for i, image in enumerate(unmarked)]
    stamped, plain = model.preprocess(marked, size=64), model.preprocess(unmarked, size=64)
    branches = {
        "prediction": model,
        "confounding branch": lambda images: model.forward_causal(images).confounder_logits,
    }
    for name, scores in branches.items():
        attributions = IntegratedGradients(scores).attribute(stamped, plain, target=0, n_steps=32)
        with torch.no_grad():
            effect = (scores(stamped) - scores(plain))[:, 0]
        print(f"{name}: the stamp changes the logit of Cardiomegaly by {effect.mean():+.3f}")
        print(f"  sum of the attributions {attributions.sum(dim=(1, 2, 3)).mean():+.3f}")
        print(f"  share of the image with any attribution {(attributions != 0).float().mean():.3f}")
    print(f"share of the image covered by the stamp {(stamped != plain).float().mean():.3f}")


if __name__ == "__main__":
    main()
