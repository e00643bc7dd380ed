"""What has been published on ChestX-ray14: the paper's claim, and results on the official test list."""

# Table 1 of arXiv 2305.12072, column "Ours", in the order of NIH_LABELS, and its mean. Its list of test images is not
# released.
PAPER = (0.81, 0.94, 0.91, 0.75, 0.89, 0.76, 0.82, 0.91, 0.82, 0.90, 0.94, 0.84, 0.77, 0.94)
PAPER_MEAN = 0.857

# Mean AUROC of 14 on the official list of 25,596 images, where the report says that this list was used.
OFFICIAL_LIST = {
    "Wang et al. 2017": 0.745,
    "DNetLoc": 0.807,
    "DenseNet-121, re-runs": (0.797, 0.822),
    "AE-CNN": 0.824,
    "CheXGAT": 0.826,
    "Medical MAE": 0.830,
    "EVA-X-B": 0.835,
}
