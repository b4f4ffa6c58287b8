"""Attention gates on the skips of real decoders: by what each is gated, and where there is none."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from tests.nets.families import decoders, segmenters, signals
from tests.nets.families.parts import twice, up
from tests.nets.stages import Stages

SIZE = (3, 32, 48)
GATE = "attention-gate"


def built(make):
    torch.manual_seed(0)
    net = make().eval()
    randomise_norms(net)
    return net


def gated(net, where="skip", init="identity", size=SIZE, **args):
    return attnsurgeon.insert(net, GATE, where, attn_args=args, init=init, input_size=size)


def image(batch=2, size=SIZE):
    return torch.randn(batch, *size)


# What builds a network -> of each skip the channels that cross, of the coarser signal, and of the
# raised one; written down from the code of the networks.
NETWORKS = {
    "bilinear": (lambda: segmenters.UNet(False), [(24, 32, 32), (16, 24, 24), (8, 16, 16)]),
    "interpolated and transposed": (
        lambda: segmenters.UNet(True),
        [(24, 32, 24), (16, 24, 16), (8, 16, 8)],
    ),
    "transposed": (segmenters.TransposedUNet, [(24, 32, 24), (16, 24, 16), (8, 16, 8)]),
    "of modules": (
        lambda: decoders.UNetOfModules(True),
        [(32, 64, 32), (16, 32, 16), (8, 16, 8)],
    ),
    "U-Net++": (
        segmenters.UNetPlusPlus,
        [(8, 16, 16), (16, 24, 24), (8, 16, 16), (8, 16, 16)],
    ),
    "VNet": (decoders.VNet, [(16, 24, 16), (8, 32, 8)]),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "transposed" else pytest.mark.slow) for n in NETWORKS],
)
@pytest.mark.parametrize("signal", ["coarser", "raised"])
def test_each_skip_is_gated_by_what_it_meets_and_starts_as_it_was(name, signal):
    make, expected = NETWORKS[name]
    net = built(make)
    operation = gated(net, signal=signal)
    assert not operation.plan.refused
    made = [(cut.channels, cut.attn_args["signal_channels"]) for cut in operation.plan]
    assert made == [(c, {"coarser": low, "raised": met}[signal]) for c, low, met in expected]
    assert operation.verify().ok
    x = image()
    assert torch.equal(operation.model(x), net(x))
    net.train()
    operation.model.train()
    assert torch.equal(operation.model(x), net(x))


class Written(segmenters.TransposedUNet):
    """The same with its gates written by hand."""

    def __init__(self, gates):
        super().__init__()
        self.gates = nn.ModuleList(gates)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(self.pool(one))
        three = self.down2(self.pool(two))
        low = self.down3(self.pool(three))
        for skip, raised, after, gate in [
            (three, self.raise3, self.up3, self.gates[0]),
            (two, self.raise2, self.up2, self.gates[1]),
            (one, self.raise1, self.up1, self.gates[2]),
        ]:
            met = raised(low)
            low = after(torch.cat([gate(skip, met if gate.raised else low), met], 1))
        return self.out(low)


@pytest.mark.parametrize("signal", ["coarser", "raised"])
def test_the_authors_start_is_the_network_with_its_gates_written_by_hand(signal):
    net = built(segmenters.TransposedUNet)
    model = gated(net, init="paper", signal=signal).model
    gates = [copy.deepcopy(part) for _, part in inserted(model)]
    by_hand = Written(gates).eval()
    by_hand.load_state_dict(net.state_dict() | by_hand.gates.state_dict(prefix="gates."))
    x = image()
    assert torch.equal(model(x), by_hand(x))
    assert not torch.allclose(model(x), net(x))
    for each in (model, by_hand):
        each.train()(x).square().mean().backward()
    for ours, theirs in zip([p for _, p in inserted(model)], gates, strict=True):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_its_own_placement_leaves_the_skip_of_the_images_resolution_out():
    operation = gated(built(segmenters.TransposedUNet), None)
    assert [cut.site.path for cut in operation.plan] == [":cat(0)", ":cat#2(0)"]
    assert all(cut.attn_args["stride"] == 2 for cut in operation.plan)


def test_one_operated_network_takes_other_sizes_and_batches():
    net = built(lambda: segmenters.UNet(False))
    model = gated(net).model
    for size in ((3, 32, 48), (3, 50, 38), (3, 16, 16)):
        x = image(1, size)
        assert torch.equal(model(x), net(x))


class Volumes(nn.Module):
    """A U of rank 3, its sum in place of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv3d(1, 8, 3, 1, 1), nn.Conv3d(8, 16, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose3d(16, 8, 2, 2), nn.Conv3d(8, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x).relu()
        return self.out(self.up(self.two(one).relu()) + one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size", "rank"),
    [(Volumes, (1, 8, 10, 12), 3), (signals.UNet, (1, 64), 1)],
    ids=["volumes", "signals"],
)
@pytest.mark.parametrize("signal", ["coarser", "raised"])
def test_skips_of_volumes_and_signals_are_gated_too(make, size, rank, signal):
    net = built(make)
    size = (next(net.parameters()).shape[1], *size[1:])
    operation = gated(net, size=size, signal=signal)
    assert {cut.rank for cut in operation.plan} == {rank}
    assert operation.verify().ok
    x = image(2, size)
    assert torch.equal(operation.model(x), net(x))


def test_switched_off_removed_copied_saved_and_loaded(tmp_path):
    net = built(segmenters.TransposedUNet)
    operation = gated(net, init="paper")
    model, x = operation.model, image()
    after, before = model(x), net(x)
    with attnsurgeon.disabled(model):
        assert torch.equal(model(x), before)
    assert torch.equal(model(x), after)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), after)
    attnsurgeon.save(model, tmp_path / "folder")
    loaded = attnsurgeon.load(tmp_path / "folder", model=segmenters.TransposedUNet())
    assert torch.equal(loaded.eval()(x), after)
    attnsurgeon.remove(model)
    assert torch.equal(model(x), before)
    assert model.state_dict().keys() == net.state_dict().keys()


