"""Where attention may stand: layouts, tokens, ranks, chains, several runs, two at one site."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnsurgeon
from attnsurgeon.splicing.history import inserted
from tests import surgery
from tests.looking.operated import handed, stirred

C = 16


class Token(nn.Module):
    """A block on tokens (N, L, C), as the last layers of a transformer's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(C), nn.Linear(C, 17), nn.Linear(17, C)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x + x.mean(1, keepdim=True)))))


class Vit(nn.Module):
    """5 x 7 patches, ahead of them a class token and a register, behind them another one."""

    def __init__(self, *, before: int = 2, after: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.before = nn.Parameter(torch.randn(1, before, C)) if before else None
        self.after = nn.Parameter(torch.randn(1, after, C)) if after else None
        self.blocks = nn.Sequential(Token(), Token())
        self.fc = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.patches(x).flatten(2).transpose(1, 2)]
        if self.before is not None:
            parts = [self.before.expand(len(x), -1, -1), *parts]
        if self.after is not None:
            parts = [*parts, self.after.expand(len(x), -1, -1)]
        return self.fc(self.blocks(torch.cat(parts, dim=1)).mean(1))


class Last(nn.Module):
    """A block whose branch is (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(C), nn.Linear(C, 17), nn.Linear(17, C)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.fc2(F.gelu(self.fc1(z))).permute(0, 3, 1, 2)


class Net(nn.Module):
    """A stem, blocks and a classifier, of any rank."""

    def __init__(self, *blocks: nn.Module, rank: int = 2) -> None:
        super().__init__()
        self.stem = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](3, C, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).flatten(2).mean(2))


class Residual(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
        self.conv1, self.norm1 = conv(C, C, 3, padding=1), norm(C)
        self.conv2, self.norm2 = conv(C, C, 3, padding=1), norm(C)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


def operate(net: nn.Module, attn: Any, size: tuple[int, ...], where: Any, **args: Any) -> nn.Module:
    made = attnsurgeon.insert(
        net.double().eval(), attn, where, attn_args=args, init="paper", input_size=size
    )
    return stirred(made.model)


def one(found: attnsurgeon.SurgeonError | Any) -> Any:
    return next(iter(found.values()))


@pytest.mark.parametrize("attn", ["se", "cbam"])
def test_a_map_with_its_channels_last_has_pictures_like_any_other(attn):
    size = (3, 11, 7)
    model = operate(Net(Last()), attn, size, "residual-branch")
    x = torch.randn(2, *size).double()
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        seen["value"] = output.detach().clone()

    model.get_submodule("blocks.0.fc2").register_forward_hook(note)
    site = one(attnsurgeon.gates(model, x))
    value = seen["value"].movedim(-1, 1)
    assert value.shape == (2, C, 11, 7)
    assert site.resolution == (11, 7)
    made = value * site["channel"][..., None, None]
    if attn == "cbam":
        assert site["spatial"].shape == (2, 11, 7)
        made = made * site["spatial"].unsqueeze(1)
    ((_, output),) = handed(model, x).values()
    torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)


def test_tokens_are_a_map_again_and_those_of_no_position_stand_apart():
    size = (3, 20, 28)
    model = operate(Vit(), "scse", size, "residual-branch", reduction=4)
    x = torch.randn(2, *size).double()
    site = one(attnsurgeon.gates(model, x))
    assert site.resolution == (5, 7)
    assert site["both"].shape == (2, C, 5, 7)
    assert site["tokens"].shape == (2, C, 3)
    (value,), output = next(iter(handed(model, x).values()))
    assert value.shape == (2, C, 38, 1)
    row = torch.cat(
        (site["tokens"][..., :2], site["both"].flatten(2), site["tokens"][..., 2:]), dim=2
    )
    torch.testing.assert_close(value * row.unsqueeze(3), output, rtol=1e-12, atol=1e-12)
    # At another size of the same proportions the map is larger.
    larger = one(attnsurgeon.gates(model, torch.randn(1, 3, 40, 56).double()))
    assert larger["both"].shape == (1, C, 10, 14)
    # What is no map of these proportions stays a row.
    row_alone = one(attnsurgeon.gates(model, torch.randn(1, 3, 20, 20).double()))
    assert row_alone["both"].shape == (1, C, 28)
    assert row_alone.resolution == (28,)
    assert "tokens" not in row_alone


def test_where_tokens_of_no_position_pass_by_there_is_nothing_of_them():
    size = (3, 20, 28)
    model = operate(Vit(), "simam", size, "residual-branch")
    site = one(attnsurgeon.gates(model, torch.randn(2, *size).double()))
    assert site["both"].shape == (2, C, 5, 7)
    assert "tokens" not in site


def test_where_all_tokens_are_of_the_map_there_is_nothing_beside_it():
    size = (3, 20, 28)
    model = operate(Vit(before=0, after=0), "scse", size, "residual-branch", reduction=4)
    site = one(attnsurgeon.gates(model, torch.randn(2, *size).double()))
    assert site["both"].shape == (2, C, 5, 7)
    assert "tokens" not in site


def test_channel_gates_of_tokens_are_of_channels():
    size = (3, 20, 28)
    model = operate(Vit(), "se", size, "residual-branch", reduction=4)
    site = one(attnsurgeon.gates(model, torch.randn(2, *size).double()))
    assert list(site) == ["channel", "change"]
    assert site["channel"].shape == (2, C)
    assert site.resolution == (5, 7)


def test_of_what_pools_nothing_the_network_says_where_the_other_tokens_stand():
    size = (3, 20, 28)
    model = operate(Vit(), "atac", size, {"site": "act"}, reduction=1)
    x = torch.randn(2, *size).double()
    site = one(attnsurgeon.gates(model, x))
    (value, *_), output = next(iter(handed(model, x).values()))
    assert value.shape == (2, 17, 38, 1)
    row = torch.cat(
        (site["tokens"][..., :2], site["both"].flatten(2), site["tokens"][..., 2:]), dim=2
    )
    torch.testing.assert_close(value * row.unsqueeze(3), output, rtol=1e-12, atol=1e-12)
    assert site["both"].shape == (2, 17, 5, 7)


@pytest.mark.parametrize(("rank", "sides"), [(1, (13,)), (3, (3, 7, 5))])
def test_a_signal_and_a_clip_have_maps_of_their_rank(rank, sides):
    model = operate(Net(Residual(rank), rank=rank), "cbam", (3, *sides), "residual-branch")
    x = torch.randn(2, 3, *sides).double()
    site = one(attnsurgeon.gates(model, x))
    assert site.resolution == sides
    assert site["spatial"].shape == (2, *sides)
    (value,), output = next(iter(handed(model, x).values()))
    made = value * site["channel"][(..., *[None] * rank)] * site["spatial"].unsqueeze(1)
    torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)


class Pyramid(nn.Module):
    """One block that runs on maps of three sizes, as the heads of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.block = Residual(2)
        self.fc = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = [x, F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]
        return sum(self.fc(self.block(m).mean((2, 3))) for m in maps)  # type: ignore[return-value]


