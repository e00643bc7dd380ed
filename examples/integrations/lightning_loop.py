"""A LightningModule around `CausalObjective`, with a bank of confounders and AUROC from torchmetrics.

    python examples/integrations/lightning_loop.py

The bank is a buffer of the module, so Lightning moves it between devices and saves it in checkpoints. Weight averaging
must skip it: `EMAWeightAveraging(use_buffers=False)`.
"""

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MultilabelAUROC

import causalcxr
from causalcxr.data import SyntheticCXR


# --8<-- [start:module]
class CausalClassifier(lightning.LightningModule):
    """A causal model with its loss; batches are images from `model.preprocess` and targets (B, K) of 0 and 1."""

    def __init__(self, name: str, *, num_classes: int = 14, bank_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        model = causalcxr.create_model(name, num_classes=num_classes, in_chans=1)
        bank = causalcxr.layers.ConfounderBank(bank_size, num_classes, model.head_hidden_size)
        self.objective = causalcxr.CausalObjective(model, bank=bank)
        self.auroc = MultilabelAUROC(num_classes)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        losses = self.objective(*batch)
        self.log_dict(losses)
        return losses["loss"]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, targets = batch
        self.auroc.update(self.objective.model(images).sigmoid(), targets.long())
        self.log("val_auroc", self.auroc)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.objective.model.predict_do(batch[0], self.objective.bank)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.objective.parameters(), lr=self.hparams.lr)


# --8<-- [end:module]


def main() -> None:
    lightning.seed_everything(0)
    module = CausalClassifier("causal_test_resnet", num_classes=2)
    loaders = []
    for seed, number in enumerate((320, 96)):
        films = SyntheticCXR(number, image_size=64, labels=["Cardiomegaly", "Mass"], prevalence=0.5, seed=seed)
        images = torch.cat([module.objective.model.preprocess(image, size=64) for image, _ in films])
        loaders.append(DataLoader(TensorDataset(images, films.targets), batch_size=8))
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"], False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet)
    trainer.fit(module, *loaders)
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})
    print(f"{len(module.objective.bank)} confounders in the bank; P(Y | do(X)) of the first images:")
    print(trainer.predict(module, loaders[1])[0][:3])


if __name__ == "__main__":
    main()
