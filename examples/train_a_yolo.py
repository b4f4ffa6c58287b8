"""Put attention into a YOLO and train it with ultralytics' own trainer, attention included, twice.

ultralytics builds the network of a training anew from its YAML, where no attention stands; the
`YOLO` of attnsurgeon.integrations.ultralytics repeats the surgery first, in every training. The
dataset is made on the spot: bright squares on dark noise. Needs
`pip install attnsurgeon[ultralytics]`.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing here needs a network

import numpy
from PIL import Image

import attnsurgeon
from attnsurgeon.integrations.ultralytics import YOLO

SIDE = 64


def draw(folder: Path, split: str, count: int) -> None:
    """Writes images with one square each, and the labels that ultralytics reads."""
    dice = numpy.random.default_rng(0)
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        pixels = dice.integers(0, 60, (SIDE, SIDE, 3), dtype=numpy.uint8)
        x, y, side = (int(n) for n in dice.integers((4, 4, 16), (28, 28, 32)))
        pixels[y : y + side, x : x + side] = dice.integers(180, 255, 3)
        Image.fromarray(pixels).save(images / f"{i}.png")
        box = [(x + side / 2) / SIDE, (y + side / 2) / SIDE, side / SIDE, side / SIDE]
        (labels / f"{i}.txt").write_text(f"0 {' '.join(map(str, box))}\n")


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    draw(folder, "train", 8)
    draw(folder, "val", 4)
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [square]\n")

    yolo: Any = YOLO("yolov8n.yaml")  # or "yolov8n.pt", with its weights
    operation = attnsurgeon.insert(yolo.model, "eca", "residual-branch", input_size=(3, SIDE, SIDE))
    yolo.model = operation.model
    assert operation.verify().ok
    print(f"{len(operation.plan)} ECA gates, and the outputs are bit-equal")

    how = {
        "data": str(data),
        "project": str(folder / "runs"),
        "imgsz": SIDE,
        "batch": 4,
        "nbs": 4,  # a step for each batch
        "optimizer": "AdamW",
        "lr0": 1e-3,
        "warmup_epochs": 0,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "amp": False,
        "verbose": False,
    }
    yolo.train(epochs=1, **how)
    yolo.train(epochs=1, **how)  # goes on from the best of the first training

    trained: Any = YOLO(yolo.trainer.last)  # from disk, as anybody would load it
    audit = attnsurgeon.audit(trained.model, input_size=(3, SIDE, SIDE))
    assert not audit.dead
    assert list(audit.calls) == [cut.module_path for cut in operation.plan]
    before, after = operation.model.state_dict(), trained.model.state_dict()
    gates = [key for key in after if ".attn." in key]
    assert all(bool((after[key] != before[key]).any()) for key in gates)
    print(f"after training {len(audit.calls)} gates run in {yolo.trainer.last.name}")


if __name__ == "__main__":
    main()
