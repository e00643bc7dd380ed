"""What a stamp on the film does to the score, pixel by pixel, with integrated gradients from Captum.

    python examples/interplay/captum_attributions.py

Integrated gradients share out the difference between the scores of two images. With the same film without its stamp as
the baseline, that difference is the effect of the stamp, do(stamp), and only pixels that the stamp changed get a share.
Captum takes any function that returns (B, K): here the prediction, and the model's confounding branch.
"""

import torch
from captum.attr import IntegratedGradients
from short_training import train
from torch import Tensor

import causalcxr
from causalcxr.data import SyntheticCXR


def stamped_pairs(films: SyntheticCXR, count: int) -> tuple[Tensor, Tensor]:
    """The same `count` films (count, 1, H, W) with the "PORTABLE" stamp alone, and without any marker."""
    with_stamp = [films.sample(i, markers=["portable"]).image for i in range(count)]
    without = [films.sample(i, markers=[]).image for i in range(count)]
    return torch.stack(with_stamp), torch.stack(without)


def main() -> None:
    label = "Cardiomegaly"
    options = dict(image_size=64, labels=[label], prevalence=0.5, marker_label=label)
    model = train(SyntheticCXR(640, marker_correlation=0.9, **options))
    pairs = stamped_pairs(SyntheticCXR(8, seed=1, **options), 8)
    stamped, plain = (causalcxr.data.normalise(images, model.pretrained_cfg) for images in pairs)
    branches = {
        "prediction": model,
        "confounding branch": lambda images: model.forward_causal(images).confounder_logits,
    }
    for name, scores in branches.items():
        attributions = IntegratedGradients(scores).attribute(stamped, plain, target=0, n_steps=32)
        with torch.no_grad():
            effect = (scores(stamped) - scores(plain))[:, 0]
        print(f"{name}: the stamp changes the logit of {label} by {effect.mean():+.3f}")
        print(f"  sum of the attributions {attributions.sum(dim=(1, 2, 3)).mean():+.3f}")
        print(f"  share of the image that has any {(attributions != 0).float().mean():.3f}")


if __name__ == "__main__":
    main()
