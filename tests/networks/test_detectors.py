"""Detectors of torchvision stay what they were: detections, losses, proposals; shared heads."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import ModelError, RuleError
from attnsurgeon.operate import Operation
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.splicing.history import inserted
from tests.cli.command import attnsurgeon as command

SMALL = {"min_size": 64, "max_size": 96, "num_classes": 3}
RCNN = {
    **SMALL,
    "box_score_thresh": 0.0,
    "rpn_post_nms_top_n_test": 30,
    "box_detections_per_img": 8,
}
# Name -> how it is built small, and its residual branches by the published depths.
DETECTORS: dict[str, tuple[dict[str, Any], int]] = {
    "fasterrcnn_resnet50_fpn": (RCNN, 16),
    "fasterrcnn_resnet50_fpn_v2": (RCNN, 16),
    "fasterrcnn_mobilenet_v3_large_fpn": (RCNN, 10),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (RCNN, 10),
    "maskrcnn_resnet50_fpn": (RCNN, 16),
    "maskrcnn_resnet50_fpn_v2": (RCNN, 16),
    "keypointrcnn_resnet50_fpn": (RCNN, 16),
    "retinanet_resnet50_fpn": ({**SMALL, "score_thresh": 0.0}, 16),
    "retinanet_resnet50_fpn_v2": ({**SMALL, "score_thresh": 0.0}, 16),
    "fcos_resnet50_fpn": ({**SMALL, "score_thresh": 0.0}, 16),
    "ssd300_vgg16": ({"num_classes": 3}, 0),
    "ssdlite320_mobilenet_v3_large": ({"num_classes": 3}, 10),
}
HEAD = {"site": "conv", "name": "head.*.conv.*"}  # eight convolutions, each for five levels


def build(name: str) -> Any:
    """The detector with random norms and with heads that say something."""
    torch.manual_seed(0)
    pytest.importorskip("torchvision")
    model = attnsurgeon.load_model(f"torchvision:{name}", **DETECTORS[name][0]).eval()
    randomise_norms(model)
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if parameter.dim() > 1 and ("head" in key or not parameter.any()):
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.003 if "bbox" in key else 0.3  # boxes far outside would all be dropped
            parameter.data.copy_(scale * noise / parameter[0].numel() ** 0.5)
    return model


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, *side, generator=generator) for side in ((64, 80), (72, 64))]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[12.0, 10, 50, 40], [20, 20, 60, 60]])
    points = torch.cat([boxes.view(2, 2, 2) + 3, torch.ones(2, 2, 1)], 2).repeat(1, 9, 1)[:, :17]
    made = []
    for image in images():
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.uint8)
        masks[:, 20:40, 20:50] = 1
        made.append({"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks,
                     "keypoints": points})  # fmt: skip
    return made


def detections(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [tensor for found in model(images()) for tensor in tensors_in(found)]


def trained(model: nn.Module) -> tuple[dict[str, Tensor], nn.Module]:
    """The losses of one training forward under the same dice, and the copy with its gradients."""
    learner = full_twin(model).requires_grad_(True).train()
    losses = settled(lambda: learner(images(), targets()), 3)
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.detach() for name, loss in losses.items()}, learner


def active(model: nn.Module) -> nn.Module:
    twin = full_twin(model)
    for _, module in inserted(twin):
        for parameter in module.parameters():
            parameter.data.add_(0.5)
    return twin


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )


def assert_unchanged(model: nn.Module, operation: Operation) -> None:
    before, after = detections(model), detections(operation.model)
    assert before[0].numel()  # something is detected, so that a change would show
    assert same(after, before)
    assert not same(detections(active(operation.model)), before)
    losses, _ = trained(model)
    operated_losses, learner = trained(operation.model)
    assert {n: v.item() for n, v in operated_losses.items()} == {
        n: v.item() for n, v in losses.items()
    }
    assert all(loss.isfinite() for loss in losses.values())
    for path, module in inserted(learner):
        assert any(p.grad is not None and p.grad.any() for p in module.parameters()), path
    new = tuple(f"{cut.module_path}." for cut in operation.plan)
    assert [k for k in operation.model.state_dict() if not k.startswith(new)] == [
        *model.state_dict()
    ]
    audit = attnsurgeon.audit(operation.model)
    assert audit.calls == {c.module_path: 1 + len(c.shared) for c in operation.plan}


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_detects_and_learns_as_before(name):
    model, branches = build(name), DETECTORS[name][1]
    # Boxes match few of the levels of an SSD, and the heads of the others learn nothing.
    features = {"site": "conv", "kernel": 3, "name": "backbone.features.*"}
    where = "residual-branch" if branches else features
    operation = attnsurgeon.insert(model, "eca", where)
    assert operation.plan.refused == ()
    assert len(operation.plan) == branches or not branches
    assert_unchanged(model, operation)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_a_head_for_five_levels_gets_one_attention_each_convolution(name, tmp_path):
    model = build(name)
    operation = attnsurgeon.insert(model, "se", HEAD)
    assert operation.plan.refused == ()
    assert [len(cut.shared) for cut in operation.plan] == [4] * 8
    assert {cut.place.calls for cut in operation.plan} == {5}
    assert all(len(cut.sizes) > 1 for cut in operation.plan)
    assert_unchanged(model, operation)
    assert operation.cost.delta.params == 8 * (2 * 256 * 16 + 16 + 256)  # once, not for each run
    saved = attnsurgeon.load(operation.save(tmp_path / "saved")).eval()
    assert same(detections(saved), detections(model))


class Levels(nn.Module):
    """Three maps and one head for all of them, as detectors have it; `strides` tell them apart."""

    def __init__(self, strides: tuple[int, ...] = (2, 2, 2)) -> None:
        super().__init__()
        widths = (3, 16, 16)
        self.down = nn.ModuleList(
            nn.Conv2d(width, 16, 3, stride, 1)
            for width, stride in zip(widths, strides, strict=True)
        )
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        scores = []
        for conv in self.down:
            x = conv(x).relu()
            scores.append(self.head(x).mean((2, 3)))
        return torch.stack(scores).sum(0)


SHARED = {"site": "conv", "name": "head.0*"}
BODY = {"site": "conv", "name": "body"}
AT = (3, 24, 40)


def levels(*strides: int) -> Levels:
    torch.manual_seed(0)
    return Levels(strides or (2, 2, 2)).eval()


def head_sites(model: nn.Module) -> Any:
    return attnsurgeon.find_sites(model, input_size=AT).where(**SHARED)


def test_a_site_knows_how_often_and_at_how_many_resolutions_it_runs():
    sites = head_sites(levels())
    assert [site.runs for site in sites] == [3, 3, 3]
    assert [set(site.sizes) for site in sites] == [{(12, 20), (6, 10), (3, 5)}] * 3
    assert [site.sizes for site in head_sites(levels(2, 1, 1))] == [((12, 20),)] * 3
    downs = attnsurgeon.find_sites(levels(), input_size=AT).where(site="conv", name="down.*")
    assert [(site.runs, len(site.sizes)) for site in downs] == [(1, 1)] * 3


def test_one_attention_serves_every_run_of_a_shared_module():
    model = levels()
    operation = attnsurgeon.insert(model, "se", SHARED, attn_args={"reduction": 4}, input_size=AT)
    (cut,) = operation.plan
    assert (cut.place.technique, cut.place.calls, len(cut.sizes)) == ("output-hook", 3, 3)
    x = torch.randn(2, *AT)
    assert torch.equal(operation.model(x), model(x))
    assert not torch.equal(active(operation.model)(x), model(x))
    audit = attnsurgeon.audit(operation.model, input_size=AT)
    assert audit.calls == {"head.0.attn": 3}
    assert len(audit.shared["head.0.attn"]) == 3
    assert operation.verify().ok


def test_what_is_shared_counts_once_in_parameters_and_every_time_in_macs():
    shared, own = levels(), levels()
    args = {"reduction": 4}
    cost = attnsurgeon.insert(shared, "se", SHARED, attn_args=args, input_size=AT).cost
    alone = attnsurgeon.insert(own, "se", "head", attn_args=args, input_size=AT).cost
    assert cost.delta.params == 2 * 16 * 4 + 4 + 16 == alone.delta.params
    positions = [12 * 20, 6 * 10, 3 * 5]
    assert [price.params for price in cost.per_site] == [cost.delta.params, 0, 0]
    assert sum(price.macs for price in cost.per_site) == cost.delta.macs
    differences = [price.macs - cost.per_site[2].macs for price in cost.per_site]
    assert differences[0] / differences[1] == (positions[0] - 15) / (positions[1] - 15)


def test_what_is_tied_to_one_resolution_is_refused_in_a_module_that_sees_several():
    args = {"gather": "theta"}
    why = r"head\.0 runs 3 times in one forward, at several resolutions, and ge is tied to one"
    with pytest.raises(RuleError, match=f"{why}, by its size; eca and se are tied to none"):
        attnsurgeon.plan(levels(), "ge", SHARED, attn_args=args, input_size=AT)
    same_size = attnsurgeon.plan(levels(2, 1, 1), "ge", SHARED, attn_args=args, input_size=AT)
    assert [len(cut.shared) for cut in same_size] == [2]


def test_a_rule_for_some_runs_of_a_module_is_told_to_take_all():
    with pytest.raises(RuleError, match=r"only 1 of its runs was matched.*match 'head.0' and"):
        attnsurgeon.plan(levels(), "se", {"site": "conv", "name": "head.0"}, input_size=AT)


def test_plans_and_inspections_say_what_runs_several_times(tmp_path):
    net, rules = tmp_path / "net.py", tmp_path / "head.yaml"
    net.write_text("from tests.networks.test_detectors import levels\n")
    rules.write_text(
        "version: 1\nname: head\nrules:\n  - {id: head, match: {site: conv, name: 'head.0*'}}\n"
    )
    spec = [f"{net}:levels", "--input-size", "3,24,40"]
    assert "3 runs at 3 sizes, which one cut serves" in said(["inspect", *spec])
    plan = ["plan", *spec, "--attn", "eca", "--where", str(rules)]
    assert "3 runs at 3 sizes" in said(plan)
    (site,) = json.loads(said([*plan, "--json"]))["sites"]
    assert (site["runs"], len(site["sizes"]), len(site["shared"])) == (3, 3, 2)


def said(args: list[str]) -> str:
    return command(*args).out


class Selective(nn.Module):
    """Looks at values, and in training at its targets, as detectors do."""

    def __init__(self, cut_off: bool = False) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.score = nn.Conv2d(16, 4, 1)
        self.cut_off = cut_off

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        assert targets is not None or not self.training
        x = self.body(x).relu()
        scores = self.score(x.detach() if self.cut_off else x)
        return scores[scores > scores.mean() + 100]  # nothing at all


def verified(model: nn.Module) -> Any:
    return attnsurgeon.insert(model, "eca", BODY, input_size=AT).verify()


def test_attention_learns_where_training_needs_targets_and_nothing_is_found():
    found = verified(Selective())
    assert found.ok
    assert found.stuck == ()
    assert any("learning tried in eval mode" in note for note in found.notes)


def test_an_argument_that_only_training_takes_is_not_forgotten():
    model = Selective()
    operated = attnsurgeon.insert(model, "eca", BODY, input_size=AT).model.train()
    with pytest.raises(AssertionError):
        operated(torch.randn(1, *AT))
    assert operated(torch.randn(1, *AT), torch.ones(1)).numel() == 0


def test_that_attention_does_not_learn_is_seen_there_too():
    assert verified(Selective(cut_off=True)).stuck == ("body.attn.conv.weight",)


def test_a_network_that_looks_at_values_is_estimated_by_its_name(tmp_path):
    (tmp_path / "net.py").write_text("from tests.networks.test_detectors import Selective as net\n")
    cost = attnsurgeon.estimate(f"{tmp_path / 'net.py'}:net", "eca", BODY, input_size=AT)
    assert cost.delta.params == 3
    assert any("random values" in note for note in cost.notes)


@pytest.mark.filterwarnings("ignore")  # torch warns of what it will move elsewhere
def test_a_quantized_network_is_refused_by_the_layer_that_shows_it():
    from torch.ao.nn import quantized

    assert attnsurgeon.find_sites(nn.Sequential(nn.Linear(4, 4)), input_size=(7, 4))
    with pytest.raises(ModelError, match=r"LinearPackedParams.* the network is quantized"):
        attnsurgeon.find_sites(nn.Sequential(quantized.Linear(4, 4)), input_size=(7, 4))
