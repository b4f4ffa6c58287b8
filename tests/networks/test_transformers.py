"""Networks of transformers: operated, trained by its trainer, saved and loaded by their methods."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import ModelError
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.splicing.history import history, inserted

hf = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

from tests.nets.hugging_face import FAMILIES, Family  # noqa: E402  # imports transformers

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
RESNET = FAMILIES["resnet"]


@pytest.fixture
def integration():
    """What a user imports, so that `from_pretrained` knows of surgery."""
    import attnsurgeon.integrations.transformers as module

    hf.utils.logging.disable_progress_bar()
    return module


def built(family: Family) -> Any:
    torch.manual_seed(0)
    model = family.build().eval()
    randomise_norms(model)
    return model


def operated(model: Any, family: Family, attn: str = "se", **args: Any) -> attnsurgeon.Operation:
    args = args or ({"reduction": 2} if attn == "se" else {})
    return attnsurgeon.insert(
        model, attn, "residual-branch", attn_args=args, input_size=family.size
    )


def active(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for _, part in inserted(model):
        for parameter in part.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.3 * noise)
    return model


def values(model: Any, family: Family, **asked: Any) -> list[torch.Tensor]:
    x = torch.randn(2, *family.size, generator=torch.Generator().manual_seed(2))
    # Weights that were loaded may lie unaligned in a mapped file, where kernels round otherwise.
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return list(tensors_in(model(x, **asked)))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def same_state(a: Any, b: Any) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and same(list(ours.values()), list(theirs.values()))


@each_family
def test_every_residual_branch_is_cut_and_everything_stays_equal(family):
    model = built(family)
    operation = operated(model, family)
    assert operation.plan.refused == ()
    assert Counter(cut.place.technique for cut in operation.plan) == Counter(family.ways)
    hidden = {"output_hidden_states": True}
    before = values(model, family, **hidden)
    assert len(before) > 3
    assert same(values(operation.model, family, **hidden), before)
    added = tuple(f"{cut.module_path}." for cut in operation.plan)
    kept = [key for key in operation.model.state_dict() if not key.startswith(added)]
    assert kept == list(model.state_dict())
    assert not same(values(active(operation.model), family), values(model, family))
    audit = attnsurgeon.audit(operation.model, input_size=family.size)
    assert len(audit.calls) == sum(family.ways.values())
    assert audit.ok


@each_family
def test_gradients_reach_every_gate_under_checkpointing_too(family):
    model = operated(built(family), family).model.train()
    if model.supports_gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    made = model(torch.randn(2, *family.size))
    sum(t.square().mean() for t in tensors_in(made) if t.requires_grad).backward()
    gates = [part for _, part in inserted(model)]
    assert all(part.fc2.weight.grad.abs().sum() > 0 for part in gates)


@each_family
def test_from_pretrained_gives_the_operated_network_back(family, integration, tmp_path):
    model = active(operated(built(family), family).model)
    model.save_pretrained(tmp_path / "once")
    loaded, told = type(model).from_pretrained(tmp_path / "once", output_loading_info=True)
    assert not any(told.values())  # keys missing, unexpected, mismatched; messages
    assert same_state(loaded, model)
    assert same(values(loaded, family), values(model, family))
    assert history(loaded) == history(model)
    chosen = getattr(hf, family.auto).from_pretrained(tmp_path / "once")
    chosen.save_pretrained(tmp_path / "twice")
    again = type(model).from_pretrained(tmp_path / "twice")
    assert type(chosen).__name__ == type(again).__name__ == type(model).__name__
    assert same(values(again, family), values(model, family))
    assert not getattr(again, "is_quantized", False)
    assert again.half().dtype == torch.float16


@pytest.mark.parametrize("name", ["resnet-basic", "swin", "beit", "detr"])
def test_a_folder_of_ours_needs_no_base(name, tmp_path):
    family = FAMILIES[name]
    operation = operated(built(family), family)
    active(operation.model)
    operation.save(tmp_path / "saved")
    loaded = attnsurgeon.load(tmp_path / "saved")
    assert same_state(loaded, operation.model)
    assert same(values(loaded, family), values(operation.model, family))


def test_without_the_integration_loading_is_an_error(integration, tmp_path, monkeypatch):
    from transformers.quantizers import auto

    model = operated(built(RESNET), RESNET).model
    model.save_pretrained(tmp_path)
    for mapping in (auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.delitem(mapping, "attnsurgeon")
    for kind in (type(model), hf.AutoModelForImageClassification, hf.AutoModel):
        with pytest.raises(ValueError, match="attnsurgeon"):
            kind.from_pretrained(tmp_path)


def test_where_nothing_was_inserted_nothing_is_recorded(integration, tmp_path):
    model = built(RESNET)
    made = operated(model, RESNET).model
    assert not hasattr(model.config, "quantization_config")  # the copy has a config of its own
    attnsurgeon.remove(made)
    made.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "attnsurgeon" not in text
    assert "fusion_config" not in json.loads(text)
    assert same(values(type(model).from_pretrained(tmp_path), RESNET), values(model, RESNET))


def test_a_config_that_two_networks_share_is_not_written_to():
    config = built(RESNET).config
    ours, other = (hf.ResNetForImageClassification(config) for _ in range(2))
    attnsurgeon.insert(ours, "eca", "residual-branch", input_size=RESNET.size, inplace=True)
    assert ours.config.fusion_config == {"attnsurgeon": True}
    assert ours.resnet.config is ours.config
    assert not hasattr(other.config, "fusion_config")


def test_what_stands_in_no_file_is_made_anew(integration, tmp_path):
    model = active(operated(built(RESNET), RESNET, "fca", reduction=2).model)
    model.save_pretrained(tmp_path)
    assert same(values(type(model).from_pretrained(tmp_path), RESNET), values(model, RESNET))


def test_operations_one_after_the_other_are_all_repeated(integration, tmp_path):
    first = operated(built(RESNET), RESNET, "eca").model
    model = active(attnsurgeon.insert(first, "srm", "stage", input_size=RESNET.size).model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert len(history(loaded)) == 2
    assert same(values(loaded, RESNET), values(model, RESNET))


def test_what_from_pretrained_gave_is_saved_to_a_folder_and_comes_back(integration, tmp_path):
    operated(built(RESNET), RESNET).model.save_pretrained(tmp_path / "theirs")
    model = active(type(built(RESNET)).from_pretrained(tmp_path / "theirs"))
    loaded = attnsurgeon.load(attnsurgeon.save(model, tmp_path / "ours"))
    assert history(loaded) == history(model)
    assert same_state(loaded, model)
    assert same(values(loaded, RESNET), values(model, RESNET))


@pytest.mark.parametrize(
    ("attn", "where", "init"),
    [
        ("sk", "conv3x3", "paper"),  # whose old convolutions and norms are gone
        ("sk", "conv3x3", "identity"),
        ("we", "conv", "identity"),
        ("atac", "activation", "identity"),
        ("aff", "residual-add", "paper"),
        ("csra", "classifier", "identity"),
    ],
)
def test_other_kinds_of_attention_come_back_too(attn, where, init, integration, tmp_path):
    args = {"groups": 1} if attn == "sk" else {}
    base = built(FAMILIES["resnet-basic"])
    made = attnsurgeon.insert(base, attn, where, init=init, attn_args=args, input_size=RESNET.size)
    model = active(made.model)
    model.save_pretrained(tmp_path)
    loaded, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert same_state(loaded, model)
    assert same(values(loaded, RESNET), values(model, RESNET))


def test_parameters_shared_by_several_sites_are_refused_when_saving(tmp_path):
    made = operated(built(RESNET), RESNET, "dia", reduction=2).model  # one LSTM for a stage
    with pytest.raises(RuntimeError, match="shared tensors"):
        made.save_pretrained(tmp_path)  # Operation.save keeps them


def test_the_network_without_its_head_has_the_attention_too(integration, tmp_path):
    model = active(operated(built(RESNET), RESNET).model)
    model.save_pretrained(tmp_path / "whole")
    base = hf.AutoModel.from_pretrained(tmp_path / "whole")
    assert same(values(base, RESNET), values(model.resnet, RESNET))
    base.save_pretrained(tmp_path / "base")
    whole = type(model).from_pretrained(tmp_path / "base")
    assert same(values(whole.resnet, RESNET), values(model.resnet, RESNET))
    assert len(list(inserted(whole))) == len(list(inserted(model))) == 3


def test_another_network_than_the_recorded_one_is_refused(integration, tmp_path):
    model = operated(built(RESNET), RESNET).model
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"layer_type": "basic"}))
    with pytest.raises(ModelError, match="the surgery that the config records cannot be repeated"):
        type(model).from_pretrained(tmp_path)


def test_an_argument_that_cannot_be_written_down_is_an_error_when_loading(integration, tmp_path):
    model = operated(built(RESNET), RESNET).model
    model.config.quantization_config["operations"] = []
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="was operated, and not how"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["resnet", "vit", "swin"])
def test_the_trainer_trains_and_saves_it(name, integration, tmp_path):
    pytest.importorskip("accelerate")
    family = FAMILIES[name]
    model = operated(built(family), family).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arguments = hf.TrainingArguments(
        str(tmp_path),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    images = [{"pixel_values": torch.randn(family.size), "labels": i % 5} for i in range(8)]
    hf.Trainer(model, arguments, train_dataset=images).train()
    gates = [name for name, _ in model.named_parameters() if ".attn." in name]
    assert len(gates) == 4 * sum(family.ways.values())
    state = model.state_dict()
    assert not any(torch.equal(state[key], before[key]) for key in gates if ".fc2." in key)
    saved = Path(tmp_path) / "checkpoint-2"
    assert same_state(getattr(hf, family.auto).from_pretrained(saved), model)


def test_sites_and_costs_need_no_weights(tmp_path):
    model = built(RESNET)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    cost = attnsurgeon.estimate(f"transformers:{tmp_path}", "eca", "residual-branch")
    assert cost.delta.params == 3 * 3
    assert cost.before.params == sum(p.numel() for p in model.parameters())
    sites = attnsurgeon.find_sites(model.to("meta"), input_size=RESNET.size)
    assert len(sites.where(site="residual-branch")) == 3
