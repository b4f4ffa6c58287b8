"""Inputs that are not one image: lists, dicts, keywords, whole numbers, sound."""

import copy
import json
import math
import os
import pickle
import re
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon import SurgeonError
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.exporting.exports import export
from attnsurgeon.recording.examples import form_of_example
from attnsurgeon.recording.input_records import form_of_record, form_record
from attnsurgeon.recording.inputs import TensorForm
from attnsurgeon.splicing.history import inserted
from tests.cli.command import attnsurgeon as run_command
from tests.nets.asking import CASES, Batch, Branch, Diffusion, Keywords, SlowFast, fed

each_case = pytest.mark.parametrize("name", CASES)
LONGER = ("slowfast", "x3d", "diffusion")


def built(name: str) -> Any:
    torch.manual_seed(0)
    model = CASES[name].build().eval()
    randomise_norms(model)
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONGER else []) for n in CASES]
)
def test_it_is_operated_bit_equal_and_a_folder_remembers_the_input(name, tmp_path):
    case, model = CASES[name], built(name)
    example = case.example()
    expected = fed(model, name, example)
    operation = attnsurgeon.insert(model, "eca", case.where, example=example)
    assert [cut.site.path for cut in operation.plan] == list(case.sites)
    assert all(map(torch.equal, fed(operation.model, name, example), expected))
    checked = operation.verify(full=False)
    assert (checked.ok, checked.values_checked > 2) == (True, True)
    for _, part in inserted(operation.model):
        for parameter in part.parameters():
            nn.init.ones_(parameter)
    changed = fed(operation.model, name, example)
    assert not all(map(torch.equal, changed, expected))
    operation.save(tmp_path / "out")
    loaded = attnsurgeon.load(tmp_path / "out", model=case.build()).eval()
    assert all(map(torch.equal, fed(loaded, name, example), changed))
    assert attnsurgeon.audit(loaded).ok  # called with what it was operated with


