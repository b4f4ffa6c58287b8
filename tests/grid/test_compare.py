"""A comparison: every row is what `estimate` says alone, limits choose, and an end is gone on from.

Figures of squeeze-and-excitation are by hand: two blocks of 32 channels and one of 48; a hidden
layer of C / r, both layers with biases: 2 C h + h + C.
"""

import csv
import io
import json
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import CheckFailed, MechanismError, ModelError, RuleError, UsageError
from attnsurgeon.grid import filling, saving, subjects
from attnsurgeon.grid.comparing import gathered, journal_of, request_of, subjects_of
from attnsurgeon.grid.limits import in_order
from attnsurgeon.grid.saving import INDEX, JOURNAL, READABLE, saving_to
from attnsurgeon.grid.table import Grid, Network, Row
from attnsurgeon.grid.text import COLUMNS, as_csv, as_markdown, escaped
from tests.cli.command import TINY
from tests.cli.tiny import net

NET = f"{TINY}net"
SIZE = (3, 40, 24)
FIGURES = ("params", "macs", "activations")
SE, SE8 = 162 + 162 + 339, 292 + 292 + 630  # r = 16: h = 2 and 3; r = 8: h = 4 and 6
GRIDS = [
    (["se", "sk"], [None, "residual-branch"], {}),
    (["se", "eca(kernel_size=5)", "cbam"], [None, "residual-branch", "stem"], {}),
    (["*ca", "sk"], ["stage", "conv3x3"], {"init": "paper"}),
    (["se", "simam"], ["residual-branch"], {"stage": 2}),
    (["se"], [{"site": "residual-branch", "channels": 32}, ["late.norm"]], {"every": 1}),
]


def compare(*what, **how) -> Any:  # of which rows have figures, or have none
    return attnsurgeon.compare(*what, **{"input_size": SIZE, **how})


@pytest.mark.parametrize(
    ("attns", "wheres", "how"),
    [pytest.param(*g, marks=() if g is GRIDS[0] else pytest.mark.slow) for g in GRIDS],
)
def test_every_row_is_what_estimate_says_of_it_alone(attns, wheres, how):
    grid = compare(NET, attns, wheres, **how)
    assert len(grid) >= len(attns) * len(wheres)
    priced = refused = 0
    places = [w if isinstance(w, str) else None for w in wheres]
    for row in grid:
        where = row.where if row.where in places else None
        if not isinstance(wheres[0], (str, type(None))):
            where = wheres["late.norm" in row.where]
        elif "," in row.where:
            where = row.where.partition(",")[0]
        wanted = row.mechanisms[0] if row.mechanisms else row.attn
        said = NET, wanted, where
        more = {"attn_args": dict(row.args), "input_size": SIZE, **how}
        if row.error is not None:
            with pytest.raises(attnsurgeon.SurgeonError) as alone:
                attnsurgeon.estimate(*said, **more)
            assert (row.error, row.exit_code) == (alone.value.what, alone.value.exit_code)
            assert row.delta is row.after is row.identity is None
            refused += 1
            continue
        cost = attnsurgeon.estimate(*said, **more)
        for name in FIGURES:
            assert row.after[name] == getattr(cost.after, name)
            assert row.delta[name] == getattr(cost.delta, name)
            assert row.delta[f"{name}_percent"] == getattr(cost.delta, f"{name}_percent")
            assert grid.network(row).figures[name] == getattr(cost.before, name)
        assert row.sites == tuple(dict.fromkeys(site.site for site in cost.per_site))
        priced += 1
    assert priced > 0
    assert refused > 0 or "sk" not in attns


def test_arguments_count_as_they_do_by_hand():
    grid = compare(NET, "se,se(reduction=8)", "residual-branch")
    assert [(row.attn, row.delta["params"]) for row in grid] == [
        ("se", SE),
        ("se(reduction=8)", SE8),
    ]
    assert [dict(row.args) for row in grid] == [{}, {"reduction": 8}]
    assert [row.identity for row in grid] == ["native", "native"]


def test_each_combination_is_there_once_mechanisms_first():
    grid = compare(NET, ["se,eca", "se"], ["stage,stem", "stage"])
    pairs = [(row.attn, row.where) for row in grid]
    assert pairs == [("se", "stage"), ("se", "stem"), ("eca", "stage"), ("eca", "stem")]


