"""Your own attention from end to end: insert, price, verify, save, load, remove, and refuse."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import MechanismError, ModelError, RuleError, UsageError
from tests.attention.own import mechanisms as own
from tests.cli.tiny import net

SIZE = (3, 40, 24)
X = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
MINE = """
    import torch
    from torch import nn

    class MyAttention(nn.Module):
        def __init__(self, dim, ratio=4):
            super().__init__()
            hidden = dim // ratio
            self.fc = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

        def forward(self, x):
            return torch.sigmoid(self.fc(x.mean((2, 3))))
"""
# Two layers with biases, and the weight of the blend.
PARAMS = {width: 2 * width * (width // 4) + width // 4 + width + 1 for width in (32, 48)}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working folder with mine.py in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE))
    yield file
    sys.modules.pop("mine", None)


@pytest.fixture
def model() -> nn.Module:
    return net().eval()


def insert(model, attn="mine.py:MyAttention", where="residual-branch", **more):
    return attnsurgeon.insert(model, attn, where, input_size=SIZE, **more)


def test_it_goes_in_bit_equal_is_priced_verified_and_comes_out_again(mine, model):
    operation = insert(model)
    operated = operation.model.eval()
    assert torch.equal(operated(X), model(X))
    assert operation.cost.delta.params == 2 * PARAMS[32] + PARAMS[48]
    # Two products of a vector each, the mean, the relu, the sigmoid, the gate and the blend.
    assert [site["params"] for site in operation.plan.record()["sites"]] == [
        PARAMS[32],
        PARAMS[32],
        PARAMS[48],
    ]
    assert operation.cost.delta.macs > 2 * (2 * 2 * 32 * 8 + 2 * 48 * 12)
    assert operation.verify(full=False).problems == ()
    assert attnsurgeon.audit(operated, input_size=SIZE).ok
    with torch.no_grad():
        for name, parameter in operated.named_parameters():
            if name.endswith("attn.g"):
                parameter.fill_(1.0)
    assert not torch.equal(operated(X), model(X))
    attnsurgeon.remove(operated)
    assert torch.equal(operated(X), model(X))
    assert list(operated.state_dict()) == list(model.state_dict())


def test_under_paper_it_starts_as_it_is_built(mine, model):
    operation = insert(model, init="paper", attn_args={"ratio": 8})
    gates = [m for m in operation.model.modules() if type(m).__name__ == "MyAttention"]
    assert [gate.fc[0].out_features for gate in gates] == [4, 4, 6]
    assert not torch.equal(operation.model.eval()(X), model(X))


@pytest.mark.parametrize(
    "attn", [own.Gate, own.Vector, own.Mask, own.Map, own.make, own.by_mean, own.wide, own.Staged]
)
def test_classes_factories_and_functions_go_in(model, attn):
    operation = insert(model, attn)
    assert len(operation.plan) == 3
    assert torch.equal(operation.model.eval()(X), model(X))
    assert operation.verify(full=False).ok


def test_the_arguments_of_a_partial_are_written_down(model):
    operation = insert(model, own.wide)
    assert [site["args"] for site in operation.plan.record()["sites"]] == [{"k": 7}] * 3


def test_what_takes_two_maps_takes_the_place_of_the_additions(model):
    operation = insert(model, own.Fuse, None)
    assert {cut.action for cut in operation.plan} == {"fuse"}
    assert operation.plan.where == "paper"
    assert torch.equal(operation.model.eval()(X), model(X))


@pytest.mark.slow
@pytest.mark.parametrize("attn", [own.Gate, own.Map, own.Fuse, own.LooksAtValues, own.by_mean])
def test_it_acts_learns_and_is_copied(model, attn):
    where = None if attn is own.Fuse else "residual-branch"
    assert insert(model, attn, where).verify(full=True).problems == ()


class Spare(own.Map):
    """Has a layer that its forward leaves out."""

    def __init__(self, channels):
        super().__init__(channels)
        self.spare = nn.Linear(channels, 2, bias=False)


@pytest.mark.slow
def test_what_is_never_used_is_said_and_no_failure(model):
    checked = insert(model, Spare).verify(full=True)
    assert (checked.problems, checked.stuck) == ((), ())
    assert any("attn.inner.spare.weight and 2 more did not move" in note for note in checked.notes)


def test_sides_and_stage_are_those_of_each_site(model):
    tied = insert(model, own.Tied).plan
    assert [dict(cut.attn_args) for cut in tied] == [
        {"height": 20, "width": 12},
        {"height": 20, "width": 12},
        {"height": 10, "width": 6},
    ]
    staged = insert(model, own.Staged).plan
    assert [dict(cut.attn_args) for cut in staged] == [{"stage": c.site.stage} for c in staged]
    assert len({cut.site.stage for cut in staged}) == 2


def test_what_looks_at_values_is_priced_on_random_ones(model):
    cost = attnsurgeon.estimate(model, own.LooksAtValues, "residual-branch", input_size=SIZE)
    assert cost.delta.params == 2 * (32 * 33) + 48 * 49 + 3
    convolutions = 2 * 20 * 12 * 32 * 32 + 10 * 6 * 48 * 48
    assert cost.delta.macs >= convolutions
    assert any("looks at values: counted on random ones" in note for note in cost.notes)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_tokens_and_channels_last_are_brought_into_the_form_it_expects(name):
    model = timm.create_model(name).eval()
    operation = attnsurgeon.insert(model, own.Map, "residual-branch")
    layouts = {cut.layout for cut in operation.plan}
    assert layouts == ({"NLC"} if name == "test_vit" else layouts)
    x = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(operation.model.eval()(x), model(x))
    assert {type(m).__name__ for m in operation.model.modules()} >= {"Applied", "Map"}


class Signals(nn.Module):
    """A network of signals, (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv1d(3, 24, 5), nn.Conv1d(24, 24, 3, padding=1)
        self.last = nn.Conv1d(24, 24, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm1d(24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branch = self.norm(self.last(torch.relu(self.conv(x))))
        return self.fc(torch.relu(x + branch).mean(2))


def test_signals_take_what_is_for_signals():
    model, x = Signals().eval(), torch.randn(2, 3, 67)
    operation = attnsurgeon.insert(model, own.Signal, "residual-branch", input_size=(3, 67))
    assert torch.equal(operation.model.eval()(x), model(x))
    assert operation.verify(full=False).ok
    with pytest.raises(MechanismError, match="cannot run on 2 x 24 x 63"):
        attnsurgeon.insert(model, own.Gate, "residual-branch", input_size=(3, 67))


@pytest.mark.parametrize(
    ("attn", "said"),
    [
        (own.Halves, r"makes \(2, 32, 10, 6\) of \(2, 32, 20, 12\)"),
        (own.Tuple, "returns a tuple of 2"),
        (own.InPlace, "changes its input in place"),
        (own.NotAlone, "cannot run on 1 x 32 x 20 x 12"),
        (own.NeedsHeads, "needs 'heads'"),
        (own.Raises, "cannot be built with channels=32"),
        (own.NoModule, "not one of nn.Module"),
        (own.built, "is a module already built"),
    ],
)
def test_what_cannot_go_in_is_refused_and_the_network_left_alone(model, attn, said):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MechanismError, match=said):
        insert(model, attn, inplace=True)
    assert list(model.state_dict()) == list(before)
    assert not attnsurgeon.audit(model, input_size=SIZE).calls


def test_a_site_that_it_is_not_for_is_refused_with_the_reason(model):
    def only_wide(channels: int) -> nn.Module:
        if channels < 40:
            raise ValueError("too narrow")
        return own.Map(channels)

    made = insert(model, only_wide).plan
    assert [cut.channels for cut in made] == [48]
    assert len(made.refused) == 2
    assert all("ValueError: too narrow" in refused.reason for refused in made.refused)


def test_what_a_module_last_saw_is_no_part_of_what_it_is_made_of(model):
    operated = insert(model, own.Remembers).model.eval()
    operated(X)
    assert attnsurgeon.audit(operated, input_size=SIZE).altered == {}
    operated.late.attn.inner.conv = nn.Conv2d(48, 48, 1)
    assert "inner.conv.weight" in attnsurgeon.audit(operated, input_size=SIZE).altered["late.attn"]


def test_a_redefined_class_does_not_change_a_plan_that_is_made(model):
    def define(k):
        class Mine(own.Map):
            def __init__(self, channels):
                super().__init__(channels, k)

        return Mine

    first = attnsurgeon.plan(model, define(3), "residual-branch", input_size=SIZE)
    second = attnsurgeon.plan(model, define(5), "residual-branch", input_size=SIZE)
    assert first.cuts[0].attn == second.cuts[0].attn
    assert (first.params, second.params) == (112 * (9 + 1) + 3, 112 * (25 + 1) + 3)
    from attnsurgeon.operate import carry_out

    made = carry_out(copy.deepcopy(model), first).model
    assert {m.conv.kernel_size for m in made.modules() if isinstance(m, own.Map)} == {(3, 3)}


# -- rules ----------------------------------------------------------------------------------------

RULES = """
version: 1
rules:
  - id: mine
    match: {site: residual-branch}
    attn: {type: "mine.py:MyAttention", args: {dim: $C, ratio: 8}}
"""


def test_a_rule_file_that_names_code_is_followed_only_where_you_say_so(mine, model):
    file = Path("mine.yaml")
    file.write_text(RULES)
    mine.write_text("from pathlib import Path\nPath('ran').touch()\n" + mine.read_text())
    with pytest.raises(RuleError, match=r"mine.yaml:6:11: .*'mine.py:MyAttention'; .*code of its"):
        attnsurgeon.plan(model, rules=file, input_size=SIZE)
    assert not Path("ran").exists()
    made = attnsurgeon.plan(model, rules=file, input_size=SIZE, trust=True)
    assert Path("ran").exists()
    assert [dict(cut.attn_args) for cut in made] == [{"dim": "$C", "ratio": 8}] * 3
    # What has been run on your word is still named by a file, with arguments that are the file's.
    with pytest.raises(RuleError, match="code of its own"):
        attnsurgeon.plan(model, rules=file, input_size=SIZE)
    assert attnsurgeon.estimate(model, rules=file, input_size=SIZE, trust=True).delta.params > 0


def test_one_file_mixes_yours_and_the_catalogue_and_is_saved_and_loaded(mine, model):
    rules = """
    version: 1
    rules:
      - {id: a, match: {site: residual-branch, channels: 32}, attn: {type: mine.py:MyAttention, ratio: 8}}
      - {id: b, match: {site: residual-add, channels: 48}, attn: tests.attention.own.mechanisms:Fuse}
      - {id: c, match: {site: residual-branch, channels: 48}, attn: se}
    """  # noqa: E501
    Path("mixed.yaml").write_text(textwrap.dedent(rules))
    operation = insert(model, None, None, rules="mixed.yaml", trust=True)
    assert [cut.card.own for cut in operation.plan] == [True, True, True, False]
    assert torch.equal(operation.model.eval()(X), model(X))
    operation.save("mixed")
    with pytest.raises(ModelError, match="code of its own"):
        attnsurgeon.load("mixed", model=net(), attn={"mine.py:MyAttention": "mine.py:MyAttention"})
    loaded = attnsurgeon.load("mixed", model=model, trust=True).eval()
    assert torch.equal(loaded(X), model(X))


def test_rules_that_were_read_elsewhere_need_the_same_word(mine, model):
    from attnsurgeon.rules.parse import parse_rules

    with pytest.raises(MechanismError, match="code of its own"):
        attnsurgeon.plan(model, rules=parse_rules(RULES), input_size=SIZE)


def test_what_you_name_yourself_may_stand_in_the_rules(mine, model):
    Path("mine.yaml").write_text(RULES)
    made = attnsurgeon.plan(model, "mine.py:MyAttention", rules="mine.yaml", input_size=SIZE)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("attn", "said"),
    [
        ("{type: 'mine.py:MyAttention', ratoi: 8}", "there is no argument 'ratoi'"),
        ("'mine.py:MyAttentoin'", "did you mean 'MyAttention'"),
        ("{type: eca, args: {kernel_size: 5}, kernel_size: 5}", "'kernel_size' twice"),
    ],
)
def test_what_is_wrong_with_it_is_said_with_the_place_in_the_file(mine, model, attn, said):
    text = f"version: 1\nrules:\n  - {{id: a, match: {{site: conv}}, attn: {attn}}}\n"
    Path("bad.yaml").write_text(text)
    with pytest.raises(RuleError, match=f"bad.yaml:3:.*{said}"):
        attnsurgeon.plan(model, rules="bad.yaml", input_size=SIZE, trust=True)


# -- saved folders --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder, with mine.py and the outputs of its network beside it."""
    home = tmp_path_factory.mktemp("made")
    (home / "mine.py").write_text(textwrap.dedent(MINE))
    before = Path.cwd()
    os.chdir(home)
    try:
        operation = insert(net().eval())
        with torch.no_grad():
            for parameter in operation.model.parameters():
                parameter.add_(0.01)
        torch.save(operation.model.eval()(X).detach(), "expected.pt")
        operation.save("out")
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def folder(mine, made) -> Path:
    shutil.copy(made / "expected.pt", "expected.pt")
    shutil.copytree(made / "out", "out")
    return Path("out")


def same(loaded: nn.Module) -> bool:
    return torch.equal(loaded.eval()(X), torch.load("expected.pt"))


def test_a_folder_names_the_file_and_its_hash_and_is_loaded_where_you_say_so(folder, mine):
    import hashlib

    record = json.loads((folder / "surgery.json").read_text())
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    assert record["operations"][0]["code"] == [
        {"name": "mine.py:MyAttention", "file": "mine.py", "sha256": digest}
    ]
    with pytest.raises(ModelError, match=r"attention is 'mine.py:MyAttention'; .* in .*/mine.py"):
        attnsurgeon.load(folder, model=net())
    assert same(attnsurgeon.load(folder, model=net(), trust=True))


def test_what_you_hand_in_needs_no_trust(folder):
    module = __import__("mine")
    loaded = attnsurgeon.load(folder, model=net(), attn=module.MyAttention)
    assert same(loaded)
    assert same(attnsurgeon.load(folder, model=net(), attn="mine.py:MyAttention"))
    named = {"mine.py:MyAttention": module.MyAttention}
    assert same(attnsurgeon.load(folder, model=net(), attn=named))
    with pytest.raises(UsageError, match="none called 'other:X'"):
        attnsurgeon.load(folder, model=net(), attn={"other:X": module.MyAttention})


def test_a_file_that_has_changed_is_refused_unless_it_is_handed_in(folder, mine):
    mine.write_text(mine.read_text() + "\n# a remark\n")
    with pytest.raises(ModelError, match=r"mine.py has changed since .* its sha256 was") as caught:
        attnsurgeon.load(folder, model=net(), trust=True)
    assert "attn=MyAttention" in (caught.value.hint or "")
    loaded = attnsurgeon.load(folder, model=net(), attn="mine.py:MyAttention")
    assert same(loaded)


def test_a_changed_file_is_not_even_run(folder, mine):
    mine.write_text("from pathlib import Path\nPath('ran').touch()\n" + mine.read_text())
    with pytest.raises(ModelError, match="has changed"):
        attnsurgeon.load(folder, model=net(), trust=True)
    assert not Path("ran").exists()


def test_code_that_computes_something_else_is_refused_though_handed_in(folder):
    with pytest.raises(ModelError, match="params was"):
        attnsurgeon.load(folder, model=net(), attn=own.Map)


def test_a_file_that_has_moved_is_handed_in_and_named_where_it_is_now(folder, mine, tmp_path):
    (tmp_path / "lib").mkdir()
    mine.rename(tmp_path / "lib" / "mine.py")
    with pytest.raises(ModelError, match=r"is not there: there is no file mine.py"):
        attnsurgeon.load(folder, model=net(), trust=True)
    loaded = attnsurgeon.load(folder, model=net(), attn="lib/mine.py:MyAttention")
    assert same(loaded)
    (record,) = loaded._attnsurgeon_history
    assert record["code"][0]["name"] == record["attn"] == "lib/mine.py:MyAttention"
    assert {site["attn"] for site in record["sites"]} == {"lib/mine.py:MyAttention"}


@pytest.mark.parametrize("name", ["os:system", "evil.py:X", "evil.inside:X"])
def test_a_folder_that_names_other_code_is_refused_before_it_is_imported(folder, name):
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    record = json.loads((folder / "surgery.json").read_text())
    for site in record["operations"][0]["sites"]:
        site["attn"] = name
    (folder / "surgery.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="code of its own"):
        attnsurgeon.load(folder, model=net())
    with pytest.raises(ModelError, match="stood in no file"):
        attnsurgeon.load(folder, model=net(), trust=True)
    assert not Path("ran").exists()


def test_what_stood_in_no_file_has_to_be_handed_in(mine, model):
    class Local(own.Map):
        pass

    folder = insert(model, Local).save("out")
    with pytest.raises(ModelError, match="stood in no file"):
        attnsurgeon.load(folder, model=net(), trust=True)
    loaded = attnsurgeon.load(folder, model=model, attn=Local)
    assert torch.equal(loaded.eval()(X), model(X))


def test_attention_of_the_catalogue_needs_none_handed_in(model, tmp_path):
    folder = insert(model, "se").save(tmp_path / "out")
    with pytest.raises(UsageError, match="needs no attention handed in"):
        attnsurgeon.load(folder, model=net(), attn=own.Map)
