"""Looking changes nothing, costs nothing when nobody looks, and says what it cannot see."""

from __future__ import annotations

import copy
import random
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import attnsurgeon
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.splicing.history import inserted
from tests.looking.operated import fresh, handed, image, looked, operated, stirred
from tests.looking.test_places import Net, Residual, operate

SIZE = (3, 11, 7)


def net(attn: Any = "cbam", where: Any = "residual-branch", **args: Any) -> nn.Module:
    return operate(Net(Residual(2), Residual(2)), attn, SIZE, where, **args)


def picture(batch: int = 2) -> Tensor:
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(4)).double()


class Operations(TorchDispatchMode):
    """Writes down which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, x: Tensor) -> list[str]:
    with torch.no_grad(), Operations() as mode:
        model(x)
    return mode.ran


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a module holds, by identity, and of its tensors the numbers."""
    held: dict[str, Any] = {}
    for path, module in model.named_modules():
        held[path] = {name: id(value) for name, value in vars(module).items()}
        held[f"{path} class"] = type(module)
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_buffers", "_parameters", "_modules"):
            held[f"{path} {kind}"] = {k: id(v) for k, v in vars(module)[kind].items()}
    return held


@pytest.mark.parametrize("train", [False, True])
def test_a_network_is_afterwards_what_it_was(train):
    model, x = net().train(train), picture()
    model.register_forward_hook(lambda module, args, output: None)
    held, numbers = state_of(model), copy.deepcopy(model.state_dict())
    ran = operations(copy.deepcopy(model), x)
    torch.manual_seed(3)
    random.seed(3)
    dice = torch.get_rng_state(), random.getstate()
    attnsurgeon.gates(model, x)
    assert torch.equal(torch.get_rng_state(), dice[0])
    assert random.getstate() == dice[1]
    assert state_of(model) == held
    assert all(torch.equal(numbers[name], value) for name, value in model.state_dict().items())
    assert model.training is train
    assert operations(model, x) == ran  # the very same code


def test_training_mode_is_kept_and_its_statistics_are_not():
    """In training norms use the batch; what they would remember of it is set back."""
    model, x = net(), picture()
    still = attnsurgeon.gates(model, x)
    moving = attnsurgeon.gates(model.train(), x)
    path = next(iter(still))
    assert not torch.allclose(still[path]["spatial"], moving[path]["spatial"])
    again = attnsurgeon.gates(model, x)
    assert torch.equal(again[path]["spatial"], moving[path]["spatial"])
    with torch.no_grad():
        model(x)  # and without looking they move
    assert not torch.equal(
        model.get_buffer("blocks.0.norm1.running_mean"),
        net().get_buffer("blocks.0.norm1.running_mean"),
    )


def test_the_network_computes_what_it_computes_unwatched():
    model, x = net(), picture()
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model(x)
    attnsurgeon.gates(model, x)
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_pictures_are_no_part_of_the_network():
    model = operated("interflow")
    (site,) = attnsurgeon.gates(model, image()).values()
    weights = model.get_submodule(site.module_path).head.weights  # type: ignore[union-attr]
    site["stages"].zero_()
    assert bool((weights != 0).any())
    assert not site["stages"].requires_grad


def test_gradients_are_off_whatever_the_caller_has():
    model, x = net(), picture().requires_grad_()
    for site in attnsurgeon.gates(model, x).values():
        assert all(not p.requires_grad for p in site.values())
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert len(attnsurgeon.gates(model, picture())) == 2


def test_a_network_that_fails_is_left_as_it_was():
    model = net()
    held = state_of(model)
    with pytest.raises(ModelError, match="cannot be run on this input") as caught:
        attnsurgeon.gates(model, torch.randn(2, 5, 11, 7).double())
    assert caught.value.hint is not None
    assert state_of(model) == held
    assert "forward" not in vars(model.blocks[0].attn)  # type: ignore[index, union-attr]