@pytest.mark.slow
def test_a_wildcard_stands_for_what_it_matches():
    names = [row.attn for row in compare(NET, "*ca", "stem")]
    assert names == [name for name in attnsurgeon.mechanisms() if name.endswith("ca")]
    assert len(names) > 3
    said = [row.attn for row in compare(NET, "s[ek](reduction=4)", "stem")]
    assert said == ["se(reduction=4)", "sk(reduction=4)"]


@pytest.mark.slow
def test_several_networks_stand_side_by_side_and_each_is_looked_at_once(monkeypatch):
    looked = []
    sketch = subjects.sketch
    monkeypatch.setattr(
        subjects, "sketch", lambda s, *a, **k: (looked.append(s), sketch(s, *a, **k))[1]
    )
    made = net(num_classes=5)
    grid = compare([NET, made, f"{TINY}Twice"], "se,eca", ["stem", "residual-branch"])
    assert looked == [NET, f"{TINY}Twice"]
    assert [network.name for network in grid.networks] == [NET, f"{TINY}Twice", "Net"]
    assert len(grid) == 3 * 2 * 2
    assert grid.networks[0].figures["params"] - grid.networks[2].figures["params"] == 2 * 49
    assert made.fc.weight.device.type == "cpu"
    assert not hasattr(made, "_attnsurgeon_history")  # what is handed in is never changed


def test_a_network_of_several_that_cannot_be_run_is_refused_in_its_rows():
    grid = compare([f"{TINY}Flat", NET], "se,eca", "stem", input_size=(3, 17, 19))
    assert [row.error is None for row in grid] == [False, False, True, True]
    assert grid.rows[0].exit_code == 3
    assert "not built" in repr(grid.networks[0])
    with pytest.raises(ModelError):  # alone it is an error, as everywhere
        compare(f"{TINY}Flat", "se", "stem", input_size=(3, 17, 19))


@pytest.fixture(scope="module")
def plain() -> Grid:
    return compare(NET, "cbam,se,sk", ["stage", "residual-branch"])


@pytest.mark.parametrize("key", ["params", "macs", "activations", "sites", "attn", "where"])
def test_rows_are_sorted_and_refusals_stand_last(key, plain):
    def value(row):
        return {"sites": len(row.sites), "attn": row.attn, "where": row.where}.get(
            key, row.after and row.after.get(key)
        )

    for sign in ("", "-"):
        rows = in_order(plain, {NET: plain.networks[0]}, sign + key)
        assert sorted(r.name for r in rows) == sorted(r.name for r in plain)
        known = [value(row) for row in rows if row.error is None or key in ("attn", "where")]
        assert known == sorted(known, reverse=bool(sign))
        if key not in ("attn", "where"):
            assert [row.error is None for row in rows][-2:] == [False] * 2
    assert compare(NET, "cbam,se", "stem", sort="params").rows[0].attn == "se"


def test_limits_choose_and_what_they_leave_out_is_there_to_be_counted():
    grid = compare(NET, "se,se(reduction=8),eca,sk", "residual-branch", max_params=f"+{SE}")
    assert [row.attn for row in grid] == ["se", "eca", "sk"]  # what cannot go in stays
    assert [row.attn for row in grid.left_out] == ["se(reduction=8)"]
    grid = compare(NET, "se,se(reduction=8)", "residual-branch", max_params=f"+{SE8}")
    assert grid.left_out == ()
    assert grid.limits == {"max_params": f"+{SE8}"}


@pytest.mark.parametrize(
    "figure",
    ["macs", *(pytest.param(f, marks=pytest.mark.slow) for f in ("params", "activations"))],
)
def test_a_limit_is_kept_to_the_unit(figure):
    alone = compare(NET, "se", "residual-branch").rows[0]
    at = alone.delta[figure]
    assert len(compare(NET, "se", "residual-branch", **{f"max_{figure}": f"+{at}"})) == 1
    with pytest.raises(CheckFailed):
        compare(NET, "se", "residual-branch", **{f"max_{figure}": f"+{at - 1}"})


