"""Tokens: how they stand in a map, and what becomes of those that stand in none."""

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon import SurgeonError
from attnsurgeon.attention.pooling import leave_out
from attnsurgeon.attention.registry import create_attention, mechanisms
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.tokens import Tokens, map_is_used, row_of, tokens_at
from attnsurgeon.splicing.channels_first import map_of, through, tokens_of
from tests.attention.cases import stir


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """`ahead` and `behind` tokens around an 8 x 6 map; scores from the first, or from the mean."""

    def __init__(self, ahead: int = 1, behind: int = 0, pooled: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.ahead = nn.Parameter(torch.randn(1, ahead, 12))
        self.behind = nn.Parameter(torch.randn(1, behind, 12))
        self.place = nn.Parameter(torch.randn(1, ahead + 48 + behind, 12))
        self.blocks = nn.ModuleList(Layer(12) for _ in range(2))
        self.norm, self.head, self.pooled = nn.LayerNorm(12), nn.Linear(12, 5), pooled

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2)
        n = x.shape[0]
        x = torch.cat([self.ahead.expand(n, -1, -1), x, self.behind.expand(n, -1, -1)], 1)
        x = x + self.place
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.pooled else x[:, 0])


SIZE = (3, 32, 24)


def randomised(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network.eval()


@pytest.mark.parametrize(("ahead", "behind"), [(1, 0), (5, 0), (1, 3)])
def test_the_map_among_the_tokens_is_found(ahead, behind):
    sites = attnsurgeon.find_sites(Transformer(ahead, behind), input_size=SIZE)
    found = [s for s in sites if "residual-block" in s.roles]
    assert {(s.grid, s.beside, s.resolution) for s in found} == {((8, 6), (ahead, behind), (8, 6))}
    assert len(found) == 4


def test_only_the_class_token_goes_on_behind_the_last_exchange():
    survey = analyse(Transformer(), SIZE)
    used = {
        path: map_is_used(survey.nodes[path], survey.traced)
        for path in ("blocks.0.mlp.2", "blocks.1:add", "blocks.1.mlp.2")
    }
    assert used == {"blocks.0.mlp.2": True, "blocks.1:add": False, "blocks.1.mlp.2": False}
    survey = analyse(Transformer(pooled=True), SIZE)
    assert map_is_used(survey.nodes["blocks.1.mlp.2"], survey.traced)


class MakesAMapForNobody(Transformer):
    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.ahead.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        x, rest = x[:, :1], x[:, 1:]
        rest.transpose(1, 2).reshape(len(x), 12, 8, 6)
        return self.head(self.norm(x[:, 0]))


def test_a_map_that_leads_nowhere_is_not_used():
    survey = analyse(MakesAMapForNobody(), SIZE)
    assert not map_is_used(survey.nodes["blocks.1.mlp.2"], survey.traced)
    assert map_is_used(survey.nodes["blocks.0.mlp.2"], survey.traced)


class Reordered(nn.Module):
    """Brings the positions of a map into a row in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.embed, self.linear, self.way = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12), way

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        n, c, h, w = x.shape
        if self.way == "rows":
            x = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        elif self.way == "columns":
            x = x.permute(0, 3, 2, 1).reshape(n, h * w, c)
        elif self.way == "windows":
            x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, c)
        elif self.way == "windows and back":
            x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3)
            x = x.reshape(n * h * w // 4, 4, c).view(n, h // 2, w // 2, 2, 2, c).transpose(2, 3)
            x = x.reshape(n, h, w, c).flatten(1, 2)
        elif self.way == "half":
            x = x.flatten(2).transpose(1, 2)[:, : h * w // 2]
        return self.linear(x)


@pytest.mark.parametrize(
    ("way", "grid"),
    [
        ("rows", (8, 6)),
        ("windows and back", (8, 6)),
        ("columns", None),
        ("windows", None),
        ("half", None),
    ],
)
def test_a_grid_is_known_only_where_tokens_stand_row_by_row(way, grid):
    survey = analyse(Reordered(way), SIZE)
    tokens = tokens_at(survey.nodes["linear"], "NLC")
    assert (tokens.sides if tokens else None) == grid


class Patched(nn.Module):
    """Patches of the image itself, brought into a row by reshapes or by an unfolding."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.linear, self.way = nn.Linear(3 * 4 * 4, 12), way

    def forward(self, image: Tensor) -> Tensor:
        n, c, h, w = image.shape
        x = image.view(n, c, h // 4, 4, w // 4, 4)
        if self.way == "rows":
            x = x.permute(0, 2, 4, 3, 5, 1).reshape(n, h * w // 16, -1)
        elif self.way == "columns":
            x = x.permute(0, 4, 2, 3, 5, 1).reshape(n, h * w // 16, -1)
        elif self.way == "places":  # of the same place in all patches, and the patches as channels
            x = x.permute(0, 3, 5, 2, 4, 1).reshape(n, 16, -1)[:, :, :48]
        elif self.way == "unfolded":
            x = nn.functional.unfold(image, 4, stride=4).transpose(1, 2)
        elif self.way == "overlapping":
            x = nn.functional.unfold(image, (4, 4), padding=1, stride=3).transpose(1, 2)
        return self.linear(x)


@pytest.mark.parametrize(
    ("way", "grid"),
    [
        ("rows", (8, 6)),
        ("unfolded", (8, 6)),
        ("overlapping", (11, 8)),  # (32 + 2 - 4) // 3 + 1, (24 + 2 - 4) // 3 + 1
        ("columns", None),
        ("places", None),
    ],
)
def test_patches_of_the_image_stand_as_the_image_does(way, grid):
    survey = analyse(Patched(way), SIZE)
    tokens = tokens_at(survey.nodes["linear"], "NLC")
    assert (tokens.sides if tokens else None) == grid


def test_tokens_become_their_map_and_tokens_again():
    x = torch.arange(2 * 9 * 3.0).reshape(2, 9, 3)
    y = map_of(x, (2, 3), 1, 2)
    assert y.shape == (2, 3, 2, 3)
    assert torch.equal(y[0, :, 1, 2], x[0, 6])
    assert torch.equal(tokens_of(y, x, 1, 2), x)
    assert map_of(torch.zeros(1, 25, 3), (2, 3), 1, 0).shape == (1, 3, 4, 6)
    with pytest.raises(RuntimeError, match=r"a map of 2 x 3.*8 tokens are none"):
        map_of(torch.zeros(1, 8, 3), (2, 3), 0, 0)


CHANNEL_GATES = [
    card.name
    for card in mechanisms().values()
    if card.kind == "gate" and not card.spatial and leave_out(create_attention(card.name, 32), 1, 0)
]


def test_what_pools_can_leave_tokens_out():
    assert {"se", "eca", "srm", "ge", "scse"} <= set(CHANNEL_GATES)
    assert not leave_out(create_attention("simam", 32), 1, 0)


@pytest.mark.parametrize("name", CHANNEL_GATES)
def test_a_class_token_is_gated_and_not_pooled(name):
    gate = stir(create_attention(name, 32)).eval()
    x = torch.randn(2, 13, 32)
    alone = through(gate, "NLC", x[:, 1:])
    assert not torch.allclose(through(gate, "NLC", x)[:, 1:], alone)  # the twin: it is pooled
    leave_out(gate, 1, 0)
    y = through(gate, "NLC", x)
    torch.testing.assert_close(y[:, 1:], alone)
    assert not torch.equal(y[:, 0], x[:, 0])


@pytest.mark.parametrize(
    ("attn", "args"), [("se", {"reduction": 4}), ("cbam", {"reduction": 4}), ("simam", {})]
)
@pytest.mark.parametrize(("ahead", "behind"), [(1, 0), (2, 1)])
def test_attention_on_tokens_is_bit_equal_learns_and_is_saved(attn, args, ahead, behind, tmp_path):
    network = randomised(Transformer(ahead, behind, pooled=True))
    operation = attnsurgeon.insert(
        network, attn, "residual-branch", attn_args=args, input_size=SIZE
    )
    assert len(operation.plan) == 4
    assert operation.verify().ok
    x = torch.randn(3, *SIZE)
    assert torch.equal(operation.model.eval()(x), network(x))
    for path, module in operation.model.named_modules():
        if path.endswith(".attn_1") or path == "blocks.0.attn":
            stir(module)
    operation.save(tmp_path / "out")
    loaded = attnsurgeon.load(tmp_path / "out", model=Transformer(ahead, behind, pooled=True))
    assert torch.equal(loaded.eval()(x), operation.model(x))


def test_a_gate_of_maps_is_refused_where_only_the_class_token_goes_on():
    made = attnsurgeon.plan(
        Transformer(), "cbam", "residual-branch", attn_args={"reduction": 4}, input_size=SIZE
    )
    assert [cut.site.path for cut in made] == ["blocks.0.attn.proj", "blocks.0.mlp.2"]
    assert {r.site.path.split(".")[1] for r in made.refused} == {"1"}
    assert all("class, registers" in r.reason for r in made.refused)
    assert len(attnsurgeon.plan(Transformer(), "eca", "residual-branch", input_size=SIZE)) == 4


def test_a_gate_of_maps_is_refused_on_tokens_in_no_known_map():
    network = Reordered("windows")
    with pytest.raises(SurgeonError, match=r"the tokens here \(NLC\) stand in one is not known"):
        attnsurgeon.plan(network, "cbam", {"name": "linear"}, input_size=SIZE)
    assert len(attnsurgeon.plan(network, "eca", {"name": "linear"}, input_size=SIZE)) == 1


class Deciding(Transformer):
    """Scores from the map alone; its forward looks at a value, so that only modules can be cut."""

    def __init__(self, leak: bool = False) -> None:
        super().__init__(2, 0)
        self.leak = leak

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.ahead.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        if x.isnan().any():
            raise ValueError("no numbers")
        x = self.norm(x)
        scores = self.head(x[:, 2:].mean(1))
        return scores + x[:, :1].mean((1, 2), keepdim=False)[:, None] if self.leak else scores


@pytest.mark.parametrize("attn", ["se", "cbam"])
def test_what_cannot_be_cut_behind_the_class_token_is_cut_before_it(attn):
    network, args = randomised(Deciding()), {"reduction": 4}
    wanted = {"attn_args": args, "input_size": SIZE}
    operation = attnsurgeon.insert(network, attn, "head", **wanted)
    (cut,) = operation.plan
    assert (cut.place.technique, cut.place.host) == ("output-hook", "norm")
    assert cut.place.note.startswith("before the tokens of no position are cut off")
    assert operation.verify().ok
    x = torch.randn(3, *SIZE)
    assert torch.equal(operation.model(x), network(x))
    gate = operation.model.get_submodule(cut.module_path)
    stir(gate)
    rows: list[Tensor] = []
    network.norm.register_forward_hook(lambda *call: rows.append(call[-1]))
    network(x)
    alone = stir(create_attention(attn, 12, init="identity", **args)).eval()
    alone.load_state_dict(gate.state_dict())
    tokens = tokens_of(alone(map_of(rows[0], (8, 6), 2, 0)), rows[0], 2, 0)[:, 2:]
    torch.testing.assert_close(operation.model(x), network.head(tokens.mean(1)))


@pytest.mark.parametrize("leak", [False, True])
def test_it_is_not_where_others_look_at_those_tokens(leak):
    traced = analyse(Deciding(leak), SIZE).traced
    made = [n for n in traced.graph.nodes if n.meta.get("name") == "getitem"]
    (node,) = [n for n in made if n.meta["shape"] == (2, 48, 12)]
    assert (row_of(node, traced) is None) == leak
    assert row_of(node.all_input_nodes[0], traced) is None


def test_what_takes_the_place_of_an_activation_does_so_for_all_tokens():
    network = randomised(Transformer(2, 0, pooled=True))
    operation = attnsurgeon.insert(network, "atac", {"site": "act"}, input_size=SIZE)
    assert len(operation.plan) == 2
    x = torch.randn(3, *SIZE)
    assert torch.equal(operation.model(x), network(x))


def test_tokens_know_what_stands_beside_their_map():
    assert Tokens((8, 6), 1, 3).beside == 4
