"""Replace, fuse, excite and insert by one rule file: still bit-equal, and every weight kept."""

import tempfile
from pathlib import Path

import torch

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms

RULES = """
version: 1
name: mixed
rules:
  - id: selective-kernels
    message: SK in the place of the 3x3 convolutions of the last stage.
    match: {site: conv, kernel: "3x3", stage: -1}
    attn: sk
  - id: fused-additions
    message: AFF in the place of the residual additions of the last two stages.
    match: {site: residual-add, stage: [-2, -1]}
    attn: aff
  - id: early-gates
    message: ECA costs nothing, so it goes into the early blocks.
    match: {site: residual-branch, stage: [1, 2]}
    attn: eca
  - id: contextual-activations
    match: {site: act, name: "layer3.*.act1"}
    attn: atac
  - id: excited-stem
    message: Weight excitation, which folds into plain weights after training.
    match: {site: conv, name: conv1}
    attn: we
  - id: class-specific-head
    match: {site: classifier}
    attn: csra
"""


def main() -> None:
    torch.manual_seed(0)
    model = attnsurgeon.load_model("resnet18").eval()
    randomise_norms(model)  # timm starts the last norms at zero, which would hide every change
    x = torch.randn(2, 3, 96, 64)
    expected = model(x)
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.yaml")
        rules.write_text(RULES)
        operation = attnsurgeon.insert(model, rules=rules)
        for cut in operation.plan:
            print(f"{cut.site.path:14} {cut.action:12} {cut.attn:5} {cut.params:+,}")
        assert {cut.action for cut in operation.plan} == {"replace", "fuse", "insert-after"}
        assert torch.equal(operation.model(x), expected)
        assert set(model.state_dict()) <= set(operation.model.state_dict())

        operation.save(Path(folder, "operated"))
        again = attnsurgeon.load(Path(folder, "operated")).eval()
        assert torch.equal(again(x), expected)

    assert attnsurgeon.fold(again) == ("conv1",)
    assert torch.equal(again(x), expected)
    print("saved, loaded, the stem folded, and still bit-equal to the network before")


if __name__ == "__main__":
    main()
