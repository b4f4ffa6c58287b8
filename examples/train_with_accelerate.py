"""Train an operated network with accelerate: prepare, save_state, load_state, save_model.

An operated network is an ordinary module, so nothing has to be told. What `save_model` writes goes
into a folder of attnsurgeon by `load(folder, checkpoint=...)`. Needs `pip install accelerate`.
"""

import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional as F

import attnsurgeon

SIZE = (3, 32, 32)


def main() -> None:
    home = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    base = attnsurgeon.load_model("test_resnet", num_classes=2)
    operation = attnsurgeon.insert(base, "se", "residual-branch", input_size=SIZE)
    folder = operation.save(home / "operated")

    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(operation.model.parameters(), 1e-2)
    model, optimizer = accelerator.prepare(operation.model, optimizer)
    images, labels = torch.randn(4, *SIZE), torch.tensor([0, 1, 0, 1])
    for _ in range(2):
        optimizer.zero_grad()
        accelerator.backward(F.cross_entropy(model(images), labels))
        optimizer.step()
    with torch.no_grad():
        trained = model.eval()(images)
        with attnsurgeon.disabled(model):
            assert not torch.equal(model(images), trained)  # the attention has learnt something

        accelerator.save_state(home / "state")
        for parameter in model.parameters():
            parameter.zero_()
        accelerator.load_state(home / "state")
        assert torch.equal(model(images), trained)

        accelerator.save_model(model, home / "saved")
        file = home / "saved" / "model.safetensors"
        loaded = attnsurgeon.load(folder, checkpoint=file).eval()
        assert attnsurgeon.audit(loaded).ok
        assert torch.equal(loaded(images), trained)
    print(f"{len(operation.plan)} SE gates were trained, saved and loaded by accelerate")


if __name__ == "__main__":
    main()
