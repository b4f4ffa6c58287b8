"""Fit an operated network with Lightning, resume it, and load its checkpoint where nobody operates.

Lightning builds a module anew by its constructor and loads the weights. With `KeepsAttention` the
checkpoint carries the record of the surgery, which is repeated before. Needs
`pip install attnsurgeon[lightning]`.
"""

import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import attnsurgeon
from attnsurgeon.integrations.lightning import KeepsAttention

SIZE = (3, 32, 32)


class Classifier(KeepsAttention, lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = attnsurgeon.load_model("test_resnet", num_classes=2)  # no attention here

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def fit(module: Classifier, folder: Path, epochs: int, ckpt_path: Path | None = None) -> Path:
    warnings.filterwarnings("ignore", module="lightning")  # of the small loader
    run = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    images = torch.randn(8, *SIZE)
    data = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    run.fit(module, DataLoader(data, batch_size=4), ckpt_path=ckpt_path)
    file = folder / f"after-{epochs}.ckpt"
    run.save_checkpoint(file)
    return file


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    module = Classifier()
    operation = attnsurgeon.insert(module.network, "eca", "residual-branch", input_size=SIZE)
    module.network = operation.model
    first = fit(module, folder, epochs=1)

    resumed = Classifier()  # without attention; the checkpoint brings it
    fit(resumed, folder, epochs=2, ckpt_path=first)
    assert list(attnsurgeon.audit(resumed.network).calls) == [c.module_path for c in operation.plan]

    loaded = Classifier.load_from_checkpoint(first)
    gates = attnsurgeon.audit(loaded.network)
    assert list(gates.calls) == [cut.module_path for cut in operation.plan]
    assert not gates.dead
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded.network.eval()(images), module.network.eval()(images))
        assert not torch.equal(loaded.network(images), resumed.network.eval()(images))
    print(f"{len(gates.calls)} gates were fitted, resumed and loaded by Lightning itself")


if __name__ == "__main__":
    main()