def test_one_gate_of_several_is_removed_alone():
    net = built(segmenters.TransposedUNet)
    model = gated(net, init="paper").model
    attnsurgeon.remove(model, ":cat#2(0)")
    kept = [part for _, part in inserted(model)]
    assert [part.theta.in_channels for part in kept] == [24, 8]


def test_audit_counts_each_gate_once():
    model = gated(built(segmenters.TransposedUNet)).model
    audit = attnsurgeon.audit(model, input_size=SIZE)
    assert not audit.dead
    assert not audit.shared
    assert set(audit.calls.values()) == {1}


@pytest.mark.parametrize("signal", ["coarser", "raised"])
def test_what_it_costs_is_known_before_and_counted_after(signal):
    net = built(segmenters.TransposedUNet)
    ahead = attnsurgeon.estimate(net, GATE, "skip", attn_args={"signal": signal}, input_size=SIZE)
    operation = gated(net, signal=signal)
    assert ahead.delta == operation.cost.delta
    added = sum(p.numel() for _, part in inserted(operation.model) for p in part.parameters())
    assert ahead.delta.params == added


def test_attention_on_the_decoder_before_is_what_gates_the_next_skip():
    """SE on a decoder's value, then gates: the signal is what SE made of it."""
    net = built(segmenters.TransposedUNet)
    model = attnsurgeon.insert(net, "se", "decoder", init="paper", input_size=SIZE).model
    model = gated(model, init="paper").model
    parts = {path: part for path, part in inserted(model) if part.__class__.__name__ == "SE"}
    made, seen = [], []
    for part in parts.values():
        part.register_forward_hook(lambda module, given, y: made.append(y))
    for _, part in inserted(model):
        if hasattr(part, "theta"):
            part.register_forward_hook(lambda module, given, y: seen.append(given[1]))
    model(image())
    assert len(seen) == 3
    assert all(any(torch.equal(g, y) for y in made) for g in seen[1:])


