"""Heat maps of a causal model with pytorch-grad-cam, compared with the model's own attention.

    python examples/integrations/grad_cam_maps.py

`forward` returns one tensor of logits, so the library works with the model unchanged. The target layer
`model.head.feature_learning` outputs a map (B, D, H, W) on every backbone: transformers need no `reshape_transform`.
Grad-CAM averages the gradient over the map, which suits a classifier that pools it. The causal decoder weights cells by
attention, so the gradient differs between cells. HiResCAM keeps these differences.
"""

import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

import causalcxr
from causalcxr.data import SyntheticCXR


# --8<-- [start:maps]
def heat_maps(method: type[BaseCAM], model: causalcxr.CausalCXR, images: Tensor, label: int) -> Tensor:
    """Return the maps (B, H, W) in [0, 1] of one label for normalised images (B, C, H, W)."""
    targets = [ClassifierOutputTarget(label)] * len(images)  # one per image; default: its top label
    with method(model, target_layers=[model.head.feature_learning]) as cam:
        return torch.from_numpy(cam(images, targets))


# --8<-- [end:maps]


def train(model: causalcxr.CausalCXR, images: Tensor, targets: Tensor) -> None:
    """Train for three epochs, which takes seconds for 640 images."""
    criterion = causalcxr.losses.CausalLoss(uniform="bernoulli")  # one label has no distribution over labels
    objective = causalcxr.CausalObjective(model, criterion)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in torch.randperm(len(images)).split(16):
            optimizer.zero_grad()
            objective(images[batch], targets[batch])["loss"].backward()
            optimizer.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", num_classes=1, in_chans=1)
    films = SyntheticCXR(640, image_size=64, labels=["Mass"], prevalence=0.5)
    train(model, torch.cat([model.preprocess(image, size=64) for image, _ in films]), films.targets)

    films = SyntheticCXR(48, image_size=64, labels=["Mass"], prevalence=1.0, seed=1)
    images = torch.cat([model.preprocess(image, size=64) for image, _ in films])
    masks = torch.cat([films.sample(i).masks for i in range(len(films))])
    with torch.no_grad():
        attention = model.forward_causal(images, need_attention=True).attention
    maps = {
        "flat": torch.ones(masks.shape),
        "Grad-CAM": heat_maps(GradCAM, model, images, label=0),
        "HiResCAM": heat_maps(HiResCAM, model, images, label=0),
        "attention": F.interpolate(attention, masks.shape[1:], mode="bilinear")[:, 0],
    }
    print("share of the heat on the mass, mean over 48 images")
    for name, heat in maps.items():
        share = (heat * masks).sum(dim=(1, 2)) / heat.sum(dim=(1, 2))
        print(f"  {name:9} {share.nanmean():.3f}")


if __name__ == "__main__":
    main()
