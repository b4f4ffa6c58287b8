"""Put LoRA beside attention with PEFT: adapters on layers, the gates trained whole, all merged.

A layer that holds attention itself refuses an adapter by name: around it, the adapter would act
beside the attention, and within it once it is merged. Needs `pip install attnsurgeon[peft]`.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import attnsurgeon

SIZE = (3, 32, 32)


def main() -> None:
    torch.manual_seed(0)
    base = attnsurgeon.load_model("test_vit", num_classes=2, img_size=32).eval()
    images = torch.randn(4, *SIZE)
    operation = attnsurgeon.insert(base, "se", "residual-branch")
    with torch.no_grad():
        before = operation.model(images)
    gates = sorted({cut.name for cut in operation.plan})  # what the modules are called in a block
    config = LoraConfig(target_modules=["qkv", "fc1"], modules_to_save=[*gates, "head"], r=2)
    model = get_peft_model(operation.model, config).eval()
    assert torch.equal(model(images), before)

    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("lora_" in name for name in learns)
    for name, parameter in model.named_parameters():
        if name in learns:
            nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        trained = model(images)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(images), trained, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(trained, before)
    assert attnsurgeon.audit(merged).ok

    excited = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "we").model
    try:
        get_peft_model(excited, LoraConfig(target_modules=["conv2"]))
    except attnsurgeon.SurgeonError as error:
        assert "holds attention (we for " in str(error)
        print(f"refused: {error.what}")
    print(f"LoRA beside {len(operation.plan)} gates, trained and merged")


if __name__ == "__main__":
    main()
