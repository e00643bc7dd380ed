"""MONAI transforms that produce the same pixels as `model.preprocess`.

    python examples/integrations/monai_transforms.py

Two details are easy to miss. MONAI's reader swaps the rows and columns of PNG and JPEG files. And MONAI's `Resize`
blurs differently from the antialiased bilinear resize of `model.preprocess`, which equals torchvision's.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset, PILReader
from monai.transforms import (
    Compose,
    EnsureType,
    LoadImage,
    NormalizeIntensity,
    RandGaussianNoise,
    RandRotate,
    RepeatChannel,
    Resize,
    ScaleIntensityRange,
    TorchVision,
)
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR


# --8<-- [start:pipeline]
def pipeline(model: causalcxr.CausalCXR, *augmentations: Callable, resize: Callable | None = None) -> Compose:
    """Read an 8-bit grey PNG or JPEG file as normalised pixels (C, H, W); augmentations receive values in [0, 1]."""
    cfg = model.pretrained_cfg
    return Compose(
        [
            LoadImage(reader=PILReader(reverse_indexing=False), ensure_channel_first=True),
            ScaleIntensityRange(0, 255, 0.0, 1.0),
            resize or TorchVision("Resize", size=cfg["input_size"][1:], antialias=True),
            *augmentations,
            RepeatChannel(model.in_chans),
            NormalizeIntensity(cfg["mean"], cfg["std"], channel_wise=True),
            EnsureType(track_meta=False),  # plain tensors
        ]
    )


# --8<-- [end:pipeline]


def main() -> None:
    model = causalcxr.create_model("causal_test_resnet").eval()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(8)]
        for file, (image, _) in zip(files, SyntheticCXR(8, image_size=(200, 240)), strict=True):
            Image.fromarray((255 * image[0]).round().byte().numpy()).save(file)
        expected = torch.cat([model.preprocess(file) for file in files])
        ways = {
            "as above": pipeline(model),
            "MONAI's Resize": pipeline(model, resize=Resize(expected.shape[2:])),
            "augmented": pipeline(model, RandRotate(range_x=0.2, prob=1.0), RandGaussianNoise(prob=1.0, std=0.02)),
        }
        print("largest and mean difference from model.preprocess, in standard deviations")
        for name, transform in ways.items():
            images = next(iter(DataLoader(Dataset(files, transform), batch_size=8)))
            difference = (images - expected).abs()
            print(f"  {name:14} {difference.max():.1e} {difference.mean():.1e}")
    with torch.no_grad():
        print(f"shape of the logits for the last batch {tuple(model(images).shape)}")


if __name__ == "__main__":
    main()
