"""Which attention helps *here*: save every variant, train each on Ray Tune, read one table.

`run` is all that is yours. The same file runs on a cluster, by its address alone:

    attnsurgeon sweep FOLDER --train examples/sweep_variants.py:run ... --address auto
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import attnsurgeon


def digits():
    """1,797 digits of 8 x 8, as images of 3 x 32 x 32: to learn from, and to be asked about."""
    read = load_digits()
    images = torch.tensor(read.images, dtype=torch.float32).div(16)[:, None].expand(-1, 3, -1, -1)
    images = F.interpolate(images, size=(32, 32), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(read.target)[order]
    return images[:600], labels[:600], images[600:900], labels[600:900]


def run(folder, report, lr=0.01, epochs=3):
    """Fine-tunes one variant; `report` is what `ray.tune.report` would be."""
    torch.manual_seed(0)
    model = attnsurgeon.load(folder)
    first = 0
    if report.checkpoint:  # its process was killed, or its machine is gone
        kept = torch.load(report.checkpoint / "kept.pt", weights_only=True)
        model.load_state_dict(kept["model"])
        first = kept["epoch"]
    optimizer = torch.optim.SGD(attnsurgeon.param_groups(model, lr=lr), momentum=0.9)
    x, y, x_test, y_test = digits()
    for epoch in range(first, epochs):
        model.train()
        for images, labels in zip(x.split(50), y.split(50), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x_test).argmax(1) == y_test).float().mean()
        with tempfile.TemporaryDirectory() as kept:
            state = {"model": model.state_dict(), "epoch": epoch + 1}
            torch.save(state, Path(kept) / "kept.pt")
            report({"accuracy": accuracy}, checkpoint=kept)


def main():
    home = Path(tempfile.mkdtemp())
    attnsurgeon.compare(
        "test_resnet", ["eca", "se(reduction=8)"], "residual-branch",
        num_classes=10, input_size=(3, 32, 32), save_all=home / "variants",
    )  # fmt: skip
    grid = attnsurgeon.sweep(
        home / "variants",
        run,
        home / "runs",
        metric="accuracy",
        mode="max",
        config={"epochs": 2, "lr": {"grid_search": [0.001, 0.02]}},  # as Ray Tune has it
        scheduler="asha(max_t=2, grace_period=2)",
    )
    print(grid)
    best = grid.rows[0].trained
    assert best["value"] == max(row.trained["value"] for row in grid.rows) > 0.2
    assert sum(row.trained["trials"] for row in grid.rows) == 4
    assert (Path(best["checkpoint"]) / "kept.pt").is_file()


if __name__ == "__main__":
    main()
