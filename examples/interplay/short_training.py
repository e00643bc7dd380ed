"""A small model after a short training on generated radiographs, for the other files of this folder."""

from functools import partial

import torch
from torch.utils.data import DataLoader

import causalcxr
from causalcxr.data import SyntheticCXR


def train(films: SyntheticCXR, epochs: int = 3) -> causalcxr.CausalCXR:
    """Some seconds for 640 films of 64x64; the model takes one grey channel and is left in `eval` mode."""
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", num_classes=len(films.label_names), in_chans=1)
    model.label_names = films.label_names
    prepare = partial(causalcxr.data.normalise, cfg=model.pretrained_cfg)
    objective = causalcxr.CausalObjective(model)
    loader = DataLoader(films, batch_size=16)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for images, targets in loader:
            optimizer.zero_grad()
            objective(prepare(images), targets)["loss"].backward()
            optimizer.step()
            schedule.step()
    return model.eval()