def test_one_more_argument_is_given_as_for_an_example():
    class Two(Net):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x * scale)

    x, scale = picture(), torch.tensor([[[[2.0]]]]).double()
    made = attnsurgeon.insert(
        Two(Residual(2)).double().eval(), "se", "residual-branch", attn_args={"reduction": 4},
        example=(x, scale), init="paper",
    ).model  # fmt: skip
    by_place = attnsurgeon.gates(made, (x, scale))
    by_name = attnsurgeon.gates(made, (x, {"scale": scale}))
    path = next(iter(by_place))
    assert torch.equal(by_place[path]["channel"], by_name[path]["channel"])
    with pytest.raises(ModelError, match="scale"):
        attnsurgeon.gates(made, x)


def test_what_is_switched_off_is_said_to_be_off():
    model, x = net(), picture()
    with attnsurgeon.disabled(model, "blocks.0"):
        found = attnsurgeon.gates(model, x)
        assert [s.off for s in found.values()] == [True, False]
        assert dict(found["blocks.0.norm2"].pictures) == {}
        assert "off" in repr(found["blocks.0.norm2"])
        held = state_of(model)
    assert all(not s.off for s in attnsurgeon.gates(model, x).values())
    with attnsurgeon.disabled(model, "blocks.0"):
        attnsurgeon.gates(model, x)
        attnsurgeon.gates(model, x)
        assert [*state_of(model)] == [*held]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["csra", "interflow", "sk", "we", "aff"])
def test_what_stands_otherwise_is_said_to_be_off_too(name):
    model = operated(name, "identity")
    with attnsurgeon.disabled(model):
        found = attnsurgeon.gates(model, image())
    assert len(found) == len(list(inserted(model)))
    assert all(site.off for site in found.values())


def test_a_network_without_attention_is_refused():
    with pytest.raises(UsageError, match="no attention in it"):
        attnsurgeon.gates(Net(Residual(2)), picture())


def test_a_site_that_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean .*blocks\.0\.norm2"):
        attnsurgeon.gates(net(), picture(), sites="blocks.0.norm3")


def test_a_module_that_is_gone_is_said_to_be_gone():
    model = net()
    model.blocks[0].attn = nn.Identity()  # type: ignore[index, union-attr]
    with pytest.raises(UsageError, match=r"blocks\.0\.attn was, there is a Identity"):
        attnsurgeon.gates(model, picture())
    (late,) = attnsurgeon.gates(model, picture(), sites="blocks.1").values()
    assert late.site == "blocks.1.norm2"


def test_a_module_that_is_no_longer_itself_is_said_to_be_another():
    model = net("aw", "conv3x3")
    part = model.blocks[0].conv1.attn  # type: ignore[index, union-attr]
    part.gate = nn.Hardsigmoid()  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"aw at blocks\.0\.conv1 is no longer") as caught:
        attnsurgeon.gates(model, picture())
    assert "audit" in str(caught.value.hint)


def test_another_gate_of_the_same_kind_is_followed_as_it_is():
    model, x = net("se", reduction=4), picture()
    for path, part in inserted(model):
        part.gate = nn.Hardsigmoid()
        (value,), output = handed(model, x)[path]
        gate = attnsurgeon.gates(model, x)[path]["channel"]
        assert torch.equal(value * gate[..., None, None], output)


def test_two_looks_at_a_time_do_not_disturb_each_other():
    """One begins while the other runs, and ends after it."""
    model, x = net(), picture()
    plain = attnsurgeon.gates(model, x)
    held = state_of(model)
    inside, over = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            over.wait(20)
            return self.inner(x)

    class Starts(Slow):
        def forward(self, x: Tensor) -> Tensor:
            thread.start()
            inside.wait(20)
            return self.inner(x)

    late: list[Any] = []
    thread = threading.Thread(target=lambda: late.append(attnsurgeon.gates(Slow(model), x)))
    early = attnsurgeon.gates(Starts(model), x)
    over.set()
    thread.join()
    for found in (early, *late):
        assert list(found) == list(plain)
        assert all(torch.equal(found[p]["channel"], plain[p]["channel"]) for p in plain)
    assert len(late) == 1
    assert state_of(model) == held


def test_a_module_that_does_not_run_is_named():
    model = net()
    first = model.blocks[0]  # type: ignore[index]
    first.forward = lambda x: x  # type: ignore[method-assign, union-attr]
    found = attnsurgeon.gates(model, picture())
    assert [s.site for s in found.values()] == ["blocks.1.norm2"]
    assert found.dead == ("blocks.0.attn",)
    assert "blocks.0.attn did not run" in repr(found)
    assert attnsurgeon.gates(net(), picture()).dead == ()