# Negative twins.


def test_a_classifier_has_no_skips():
    with pytest.raises(attnsurgeon.SurgeonError, match="this network has none") as caught:
        attnsurgeon.plan(Stages(), GATE, input_size=SIZE)
    assert "no other placement takes it here" in caught.value.hint


def test_where_all_skips_are_of_the_images_resolution_the_other_placement_is_named():
    class Shallow(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = twice(3, 8), twice(8, 16)
            self.three, self.out = twice(24, 8), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            one = self.one(x)
            y = self.two(F.max_pool2d(one, 2))
            return self.out(self.three(torch.cat([one, up(y, one)], 1)))

    with pytest.raises(attnsurgeon.SurgeonError) as caught:
        attnsurgeon.plan(Shallow(), GATE, input_size=SIZE)
    assert "where='skip' (1 site)" in caught.value.hint


def test_a_value_that_meets_nothing_of_a_decoder_is_refused():
    net = built(segmenters.TransposedUNet)
    with pytest.raises(attnsurgeon.SurgeonError, match="it meets no value of a decoder"):
        attnsurgeon.plan(net, GATE, "decoder", input_size=SIZE)


class Spread(segmenters.TransposedUNet):
    """What comes up is a column that the sum with the skip spreads over the map's width."""

    def __init__(self) -> None:
        super().__init__()
        self.up3, self.up2 = twice(24, 24), twice(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(self.pool(one))
        three = self.down2(self.pool(two))
        y = self.up3(three + self.raise3(self.down3(self.pool(three))))
        y = self.up2(two + self.raise2(y).mean(3, keepdim=True))
        return self.out(self.up1(torch.cat([one, self.raise1(y)], 1)))


def test_a_skip_of_another_size_than_what_it_meets_is_refused_and_the_others_are_not():
    plan = attnsurgeon.plan(built(Spread), GATE, "skip", input_size=SIZE)
    assert [cut.site.path for cut in plan] == [":add(0)", ":cat(0)"]
    (refused,) = plan.refused
    assert refused.site.path == ":add#2(0)"
    assert refused.reason == "it is 16 x 24, and what it meets in the decoder 16 x 1"


class Several(segmenters.UNetPlusPlus):
    """A skip that meets two values of the decoder at once."""

    def __init__(self) -> None:
        super().__init__()
        self.x02 = twice(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        x00 = self.x00(x)
        x10 = self.x10(F.max_pool2d(x00, 2))
        x20 = self.x20(F.max_pool2d(x10, 2))
        x11 = self.x11(torch.cat([x10, up(x20, x10)], 1))
        met = [up(x11, x00), up(x11.relu(), x00)]
        return self.out(self.x02(torch.cat([x00, *met], 1)))


def test_a_skip_that_meets_two_values_is_refused():
    plan = attnsurgeon.plan(built(Several), GATE, "skip", input_size=SIZE)
    assert [cut.site.path for cut in plan] == [":cat(0)"]
    assert "it meets 2 values of the decoder in one operation" in plan.refused[0].reason


class Meeting(nn.Module):
    """A skip around what is inside, which sees nothing but the result of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def nested() -> nn.Module:
    inner = nn.Sequential(nn.MaxPool2d(2), *twice(16, 24), nn.ConvTranspose2d(24, 16, 2, 2))
    middle = nn.Sequential(
        nn.MaxPool2d(2), *twice(8, 16), Meeting(inner), nn.ConvTranspose2d(32, 8, 2, 2)
    )
    return nn.Sequential(*twice(3, 8), Meeting(middle), nn.Conv2d(16, 2, 1))


def test_where_the_coarser_signal_is_inside_another_module_the_raised_one_is_named_and_serves():
    net = built(nested)
    with pytest.raises(attnsurgeon.SurgeonError, match="signal=raised gates it by what it meets"):
        attnsurgeon.plan(net, GATE, "skip", input_size=SIZE)
    operation = gated(net, signal="raised")
    assert [cut.place.host for cut in operation.plan] == ["2.inner.3", "2"]
    x = image()
    assert torch.equal(operation.model(x), net(x))


# Networks of others: how many skips there are, and how many are gated by the coarser signal, by
# the raised one.
SMP = {
    "Unet": ({"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 16, 16)}, 4, 4, 4),
    "Unet-timm": (
        {"encoder_name": "tu-mobilenetv3_small_050", "decoder_channels": (32, 16, 16, 16, 16)},
        *(4, 4, 4),
    ),
    "FPN": ({"encoder_name": "resnet18", "decoder_pyramid_channels": 32}, 3, 3, 3),
    "MAnet": (
        {
            **{"encoder_name": "resnet18", "decoder_channels": (32, 16, 16, 16, 16)},
            "decoder_pab_channels": 8,
        },
        *(4, 0, 4),
    ),
    "DeepLabV3Plus": ({"encoder_name": "resnet18", "decoder_channels": 32}, 1, 1, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["coarser", "raised"])
@pytest.mark.parametrize("name", SMP)
def test_skips_of_segmentation_models_pytorch(name, signal):
    smp = pytest.importorskip("segmentation_models_pytorch")
    args, skips, coarser, raised = SMP[name]
    net = built(lambda: getattr(smp, name.partition("-")[0])(encoder_weights=None, **args))
    found = attnsurgeon.find_sites(net, input_size=(3, 64, 96)).where(site="skip")
    assert len(found) == skips
    wanted = {"coarser": coarser, "raised": raised}[signal]
    if not wanted:
        with pytest.raises(attnsurgeon.SurgeonError, match="signal=raised"):
            gated(net, size=(3, 64, 96), signal=signal)
        return
    operation = gated(net, size=(3, 64, 96), signal=signal)
    assert len(operation.plan) == wanted
    x = image(2, (3, 64, 96))
    assert torch.equal(operation.model(x), net(x))


@pytest.mark.slow
def test_skips_of_monais_unet_are_gated_by_the_raised_signal():
    nets = pytest.importorskip("monai.networks.nets")
    net = built(lambda: nets.UNet(3, 1, 2, (8, 16, 24), (2, 2)))
    size = (1, 16, 16, 24)
    with pytest.raises(attnsurgeon.SurgeonError, match=r"SkipConnection.*signal=raised"):
        gated(net, size=size)
    operation = gated(net, size=size, signal="raised")
    assert [cut.channels for cut in operation.plan] == [8]
    x = image(2, size)
    assert torch.equal(operation.model(x), net(x))


@pytest.mark.slow
def test_monais_gate_is_the_raised_form():
    blocks = pytest.importorskip("monai.networks.nets.attentionunet")
    torch.manual_seed(0)
    theirs = blocks.AttentionBlock(3, f_int=8, f_g=12, f_l=16).double().eval()
    ours = attnsurgeon.create_attention(
        GATE, 16, rank=3, signal="raised", signal_channels=12
    ).double()
    ours.eval()
    randomise_norms(theirs)
    order = {"theta": theirs.W_x, "phi": theirs.W_g, "score": theirs.psi}
    for name, part in order.items():
        mine = ours.get_submodule(name).state_dict()
        ours.get_submodule(name).load_state_dict(
            dict(zip(mine, part.state_dict().values(), strict=True))
        )
    x, g = torch.randn(2, 16, 4, 5, 6).double(), torch.randn(2, 12, 4, 5, 6).double()
    torch.testing.assert_close(ours(x, g), theirs(g=g, x=x), rtol=0, atol=1e-12)
