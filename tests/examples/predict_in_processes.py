"""Score generated radiographs in one process, or in several started by torchrun, and save what the first one has."""

import os
import sys

import numpy as np
import torch
import torch.distributed as dist

from recipe import Config, build_dataset, build_model
from scoring import predict

if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    config = Config(
        data="synthetic:26", model="causal_test_resnet", image_size=64, batch_size=4, workers=0, device="cpu"
    )
    torch.manual_seed(0)
    model = build_model(config)
    scores = predict(model, build_dataset(config, "train"), config, "test")
    if int(os.environ.get("RANK", 0)) == 0:
        np.savez(sys.argv[1], **scores)
