"""Trainers of others: what they train, save, resume and load has the attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.splicing.history import history, inserted
from tests.nets.blocks import Net, Plain
from tests.surgery import ready

pytestmark = pytest.mark.slow

SIZE = (3, 13, 11)


def fresh() -> nn.Module:
    """Three residual blocks, a mean and a linear layer."""
    torch.manual_seed(0)
    return ready(Net(Plain(), Plain(), Plain()))


def images(seed: int = 1) -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(seed))


def operated(attn: str = "eca", **how: Any) -> nn.Module:
    model = attnsurgeon.insert(fresh(), attn, "residual-branch", input_size=SIZE, **how).model
    return active(model)


def active(model: nn.Module) -> nn.Module:
    dice = torch.Generator().manual_seed(2)
    for _, part in inserted(model):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, -0.9, 0.9, generator=dice)
    return model


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def gates(model: nn.Module) -> list[str]:
    return [path for path, _ in inserted(model)]


def loader() -> DataLoader[Any]:
    data = TensorDataset(torch.cat([images(0), images(1)]), torch.arange(8) % 7)
    return DataLoader(data, batch_size=4)


# Lightning.

lightning_only = pytest.mark.filterwarnings("ignore")  # its own, of loaders and of future versions


def module_of(network: nn.Module | None, *mixins: type) -> Any:
    import lightning

    class Trained(*mixins, lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = fresh() if network is None else network

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.05)

    return Trained


def fit(module: Any, home: Path, epochs: int, **how: Any) -> Path:
    import lightning

    run = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, default_root_dir=home,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(module, loader(), **how)
    file = home / f"{epochs}.ckpt"
    run.save_checkpoint(file)
    return file


@lightning_only
def test_lightning_fits_resumes_and_loads_the_operated_network(tmp_path):
    pytest.importorskip("lightning")
    from attnsurgeon.integrations.lightning import KeepsAttention

    network = operated()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trained = module_of(network, KeepsAttention)()
    file = fit(trained, tmp_path, 1)
    moved = [k for k, v in network.state_dict().items() if ".attn." in k and not v.equal(before[k])]
    assert len(moved) == len(gates(network)) == 3

    # Built without attention: it comes back, with its weights, before any optimiser is made.
    bare = module_of(None, KeepsAttention)
    loaded = bare.load_from_checkpoint(file)
    assert gates(loaded.network) == gates(network)
    assert history(loaded.network) == history(network)
    assert torch.equal(outputs(loaded.network), outputs(network))
    resumed = bare()
    fit(resumed, tmp_path, 2, ckpt_path=file)
    goes_on = module_of(network, KeepsAttention)()
    fit(goes_on, tmp_path, 2, ckpt_path=file)
    assert gates(resumed.network) == gates(network)
    assert torch.equal(outputs(resumed.network), outputs(goes_on.network))
    assert not torch.equal(outputs(resumed.network), outputs(loaded.network))

    # Without the class that is an error, or what `strict=False` asks for.
    with pytest.raises(RuntimeError, match=r"Unexpected key.*attn\.conv\.weight"):
        module_of(None).load_from_checkpoint(file)
    lost = module_of(None).load_from_checkpoint(file, strict=False)
    assert gates(lost.network) == []
    assert not torch.equal(outputs(lost.network), outputs(network))
    with pytest.raises(ModelError, match="network has other attention"):
        module_of(operated("se"), KeepsAttention).load_from_checkpoint(file)


@lightning_only
def test_lightning_modules_without_attention_are_as_ever(tmp_path):
    pytest.importorskip("lightning")
    from attnsurgeon.integrations.lightning import RECORDS, KeepsAttention

    file = fit(module_of(None, KeepsAttention)(), tmp_path, 1)
    assert RECORDS not in torch.load(file, weights_only=True)
    assert gates(module_of(None).load_from_checkpoint(file).network) == []


# accelerate.


@pytest.mark.parametrize(
    ("attn", "how"), [("eca", {}), ("dia", {"attn_args": {"reduction": 2}})], ids=["eca", "dia"]
)
def test_accelerate_prepares_saves_and_loads_it(attn, how, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    run = accelerate.Accelerator(cpu=True)
    network = operated(attn, **how)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    model, stepping = run.prepare(network, optimiser)
    for x, y in loader():
        stepping.zero_grad()
        run.backward(F.cross_entropy(model(x), y))
        stepping.step()
    trained = outputs(model)
    assert gates(model) == gates(network)
    assert not torch.equal(trained, outputs(operated(attn, **how)))

    run.save_state(tmp_path / "state")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    run.load_state(tmp_path / "state")
    assert torch.equal(outputs(model), trained)

    # Its files hold a tensor that several sites share once, as safetensors does.
    run.save_model(model, tmp_path / "model")
    other = operated(attn, **how)
    accelerate.load_checkpoint_in_model(other, tmp_path / "model", strict=attn != "dia")
    assert torch.equal(outputs(other), trained)
    folder = attnsurgeon.save(operated(attn, **how), tmp_path / "folder")
    file = tmp_path / "model" / "model.safetensors"
    assert torch.equal(outputs(attnsurgeon.load(folder, model=fresh(), checkpoint=file)), trained)
    with pytest.raises((RuntimeError, ValueError), match=r"attn"):
        accelerate.load_checkpoint_in_model(fresh(), tmp_path / "model", strict=True)


# The Trainer of transformers.


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_resumes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    import attnsurgeon.integrations.transformers

    def resnet() -> Any:
        torch.manual_seed(0)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic"
        )
        return ready(transformers.ResNetForImageClassification(config))

    def made() -> Any:
        how = {"input_size": (3, 32, 32)}
        return active(attnsurgeon.insert(resnet(), "se", "residual-branch", **how).model)

    def run(model: Any, folder: Path, steps: int) -> Any:
        arguments = transformers.TrainingArguments(
            str(folder), max_steps=steps, save_steps=2, per_device_train_batch_size=2,
            use_cpu=True, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
            learning_rate=1e-2, logging_strategy="no", lr_scheduler_type="constant",
        )  # fmt: skip
        dice = torch.Generator().manual_seed(4)
        data = [
            {"pixel_values": torch.randn(3, 32, 32, generator=dice), "labels": i % 3}
            for i in range(8)
        ]
        return transformers.Trainer(model, arguments, train_dataset=data)

    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def scores(model: Any) -> Tensor:
        with torch.no_grad():
            return model.eval()(x).logits

    whole, half, again = made(), made(), made()
    run(whole, tmp_path / "whole", 4).train()
    run(half, tmp_path / "half", 2).train()
    checkpoint = tmp_path / "half" / "checkpoint-2"
    run(again, tmp_path / "again", 4).train(resume_from_checkpoint=str(checkpoint))
    assert gates(again) == gates(whole) != []
    assert torch.equal(scores(again), scores(whole))
    assert not torch.equal(scores(half), scores(whole))
    back = transformers.AutoModelForImageClassification.from_pretrained(checkpoint)
    assert gates(back) == gates(half)
    assert torch.equal(scores(back), scores(half))
    # On the network without attention the optimiser of the run does not fit.
    with pytest.raises(ValueError, match="parameter group"):
        run(resnet(), tmp_path / "bare", 4).train(resume_from_checkpoint=str(checkpoint))


# Averages and conversions that trainers make of a network.


def test_averages_of_weights_have_the_attention():
    from timm.utils.model_ema import ModelEmaV3
    from torch.optim.swa_utils import AveragedModel

    network = operated()
    for average in (ModelEmaV3(network, decay=0.0), AveragedModel(network)):
        assert gates(average.module) == gates(network)
        assert torch.equal(outputs(average.module), outputs(network))
    average = ModelEmaV3(network, decay=0.0)
    with torch.no_grad():
        for _, part in inserted(network):
            for parameter in part.parameters():
                parameter.neg_()
    assert not torch.equal(outputs(average.module), outputs(network))
    average.update(network)
    assert torch.equal(outputs(average.module), outputs(network))


def test_a_network_that_a_registry_builds_keeps_it(tmp_path):
    """As mmengine's are: a function under a name, called with the rest of a config."""
    registry: dict[str, Any] = {}
    registry["attnsurgeon"] = attnsurgeon.load
    network = operated()
    folder = attnsurgeon.save(network, tmp_path / "out")
    config = {"type": "attnsurgeon", "path": folder, "model": fresh()}
    built = registry[config.pop("type")](**config)
    assert gates(built) == gates(network)
    assert torch.equal(outputs(built), outputs(network))
    copied = copy.deepcopy(built)
    assert torch.equal(outputs(copied), outputs(network))
