"""Train a saved folder with timm's own parts, as its train.py and validate.py do.

Once `attnsurgeon.integrations.timm` is imported, `timm.create_model` builds the network of a folder
by its name. Scripts that do not import it are run through it:

    python -m attnsurgeon.integrations.timm train.py DATA --model local-dir:FOLDER --pretrained ...
    torchrun --nproc-per-node 4 -m attnsurgeon.integrations.timm train.py DATA --model local-dir:...
"""

import tempfile
from pathlib import Path

import timm
import torch
from timm.models import load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch.nn import functional as F

import attnsurgeon
import attnsurgeon.integrations.timm

SIZE = (3, 32, 32)


def main() -> None:
    home = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    base = attnsurgeon.load_model("test_resnet", num_classes=2)
    operation = attnsurgeon.insert(base, "eca", "residual-branch", input_size=SIZE)
    name = f"local-dir:{operation.save(home / 'folder')}"

    model = timm.create_model(name, pretrained=True, num_classes=2, drop_path_rate=0.1)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=0.05)
    average = ModelEmaV3(model, decay=0.5)
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(home))
    images, labels = torch.randn(4, *SIZE), torch.tensor([0, 1, 0, 1])
    for epoch in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        average.update(model)
        saver.save_checkpoint(epoch, metric=float(epoch))

    again = timm.create_model(name, num_classes=2)  # train.py --resume
    assert resume_checkpoint(again, str(home / "last.pth.tar"), log_info=False) == 2
    checked = timm.create_model(name, num_classes=2)  # validate.py --checkpoint --use-ema
    load_checkpoint(checked, str(home / "model_best.pth.tar"), use_ema=True)
    with torch.no_grad():
        trained = model.eval()(images)
        assert torch.equal(again.eval()(images), trained)
        assert torch.equal(checked.eval()(images), average.module.eval()(images))
        with attnsurgeon.disabled(again):
            assert not torch.equal(again(images), trained)
    assert list(attnsurgeon.audit(again).calls) == [cut.module_path for cut in operation.plan]
    print(f"{len(operation.plan)} gates were built, trained, averaged and resumed by timm")


if __name__ == "__main__":
    main()
