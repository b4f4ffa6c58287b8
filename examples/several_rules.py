"""Two mechanisms at two kinds of places in one go, from rules in a file; then save and load."""

import tempfile
from pathlib import Path

import torch

import attnsurgeon

RULES = """
version: 1
name: cheap-early-strong-late
rules:
  - id: eca-early
    message: ECA costs nothing, so it goes into every early block.
    match: {site: residual-branch, stage: [1, 2]}
    attn: eca
  - id: cbam-late
    message: CBAM in every second block of the late stages.
    match: {site: residual-branch, stage: [3, 4], nth: even}
    attn: {type: cbam, reduction: 8}
    expect: {count: 2}
"""


def main() -> None:
    torch.manual_seed(0)
    model = attnsurgeon.load_model("resnet18")
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.yaml")
        rules.write_text(RULES)
        operation = attnsurgeon.insert(model, rules=rules)
        for cut in operation.plan:
            print(f"{cut.site.path:14} {cut.attn:5} {cut.channels:4} channels  +{cut.params}")
        assert [cut.attn for cut in operation.plan] == ["eca"] * 4 + ["cbam"] * 2

        operation.save(Path(folder, "operated"))
        again = attnsurgeon.load(Path(folder, "operated")).eval()
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(again(x), operation.model.eval()(x))
        assert torch.equal(again(x), model.eval()(x))
        print("saved, loaded, and still bit-equal to the network before")


if __name__ == "__main__":
    main()
