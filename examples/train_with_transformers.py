"""Put attention into a Hugging Face network, train it with their Trainer, load it with theirs.

A ViT made for small images (random weights; with a network, `from_pretrained("google/vit-...")`)
gets SE gates. The Trainer's checkpoint is an ordinary folder of transformers; once
`attnsurgeon.integrations.transformers` is imported, `from_pretrained` gives the attention back.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import attnsurgeon
import attnsurgeon.integrations.transformers  # from_pretrained now repeats the surgery


def digits() -> list[dict[str, object]]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(images, data.target, strict=True)
    ]


def main() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    operation = attnsurgeon.insert(model, "se", "residual-branch", attn_args={"reduction": 4})
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(operation.model.eval()(x).logits, model.eval()(x).logits)

    folder = Path(tempfile.mkdtemp())
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,
        save_steps=6,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(operation.model, arguments, train_dataset=digits()).train()

    loaded = AutoModelForImageClassification.from_pretrained(folder / "checkpoint-6")
    gates = attnsurgeon.audit(loaded)
    assert gates.ok
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, operation.model.eval()(x).logits)
    print(f"{len(gates.calls)} gates trained, saved and loaded by transformers itself")


if __name__ == "__main__":
    main()
