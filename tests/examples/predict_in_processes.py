"""Score generated radiographs in one process, or in several started by torchrun, and save what the first one has."""

import sys

import numpy as np
import torch

from processes import process, process_group
from recipe import Config, build_dataset, build_model
from scoring import predict

if __name__ == "__main__":
    config = Config(
        data="synthetic:26", model="causal_test_resnet", image_size=64, batch_size=4, workers=0, device="cpu"
    )
    with process_group(config.device):
        torch.manual_seed(0)
        model = build_model(config)
        scores = predict(model, build_dataset(config, "train"), config, "test")
        if process()[0] == 0:
            np.savez(sys.argv[1], **scores)