def test_nan_is_said_to_be_where_it_is_and_where_it_comes_from():
    model, x = net(), picture()
    part = model.blocks[1].attn  # type: ignore[index, union-attr]
    part.fc1.weight.data[0, 0] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"cbam at blocks\.1\.norm2.*fc1\.weight is not finite"):
        attnsurgeon.gates(model, x)
    assert attnsurgeon.gates(model, x, sites="blocks.0")  # another site has none
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(
        ModelError, match=r"blocks\.0\.norm2.*what reaches it is not finite"
    ) as caught:
        attnsurgeon.gates(model, x)
    assert "input" in str(caught.value.hint)


def test_a_replicated_network_is_refused():
    with pytest.raises(UsageError, match="DataParallel"):
        attnsurgeon.gates(nn.DataParallel(net()), picture())


def test_a_network_without_numbers_is_refused():
    with pytest.raises(ModelError, match="meta device"):
        attnsurgeon.gates(net().to("meta"), picture())


def test_what_stands_around_the_network_is_run_as_it_is():
    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(2 * x)

    model, x = net(), picture()
    around, alone = attnsurgeon.gates(Around(model), x), attnsurgeon.gates(model, 2 * x)
    assert list(around) == list(alone)
    for path in alone:
        assert torch.equal(around[path]["channel"], alone[path]["channel"])


