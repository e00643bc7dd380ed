"""Heat maps of a causal model with pytorch-grad-cam, beside the model's own attention.

    python examples/interplay/grad_cam_maps.py

`forward` returns one tensor of logits, so the library takes the model as it is. The target layer
`model.head.feature_learning` gives a map (B, D, H, W) on every backbone: transformers need no `reshape_transform`.
Grad-CAM averages the gradient over the map, as suits a classifier that pools it. The causal decoder weighs its cells by
attention, so the gradient differs from cell to cell; HiResCAM keeps it as it is.
"""

import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from short_training import train
from torch import Tensor

import causalcxr
from causalcxr.data import SyntheticCXR
from causalcxr.explain import attention_maps


def heat_maps(method: type[BaseCAM], model: causalcxr.CausalCXR, images: Tensor, label: int) -> Tensor:
    """Maps (B, H, W) in [0, 1] of one label, for normalised images (B, C, H, W)."""
    targets = [ClassifierOutputTarget(label)] * len(images)  # one an image; by default its highest logit
    with method(model, target_layers=[model.head.feature_learning]) as cam:
        return torch.from_numpy(cam(images, targets))


def share(heat: Tensor, masks: Tensor) -> float:
    """Mean share of the heat (B, H, W) that lies within the masks, over the images that have any heat."""
    return ((heat * masks).sum(dim=(1, 2)) / heat.sum(dim=(1, 2))).nanmean().item()


def main() -> None:
    model = train(SyntheticCXR(640, image_size=64, labels=["Mass"], prevalence=0.5))
    films = SyntheticCXR(48, image_size=64, labels=["Mass"], prevalence=1.0, seed=1)
    masks = torch.cat([films.masks(i) for i in range(len(films))])
    images = causalcxr.data.normalise(torch.stack([image for image, _ in films]), model.pretrained_cfg)
    maps = {
        "flat": torch.ones(masks.shape),
        "Grad-CAM": heat_maps(GradCAM, model, images, label=0),
        "HiResCAM": heat_maps(HiResCAM, model, images, label=0),
        "attention": attention_maps(model, images)[:, 0],
    }
    print("share of the heat on the mass, mean of 48 films")
    for name, heat in maps.items():
        print(f"  {name:9} {share(heat, masks):.3f}")


if __name__ == "__main__":
    main()