@pytest.mark.parametrize(
    "name",
    ["diffusion-told", *(pytest.param(n, marks=pytest.mark.slow) for n in ("slowfast", "sound"))],
)
def test_a_command_takes_the_file_once_and_the_folder_needs_it_no_more(name, tmp_path, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    torch.save(case.example(), "input.pt")
    spec = f"tests.nets.asking:{case.build.__name__}"
    made = run_command(
        "insert", spec, "--attn", "eca", "--where", case.where, "--input", "input.pt", "-o", "out"
    )
    assert made.code == 0, made.err
    os.remove("input.pt")
    record = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert [site["path"] for site in record["operations"][0]["sites"]] == list(case.sites)
    checked = run_command("verify", "out", "--trust-code")
    assert checked.code == 0, checked.err
    shown = run_command("report", "out")
    assert shown.code == 0, shown.err


def test_every_command_that_looks_at_a_network_takes_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(CASES["diffusion"].example(), "input.pt")
    spec = ("tests.nets.asking:Diffusion", "--input", "input.pt")
    told = run_command("inspect", *spec, "--json").json()
    assert told["input_size"] == [[3, 16, 16], []]
    wanted = ("--attn", "eca", "--where", "residual-branch")
    assert len(run_command("plan", *spec, *wanted, "--json").json()["sites"]) == 3
    alone = run_command("cost", *spec, "--json").json()["cost"]["before"]
    priced = run_command("cost", *spec, *wanted, "--json").json()["cost"]["before"]
    compared = run_command("compare", *spec, *wanted, "--json").json()["networks"][0]["figures"]
    assert alone["macs"] == priced["macs"] == compared["macs"] > 0
    example = CASES["diffusion"].example()
    cost = attnsurgeon.estimate(spec[0], "eca", "residual-branch", example=example)
    assert cost.before.macs == alone["macs"]  # of one sample, and two were given
    assert re.search("3.16.16 [+] number", run_command("inspect", *spec).out)


def test_files_of_numpy_and_safetensors_are_read_too(tmp_path, monkeypatch):
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    named = CASES["keywords"].example()
    np.savez("input.npz", **{key: value.numpy() for key, value in named.items()})
    save_file(named, "input.safetensors")
    np.save("sound.npy", CASES["sound"].example().double().numpy())
    for spec, file, count in [
        ("Keywords", "input.npz", 1),
        ("Keywords", "input.safetensors", 1),
        ("Sound", "sound.npy", 4),
    ]:
        where = "conv3x3" if spec == "Sound" else "residual-branch"
        command = ("plan", f"tests.nets.asking:{spec}", "--attn", "se", "--where", where, "--json")
        made = run_command(*command, "--input", file)
        assert made.code == 0, made.err
        assert len(made.json()["sites"]) == count


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_nothing_in_a_file_is_run_and_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save([torch.randn(2, 3, 8, 8), Harmful()], "harmful.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "text.pt").write_text("no tensor")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np = pytest.importorskip("numpy")
    np.save("objects.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    torch.save({"lr": 0.1}, "numbers.pt")
    for file, said in [
        ("harmful.pt", f"the input holds <'{os.name}.mkdir'>"),
        ("plain.pkl", f"the input holds <'{os.name}.mkdir'>"),
        ("text.pt", "is a text file"),
        ("broken.npy", "cannot be read"),
        ("objects.npy", "cannot be read"),
        ("numbers.pt", "no tensor in the example input"),
        ("inputt.pt", "there is no file inputt.pt"),
    ]:
        found = run_command("inspect", "tests.nets.asking:SlowFast", "--input", file)
        assert (found.code, said in found.err) == (3, True), found.err
        assert "Traceback" not in found.err
    assert not (tmp_path / "harm").exists()


def test_a_size_and_an_input_are_not_given_both(tmp_path):
    found = run_command(
        "inspect", "tests.nets.asking:X3D", "--input", "a.pt", "--input-size", "3,4,32,32"
    )
    assert (found.code, "give one" in found.err) == (2, True)
    for call in (attnsurgeon.find_sites, attnsurgeon.audit):
        with pytest.raises(SurgeonError, match="give one of them"):
            call(Batch(), input_size=(3, 8, 8), example=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ([], "no tensor"),
        ({"views": object()}, r"example\[0\]\['views'\] is of type object"),
        ({3.5: torch.zeros(2)}, "is of type dict"),
        (torch.zeros(2, 3, 8, 8).to_sparse(), "another kind"),
        (torch.empty(2, 3, 1 << 14, 1 << 14, device="meta"), "too large"),
        ([[[[[[[[torch.zeros(2)]]]]]]]], "nested"),
    ],
)
def test_what_no_form_can_describe_is_refused(example, said):
    with pytest.raises(SurgeonError, match=said):
        attnsurgeon.find_sites(Batch(), example=example)


def test_an_array_is_to_be_made_a_tensor():
    np = pytest.importorskip("numpy")
    with pytest.raises(SurgeonError, match=r"ndarray\n.*torch\.from_numpy"):
        attnsurgeon.find_sites(Batch(), example=np.zeros((2, 3, 8, 8)))


def test_a_keyword_that_is_misspelt_is_said_with_the_nearest():
    image, time = CASES["diffusion"].example()
    for example in ({"x": image, "timestep": time}, (image, {"timesteps": time, "contxt": None})):
        with pytest.raises(SurgeonError, match=r"takes no argument.*\n.*did you mean"):
            attnsurgeon.find_sites(Diffusion(), example=example)


def test_what_does_not_fit_is_told_how_the_forward_is_called():
    with pytest.raises(SurgeonError, match=r"forward\(x, timesteps, context=\.\.\.\)"):
        attnsurgeon.find_sites(Diffusion(), example=torch.randn(2, 3, 16, 16))
    with pytest.raises(SurgeonError, match=r"takes x, timesteps.*example=\(x, timesteps\)"):
        attnsurgeon.find_sites(Diffusion())


def test_a_dict_is_keywords_only_by_the_names_of_the_forward():
    x = torch.zeros(2, 3)

    class One(nn.Module):
        def forward(self, batch: Any, scale: float = 1.0) -> None: ...

    class Any_(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> None: ...

    for model, example, keywords in [
        (One(), {"image": x}, []),
        (One(), {"batch": x}, ["batch"]),
        (One(), ({"image": x}, {"scale": 2.0}), ["scale"]),
        (One(), (x, {"image": x}), []),
        (Any_(), {"image": x}, ["image"]),
        (Any_(), {3: x}, []),
        (Keywords(), {"words": x, "pixels": x}, ["words", "pixels"]),
    ]:
        form = form_of_example(example, model)
        assert list(form.kwargs) == keywords, example


def test_random_numbers_stay_in_the_range_of_the_example():
    example = {
        "words": torch.tensor([[4, 9]]),
        "time": torch.tensor([0.25, 0.75]),
        "same": torch.tensor([0.5]),
        "image": torch.zeros(1, 3, 4),  # says nothing of its numbers
        "mask": torch.tensor([True, True]),
        "unknown": torch.empty(2, 3, device="meta", dtype=torch.int64),
        "hole": torch.tensor([math.nan, 1.0]),
    }
    form = form_of_example(example, Batch())
    drawn = form.drawn(torch.Generator().manual_seed(0), torch.randn).args[0]
    assert [t.shape for t in drawn.values()] == [t.shape for t in example.values()]
    assert [t.dtype for t in drawn.values()] == [t.dtype for t in example.values()]
    assert {*drawn["words"].flatten().tolist()} <= {4, 5, 6, 7, 8, 9}
    assert ((drawn["time"] >= 0.25) & (drawn["time"] <= 0.75)).all()
    assert drawn["same"].item() == 0.5
    assert drawn["image"].std() > 0.3
    assert drawn["mask"].all()
    assert not drawn["unknown"].any()
    assert drawn["hole"].isfinite().all()
    first, again = (form.drawn(torch.Generator().manual_seed(7)).args[0] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_words_beyond_the_table_would_have_been_an_error():
    """The twin of what keeps the whole numbers of a check inside the range of the example."""
    form = form_of_example(CASES["keywords"].example(), Keywords())
    wide = form.mapped(
        lambda t: TensorForm(t.shape, t.dtype, 11, 99) if t.dtype == torch.int64 else t
    )
    with pytest.raises(IndexError):
        wide.drawn(torch.Generator().manual_seed(0)).feed(Keywords())
    form.drawn(torch.Generator().manual_seed(0)).feed(Keywords())


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_of_an_example_is_free(batch):
    example = (torch.randn(batch, 3, 16, 16), torch.arange(batch))
    found = attnsurgeon.plan(Diffusion(), "eca", "residual-branch", example=example)
    assert found.survey.traced.batch == 2
    assert found.survey.traced.form.at_batch(5).tensors[1].shape == (5,)
    assert [site.path for site in found.survey.sites if "stem" in site.roles] == ["inside"]


def test_the_guess_of_a_waveform_is_what_its_first_layer_says():
    found = attnsurgeon.find_sites(CASES["sound"].build()).survey.traced
    assert found.input_size == (224,)  # no channels: the forward makes their axis


class OfThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.block = nn.Conv2d(3, 8, 3, padding=1), Branch(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.inside(x.reshape(3, 3, 8, 8)))


def test_the_price_says_at_which_batch_it_was_counted(tmp_path):
    example = torch.randn(3, 3, 8, 8)
    operation = attnsurgeon.insert(OfThree().eval(), "se", "residual-branch", example=example)
    assert "counted at the batch of 3 that was given" in operation.cost.notes
    operation.save(tmp_path / "out")
    loaded = attnsurgeon.load(tmp_path / "out", model=OfThree())
    assert attnsurgeon.audit(loaded).ok


class OfOne(nn.Module):
    """Takes one sample, however many are given."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.block = nn.Conv2d(3, 8, 3, padding=1), Branch(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.inside(x.reshape(1, 3, 8, 8)))


def test_a_network_of_one_batch_size_is_looked_at_with_that():
    example = torch.randn(1, 3, 8, 8)
    operation = attnsurgeon.insert(OfOne().eval(), "se", "residual-branch", example=example)
    assert operation.plan.survey.traced.batch == 1
    assert operation.cost.delta.macs > 0
    assert operation.verify().ok
    assert not any("batch" in note for note in operation.cost.notes)
    with pytest.raises(SurgeonError, match="cannot be run on an input"):
        attnsurgeon.find_sites(OfOne(), input_size=(3, 8, 8))


@each_case
def test_a_form_is_written_and_read_as_it_was(name):
    form = form_of_example(CASES[name].example(), CASES[name].build())
    record = json.loads(json.dumps(form_record(form), allow_nan=False))
    assert form_of_record(record) == form


def test_a_plain_image_needs_no_form_in_the_folder():
    made = attnsurgeon.plan(Branch(8), "se", "residual-branch", input_size=(8, 12, 12))
    assert made.record()["example"] is None
    found = made.survey.traced.form
    again = attnsurgeon.plan(Branch(8), "se", "residual-branch", example=found)
    assert again.record() == made.record()


TENSOR: dict[str, Any] = {"tensor": [2, 3], "dtype": "float32"}


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"args": [TENSOR]},
        {"args": TENSOR, "kwargs": [], "batched": True},
        {"args": [], "kwargs": [], "batched": True},
        {"args": [{"value": 3}], "kwargs": [], "batched": True},
        {"args": [3], "kwargs": [], "batched": True},
        {"args": [{"tensor": [2, -3], "dtype": "float32"}], "kwargs": [], "batched": True},
        {"args": [{"tensor": [2, 1.5], "dtype": "float32"}], "kwargs": [], "batched": True},
        {
            "args": [{"tensor": [1 << 20, 1 << 20], "dtype": "float32"}],
            "kwargs": [],
            "batched": True,
        },
        {"args": [{"tensor": [2, 3], "dtype": "save"}], "kwargs": [], "batched": True},
        {"args": [{"tensor": [2, 3]}], "kwargs": [], "batched": True},
        {"args": [{**TENSOR, "range": [1]}], "kwargs": [], "batched": True},
        {"args": [{**TENSOR, "range": [2, 1]}], "kwargs": [], "batched": True},
        {"args": [{**TENSOR, "range": ["a", "b"]}], "kwargs": [], "batched": True},
        {"args": [{**TENSOR, "range": [0.0, math.inf]}], "kwargs": [], "batched": True},
        {"args": [TENSOR, {"value": {}}], "kwargs": [], "batched": True},
        {"args": [TENSOR, {"set_of": []}], "kwargs": [], "batched": True},
        {"args": [TENSOR, {"list_of": 3}], "kwargs": [], "batched": True},
        {"args": [TENSOR, {"dict_of": [["a"]]}], "kwargs": [], "batched": True},
        {"args": [TENSOR, {"dict_of": [[["a"], TENSOR]]}], "kwargs": [], "batched": True},
        {"args": [TENSOR], "kwargs": []},
        {"args": [TENSOR], "kwargs": [], "batched": 1},
        {"args": [], "kwargs": [[3, TENSOR]], "batched": True},
        {"args": [], "kwargs": {"x": TENSOR}, "batched": True},
    ],
)
def test_a_record_that_nobody_wrote_is_refused(record):
    with pytest.raises(SurgeonError):
        form_of_record(record)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slowfast", "diffusion-told", "keywords"])
def test_it_is_exported_with_the_input_that_it_was_operated_with(name, tmp_path):
    case = CASES[name]
    operation = attnsurgeon.insert(built(name), "srm", case.where, example=case.example())
    form = operation.plan.survey.traced.form
    made = export(
        operation.model,
        tmp_path / "net.pt2",
        example=form,
        dynamic_batch=name != "keywords",
    )
    assert made.relative_diff < 1e-5


@pytest.mark.slow
@each_case
def test_it_learns_and_every_check_passes(name):
    case = CASES[name]
    for attn in ("se", "simam"):
        operation = attnsurgeon.insert(built(name), attn, case.where, example=case.example())
        checked = operation.verify()
        assert (checked.ok, checked.problems) == (True, ())
        copied = copy.deepcopy(operation.model)
        assert attnsurgeon.audit(copied).ok


def test_slowfast_is_operated_in_both_pathways():
    clips = CASES["slowfast"].example()
    by_shape = attnsurgeon.find_sites(SlowFast(), example=clips).where(site="residual-branch")
    assert [site.channels for site in by_shape] == [32, 8, 64, 16]
    assert [site.resolution for site in by_shape] == [
        (2, 10, 6), (8, 10, 6), (2, 5, 3), (8, 5, 3)
    ]  # fmt: skip