def test_two_operated_networks_in_one_are_told_apart_by_where_they_stand():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = net(), net("se", reduction=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    model, x = Both(), picture()
    found = attnsurgeon.gates(model, x)
    assert list(found) == [f"{n}.blocks.{i}.attn" for n in ("one", "other") for i in (0, 1)]
    assert found["other.blocks.1.norm2"].mechanism == "se"
    assert len(attnsurgeon.gates(model, x, sites="blocks.0")) == 2
    with pytest.raises(UsageError, match="no inserted attention is called"):
        attnsurgeon.gates(model, x, sites="blocks.7")


def test_another_thread_runs_the_network_unwatched():
    model, x = net(), picture()
    plain = [tensor.clone() for tensor in _outputs(model, x)]
    found: list[Tensor] = []

    def elsewhere() -> None:
        found.extend(_outputs(model, x))

    class Meanwhile(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return self.inner(x)

    told = attnsurgeon.gates(Meanwhile(model), x)
    assert list(told) == ["blocks.0.attn", "blocks.1.attn"]
    assert all(len(site["channel"]) == 2 for site in told.values())
    assert torch.equal(found[0], plain[0])


def _outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model(x)]


class Squeeze(nn.Module):
    """Attention of a user's, written as most people write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.fc(y)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class GateAlone(Squeeze):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(x.mean((2, 3))))


class Positions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(1, keepdim=True).sigmoid() + x


class Mixing(nn.Module):
    """No gate: what comes out is no multiple of what goes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


@pytest.mark.parametrize(
    ("attn", "name"),
    [(Squeeze, "channel"), (GateAlone, "channel"), (Positions, "spatial")],
)
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_attention_of_ones_own_is_followed(attn, name, init):
    made = attnsurgeon.insert(
        Net(Residual(2)).double().eval(), attn, "residual-branch", init=init, input_size=SIZE
    )
    model, x = stirred(made.model), picture()
    (site,) = attnsurgeon.gates(model, x).values()
    blend = ["blend"] if init == "identity" else []
    assert list(site) == [name, *blend, "change"]
    given: list[Tensor] = []
    part = model.get_submodule(site.module_path)
    part.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    output = handed(model, x)[site.module_path][1]
    gate = site[name][..., None, None] if name == "channel" else site[name].unsqueeze(1)
    torch.testing.assert_close(given[0] * gate, output, rtol=1e-12, atol=1e-12)


def test_of_what_is_no_gate_there_is_how_much_it_changes():
    made = attnsurgeon.insert(
        Net(Residual(2)).double().eval(), Mixing, "residual-branch", init="paper", input_size=SIZE
    )
    model, x = made.model, picture()
    (site,) = attnsurgeon.gates(model, x).values()
    assert list(site) == ["change"]
    ((value,), output) = handed(model, x)[site.module_path]
    expected = (output - value).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    torch.testing.assert_close(site["change"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_another_precision_the_gates_are_those_of_that_precision(dtype):
    model, x = copy.deepcopy(net()).to(dtype), picture().to(dtype)
    if dtype == torch.float32:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert [list(s) for s in attnsurgeon.gates(model, x).values()] == [
                ["channel", "spatial", "change"]
            ] * 2
    for site in attnsurgeon.gates(model, x).values():
        assert list(site) == ["channel", "spatial", "change"]
        assert site["channel"].dtype == dtype


def test_a_norm_that_half_precision_does_not_hold_is_not_taken_for_nan():
    model = net("se", reduction=4).half()
    model.blocks[0].norm2.weight.data.fill_(1e4)  # type: ignore[index, union-attr]
    site = attnsurgeon.gates(model, picture().half())["blocks.0.norm2"]
    assert site["change"].dtype == torch.float32
    assert bool(site["change"].isfinite().all())


@pytest.mark.slow
def test_a_compiled_network_is_looked_at_as_it_was_written():
    model, x = net(), picture()
    plain = attnsurgeon.gates(model, x)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)
    found = attnsurgeon.gates(compiled, x)  # pyright: ignore[reportArgumentType]
    assert list(found) == list(plain)
    for path in plain:
        assert torch.equal(found[path]["channel"], plain[path]["channel"])
    model.blocks[0].compile(backend="eager")  # type: ignore[index, union-attr]
    with torch.no_grad():
        model(x)
    assert list(attnsurgeon.gates(model, x)) == list(plain)


def test_a_position_is_a_fraction_of_each_axis():
    from tests.looking.test_gates import by_crisscross

    model, _, given = looked("crisscross")
    ((path, ((value,), _)),) = given.items()
    h, w = value.shape[2:]
    part = model.get_submodule(path)
    for position, at in (
        ((0.0, 0.0), (0, 0)),
        ((1.0, 1.0), (h - 1, w - 1)),
        ((0.0, 0.99), (0, w - 1)),
        ((0.5, 0.5), (h // 2, w // 2)),
        (None, (h // 2, w // 2)),
    ):
        (site,) = attnsurgeon.gates(model, image(), position=position).values()
        with torch.no_grad():
            expected = by_crisscross(part, value, at)["attention"]
        torch.testing.assert_close(site["attention"], expected)
    for wrong in ((2, 3), (0.5, -0.1), ("a", "b"), 0.5, (), (float("nan"), 0.5)):
        with pytest.raises(UsageError, match="position"):
            attnsurgeon.gates(model, image(), position=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 numbers, and the map 2 axes"):
        attnsurgeon.gates(model, image(), position=(0.5,))


def test_gates_print_as_a_table():
    _, found, _ = looked("cbam")
    line = repr(found["stage1.0.bn3"])
    assert line.startswith("<SiteGates stage1.0.bn3: cbam, channel (2, 64), spatial (2, 13, 11)")
    assert len(line) <= 100
    rows = [row.split() for row in repr(found).splitlines()]
    gate = found["stage1.0.bn3"]["channel"]
    figures = [f"{float(v):.3f}" for v in (gate.mean(), gate.min(), gate.max())]
    assert rows[2][:7] == ["stage1.0.attn", "stage1.0.bn3", "cbam", "channel", *figures]
    mask = found["stage1.0.bn3"]["spatial"]
    figures = [f"{float(v):.3f}" for v in (mask.mean(), mask.min(), mask.max())]
    assert rows[3] == ["spatial", *figures]  # the names stand once
    assert len(rows) == 2 + 2 * 4


def test_a_copy_and_a_saved_network_are_looked_at_alike(tmp_path):
    model, x = fresh("se", "paper"), image()
    found = attnsurgeon.gates(model, x)
    twin = attnsurgeon.gates(copy.deepcopy(model), x)
    for path in found:
        assert torch.equal(found[path]["channel"], twin[path]["channel"])