def test_each_run_of_a_module_has_pictures_of_its_own():
    size = (3, 24, 16)
    model = operate(Pyramid(), "cbam", size, "residual-branch")
    found = attnsurgeon.gates(model, torch.randn(2, *size).double())
    path = next(path for path, _ in inserted(model))
    assert list(found) == [path, f"{path}#2", f"{path}#3"]
    assert [s.site for s in found.values()] == [f"block.norm2{n}" for n in ("", "#2", "#3")]
    assert {s.module_path for s in found.values()} == {path}
    sides = [tuple(s["spatial"].shape[1:]) for s in found.values()]
    assert sides == [(24, 16), (12, 8), (6, 4)]
    assert found["block.norm2#3"] is found[f"{path}#3"]


def test_two_at_one_site_are_told_apart_by_their_modules():
    size = (3, 11, 7)
    net = Net(Residual(2)).double().eval()
    plan = surgery.plan_of(surgery.surveyed(net, size), attn=("eca", "srm"))
    model = stirred(surgery.operated(net, plan))
    x = torch.randn(2, *size).double()
    found = attnsurgeon.gates(model, x)
    assert [(s.site, s.mechanism) for s in found.values()] == [
        ("blocks.0.norm2", "eca"),
        ("blocks.0.norm2", "srm"),
    ]
    given = handed(model, x)
    for path, site in found.items():
        (value,), output = given[path]
        assert torch.equal(value * site["channel"][..., None, None], output)
    with pytest.raises(KeyError, match=r"blocks\.0\.norm2"):
        found["blocks.0.norm2"]


def test_a_chain_is_told_of_place_by_place():
    size = (3, 11, 7)
    model = operate(Net(Residual(2), Residual(2)), "dia", size, "residual-branch")
    found = attnsurgeon.gates(model, torch.randn(2, *size).double())
    assert [s.site for s in found.values()] == ["blocks.0.norm2", "blocks.1.norm2"]
    first, second = (s["channel"] for s in found.values())
    assert not torch.allclose(first, second)


def test_a_map_of_one_position_has_the_same_pictures():
    model = operate(Net(Residual(2)), "cbam", (3, 11, 7), "residual-branch")
    x = torch.randn(2, 3, 1, 1).double()
    site = one(attnsurgeon.gates(model, x))
    assert list(site) == ["channel", "spatial", "change"]
    assert site["spatial"].shape == (2, 1, 1)
    (value,), output = next(iter(handed(model, x).values()))
    made = value * site["channel"][..., None, None] * site["spatial"].unsqueeze(1)
    assert torch.equal(made, output)


def test_only_what_was_asked_for_is_told_of():
    size = (3, 11, 7)
    model = operate(Net(Residual(2), Residual(2)), "eca", size, "residual-branch")
    x = torch.randn(2, *size).double()
    both = attnsurgeon.gates(model, x)
    late = attnsurgeon.gates(model, x, sites="blocks.1.*")
    assert [s.site for s in late.values()] == ["blocks.1.norm2"]
    assert torch.equal(late["blocks.1.norm2"]["channel"], both["blocks.1.norm2"]["channel"])
    assert len(both) == 2