def test_limits_that_nothing_keeps_say_the_cheapest_of_each():
    with pytest.raises(CheckFailed) as refused:
        compare(NET, "se,eca,cbam", "residual-branch", max_params="+5", max_macs="+0.01%")
    said = refused.value.what
    assert "none of 3 rows keeps max_params +5 and max_macs +0.01%" in said
    assert "cheapest in parameters is" in said
    assert said.count("eca at residual-branch (+9, +0.024 %)") == 1  # 3 + 3 + 3
    assert "in MACs is" in said


@pytest.mark.parametrize(
    ("what", "how", "error", "said"),
    [
        (("nett.py:net", "se"), {}, ModelError, "nett.py"),
        ((NET, "ecaa"), {}, MechanismError, "did you mean 'eca'"),
        ((NET, "se,ecaa(x=1)"), {}, MechanismError, "did you mean 'eca'"),
        ((NET, "zz*"), {}, MechanismError, "'zz\\*'"),
        ((NET, "se(reducton=8)"), {}, MechanismError, "did you mean 'reduction'"),
        ((NET, "se(reduction"), {}, UsageError, "open"),
        ((NET, "se", "sten"), {}, RuleError, "did you mean 'stem'"),
        ((NET, "se", "st*e,zz*"), {}, RuleError, "'zz\\*'"),
        ((NET, "se", "stem,"), {}, RuleError, "empty part"),
        ((NET, []), {}, UsageError, "no mechanism"),
        (([], "se"), {}, UsageError, "no network"),
        ((NET, "se", []), {}, RuleError, "no placement"),
        ((NET, "se"), {"sort": "mac"}, UsageError, "did you mean 'macs'"),
        ((NET, "se"), {"sort": "--macs"}, UsageError, "nothing to sort by"),
        ((NET, "se"), {"max_params": "lots"}, UsageError, "is no limit"),
        ((NET, "se"), {"max_activations": "+3ms"}, UsageError, "unknown unit"),
        ((NET, "se"), {"latency": {"batches": 2}}, UsageError, "known: .*batch"),
        ((NET, "se"), {"latency": {"device": "gpu7"}}, UsageError, "no device 'gpu7'"),
        ((net(), "se"), {"num_classes": 3}, UsageError, "need a spec"),
        (("torchvision:resnet*", "se"), {"max_networks": 3}, UsageError, "stands for .* and 3 are"),
        (("torchvision:zz*", "se"), {}, ModelError, "no network called"),
        (("folder/*", "se"), {}, ModelError, "no file or folder"),
        ((NET, "se"), {"every": 0}, UsageError, "every 0"),
        ((NET, "se", lambda site: True), {"journal": "x.jsonl"}, UsageError, "is a function"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_nearest(what, how, error, said, tmp_path,
                                                          monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        compare(*what, **how)
    assert list(tmp_path.iterdir()) == []


def test_code_of_ones_own_and_functions_stand_beside_the_catalogue():
    class Scaled(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x):
            return x * self.weight

    grid = compare(NET, ["se", Scaled], lambda site: "residual-branch" in site.roles)
    assert [row.delta["params"] for row in grid] == [SE, 32 + 32 + 48 + 3]  # and a blend each
    assert grid.rows[1].identity == "blend"


def test_csv_is_read_back_by_the_csv_module():
    grid = compare(NET, ["se", "sk", "s2(reduction=[1, 2])"][:2], ["stem", "residual-branch"])
    read = list(csv.DictReader(io.StringIO(as_csv(grid))))
    assert tuple(read[0]) == COLUMNS
    assert [(one["attn"], one["where"]) for one in read] == [(r.attn, r.where) for r in grid]
    for one, row in zip(read, grid, strict=True):
        if row.error is not None:
            assert one["error"] == row.error
            assert one["params_after"] == ""
        else:
            assert int(one["params_change"]) == row.delta["params"]
            assert float(one["macs_percent"]) == row.delta["macs_percent"]
            assert int(one["sites"]) == len(row.sites)


HOSTILE = Row("net", 'a|b"\n<i>,[x](y)', "*w*", "identity", error="no\r\n| `never`", hint="x_y~")
KNOWN = Network("net", "net", {}, "none", (), [3, 5, 7], dict.fromkeys(FIGURES, 7))


def test_csv_and_markdown_keep_marks_of_names_as_letters():
    grid = Grid((KNOWN,), (HOSTILE,), "identity")
    read = next(csv.DictReader(io.StringIO(as_csv(grid))))
    assert (read["attn"], read["error"]) == (HOSTILE.attn, HOSTILE.error)
    last = as_markdown(grid).strip().splitlines()[-1]
    assert last == ('- net: a\\|b" \\<i\\>,\\[x\\](y) at \\*w\\*: no \\| \\`never\\` (x\\_y\\~)')


def test_a_markdown_table_has_as_many_cells_in_each_line():
    made = Row(
        "net", "a|b", "c", "identity", ("se",), {}, "native", ("s",),
        after=dict.fromkeys(FIGURES, 9),
        delta={**dict.fromkeys(FIGURES, 2), **{f"{n}_percent": 200 / 7 for n in FIGURES}},
    )  # fmt: skip
    text = as_markdown(Grid((KNOWN,), (made,), "identity"))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert escaped("a|b") in table[2]
    assert "+28.6 %" in table[2]


def test_a_grid_survives_json():
    grid = compare(NET, "se,sk", "stem", max_params="+50%", sort="-macs")
    again = Grid.of(json.loads(json.dumps(grid.to_json())))
    assert again.to_json() == grid.to_json()
    assert again.rows == grid.rows
    assert len(again.done) == len(again.refusals) == 1


class Stop(Exception):
    pass


def stops_after(number):
    def progress(made, done, of):
        if isinstance(made, Row) and done > number:
            raise Stop

    return progress


def test_what_was_finished_before_an_interrupt_is_not_made_again(tmp_path, monkeypatch):
    journal = tmp_path / "journal.jsonl"
    what = NET, "se,sk,eca,simam", "residual-branch"
    with pytest.raises(Stop):
        compare(*what, journal=journal, progress=stops_after(2))
    weighed = []
    weigh = filling.weigh_plan
    monkeypatch.setattr(filling, "weigh_plan", lambda p: (weighed.append(p.attn), weigh(p))[1])
    grid = compare(*what, journal=journal)
    assert weighed == ["simam"]  # the row that was being shown had been written down
    assert grid.to_json() == compare(*what).to_json()
    with pytest.raises(UsageError, match="another comparison"):
        compare(NET, "se", journal=journal)


def tensors(folder):
    return attnsurgeon.load(folder, trust=True).state_dict()


def test_saved_variants_load_are_bit_equal_and_listed(tmp_path):
    torch.manual_seed(5)
    made = net()
    for module in made.modules():  # else all that stands in a branch looks like the identity
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -1, 1)
    file = tmp_path / "net.pth"
    torch.save(made.state_dict(), file)
    out = tmp_path / "out"
    found = subjects_of([NET], 1, {}, {"checkpoint": str(file)}, input_size=SIZE)
    request = request_of(found, "se,simam,sk", ["residual-branch"], save_all=out)
    with journal_of(request) as journal:
        grid = gathered(request, journal)
    index = json.loads((out / INDEX).read_text())
    assert [row["folder"] for row in index["rows"]] == [row.folder for row in grid]
    names = {row.folder for row in grid.done}
    assert names == {"tiny.py-net--se--residual-branch", "tiny.py-net--simam--residual-branch"}
    assert {p.name for p in out.iterdir()} == {*names, INDEX, READABLE, JOURNAL}
    x = torch.randn(2, *SIZE)
    wanted = made.eval()(x)
    for row in grid.done:
        loaded = attnsurgeon.load(out / row.folder, trust=True).eval()
        assert torch.equal(loaded(x), wanted)
        assert row.after is not None
        assert sum(p.numel() for p in loaded.parameters()) == row.after["params"]
        assert row.verified
        assert row.folder in (out / READABLE).read_text()
    assert "Variants" in (out / READABLE).read_text()


@pytest.mark.slow
def test_a_damaged_variant_is_saved_again_and_the_others_are_not(tmp_path):
    what = NET, "se,eca", "residual-branch"
    out = tmp_path / "out"
    grid = compare(*what, save_all=out, verify="none")
    first, second = (out / row.folder for row in grid)
    before = {name: tensor.clone() for name, tensor in tensors(first).items()}
    written = (second / "surgery.json").stat().st_ino
    (first / "model.safetensors").write_bytes(b"")
    again = compare(*what, save_all=out, verify="none")
    assert [row.folder for row in again] == [row.folder for row in grid]
    assert (second / "surgery.json").stat().st_ino == written
    after = tensors(first)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
def test_limits_decide_what_is_saved_and_other_limits_save_the_rest(tmp_path):
    what = NET, "se,eca", "residual-branch"
    out = tmp_path / "out"
    grid = compare(*what, save_all=out, verify="none", max_params="+100")
    assert [row.attn for row in grid] == ["eca"]
    assert len([p for p in out.iterdir() if p.is_dir()]) == 1
    grid = compare(*what, save_all=out, verify="none")
    assert all((out / row.folder / "model.safetensors").is_file() for row in grid)
    assert len(grid) == 2


@pytest.mark.slow
def test_a_saved_folder_is_compared_and_its_variants_have_both_operations(tmp_path):
    first = compare(NET, "eca", "residual-branch", save_all=tmp_path / "once")
    folder = tmp_path / "once" / str(first.rows[0].folder)
    with pytest.raises(ModelError, match="trust"):
        attnsurgeon.compare(folder, "se", "stem")
    grid = attnsurgeon.compare(folder, "se", "stem", save_all=tmp_path / "twice", trust=True)
    assert grid.networks[0].figures["params"] == first.rows[0].after["params"]
    assert grid.networks[0].input_size == list(SIZE)  # that of its last operation
    twice = attnsurgeon.load(tmp_path / "twice" / str(grid.rows[0].folder), trust=True)
    assert {site.attn for site in attnsurgeon.status(twice).sites} == {"eca", "se"}
    x = torch.randn(2, *SIZE)
    assert torch.equal(twice.eval()(x), attnsurgeon.load(folder, trust=True).eval()(x))


def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(UsageError, match="something else than variants"):
        compare(NET, "se", save_all=tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        compare(NET, "se", save_all=tmp_path / "photo.jpg")
    with pytest.raises(UsageError, match="the journal lies in the folder"):
        compare(NET, "se", save_all=tmp_path / "new", journal=tmp_path / "j")
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_variant_that_fails_its_checks_is_not_saved_and_says_so(tmp_path, monkeypatch):
    class Failed:
        ok = False
        problems = ("the outputs moved",)

    monkeypatch.setattr(saving, "verify", lambda *a, **k: Failed())
    grid = compare(NET, "se", "residual-branch", save_all=tmp_path / "out")
    (row,) = grid.rows
    assert (row.folder, row.verified) == (None, False)
    assert "the outputs moved" in row.notes[-1]
    assert "the outputs moved" in (tmp_path / "out" / READABLE).read_text()


def test_names_of_folders_are_plain_and_none_is_taken_twice(tmp_path):
    keys = [
        ("a/b.py:net", "se(reduction=8, mode='x')", "stage"),
        ("resnet50", "Se", "mine.yaml, stage: 4"),
        ("resnet50", "se", "mine.yaml, stage: 4"),
        ("resnet50", "se", f"{'x' * 300}"),
        ("hf-hub:o/n", "my/att.py:Own", "re:..[/]"),
    ]
    names = saving_to(tmp_path / "out", keys).names
    made = list(names.values())
    assert made[0] == "b.py-net--se-reduction-8-mode-x--stage"
    assert made[1:3] == ["resnet50--Se--mine.yaml-stage-4", "resnet50--se--mine.yaml-stage-4-2"]
    assert len({name.lower() for name in made}) == len(keys)
    assert all(len(name) < 120 and name[0].isalnum() and "/" not in name for name in made)


@pytest.mark.slow
def test_rows_are_measured_where_that_is_asked_for():
    how = {"seconds": 0.01, "repeats": 2, "warm_up": 0}
    grid = compare(NET, "se,sk", "residual-branch", latency=how)
    row, refused = grid
    assert row.forward["pairs"] == 2
    assert row.forward["before"]["median"] > 0
    assert row.memory["after"] > row.memory["before"] > 0
    assert refused.measured is None
    made = dict(
        zip(COLUMNS, next(csv.reader(io.StringIO(as_csv(grid).split("\n")[1]))), strict=True)
    )
    assert float(made["latency_ratio"]) == row.forward["ratio"]["median"]
    assert int(made["memory_after"]) == row.memory["after"]
    only = compare(NET, "se", "residual-branch", max_memory="100GB").rows[0]
    assert only.forward is None
    assert only.memory == row.memory
