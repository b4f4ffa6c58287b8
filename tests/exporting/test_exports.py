"""Exporting: the file is compared with the network, and a file that differs is not kept."""

import pytest
import torch
from torch import nn

from attnsurgeon import insert
from attnsurgeon.errors import CheckFailed, ModelError, UsageError
from attnsurgeon.exporting import exports
from attnsurgeon.exporting.exports import export
from attnsurgeon.exporting.forms import form_of
from attnsurgeon.exporting.programs import READERS
from tests.cli.tiny import Decides, net

SIZE = (3, 40, 24)


def test_the_network_is_left_in_the_mode_it_was_in(tmp_path):
    for training in (True, False):
        model = net().train(training)
        made = export(model, tmp_path / f"{training}.pt2", input_size=SIZE)
        assert model.training is training
        assert made.relative_diff == 0


def test_what_is_held_in_another_mode_than_the_rest_stays_in_it(tmp_path):
    model = net().train()
    for module in list(model.modules())[1::2]:
        module.training = False  # as one freezes norms by hand
    before = {path: module.training for path, module in model.named_modules()}
    export(model, tmp_path / "net.pt2", input_size=SIZE)
    assert {path: module.training for path, module in model.named_modules()} == before
    assert len(set(before.values())) == 2


def test_the_attention_is_in_the_exported_program(tmp_path):
    model = insert(net(), "se", init="paper", input_size=SIZE).model
    made = export(model, tmp_path / "net.pt2", input_size=SIZE)
    names = [name for name, _ in torch.export.load(made.path).named_parameters()]
    assert "blocks.0.attn.fc1.weight" in names


@pytest.mark.slow
def test_an_operated_network_exports_for_every_batch_size(tmp_path):
    model = insert(net(), "cbam", init="paper", input_size=SIZE).model.eval()
    made = export(model, tmp_path / "net.pt2", input_size=SIZE, dynamic_batch=True)
    assert (made.batches, made.dynamic_batch) == ((1, 3), True)
    x = torch.randn(7, *SIZE)
    torch.testing.assert_close(torch.export.load(made.path).module()(x), model(x))


def test_a_batch_of_one_is_what_a_fixed_program_takes(tmp_path):
    made = export(net(), tmp_path / "net.pt2", input_size=SIZE)
    program = torch.export.load(made.path).module()
    assert program(torch.randn(1, *SIZE)).shape == (1, 7)
    with pytest.raises(Exception, match=r"(?i)shape|size"):
        program(torch.randn(2, *SIZE))


def test_a_network_that_cannot_be_exported_says_why_and_leaves_nothing(tmp_path):
    with pytest.raises(ModelError, match="Decides cannot be exported to torch-export"):
        export(Decides(), tmp_path / "net.pt2", input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        export(net(), tmp_path / "x", input_size=SIZE, to="onx")


@pytest.mark.parametrize(
    ("name", "asked", "form"),
    [
        ("x.pt2", None, "torch-export"),
        ("x.onnx", None, "onnx"),
        ("X.ONNX", None, "onnx"),
        ("x.onnx", "onnx", "onnx"),
        ("x.bin", "onnx", "onnx"),  # its name says nothing against it
        ("x", "torch-export", "torch-export"),
    ],
)
def test_the_name_of_the_file_says_the_format(name, asked, form):
    assert form_of(name, asked) == form


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("x.onnx", "torch-export", "onnx by its name.*torch-export"),
        ("a.b/x.PT2", "onnx", "torch-export by its name.*onnx"),
        ("x.pth", None, r"ends in \.pth"),
        ("a.onnx/x", None, "ends in nothing"),
    ],
)
def test_a_name_that_says_another_format_or_none_is_refused(name, asked, said):
    with pytest.raises(UsageError, match=said) as caught:
        form_of(name, asked)
    assert ".onnx" in str(caught.value.hint) or ".pt2" in str(caught.value.hint)


def test_what_the_name_says_is_what_is_written(tmp_path):
    made = export(net(), tmp_path / "net.pt2", input_size=SIZE)
    assert made.form == "torch-export"
    with pytest.raises(UsageError, match="onnx by its name"):
        export(net(), tmp_path / "net.onnx", input_size=SIZE, to="torch-export")
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


def test_outputs_without_a_single_difference_need_no_largest_value(tmp_path):
    class Zero(nn.Module):
        def forward(self, x):
            return x * 0

    assert export(Zero(), tmp_path / "zero.pt2", input_size=SIZE).relative_diff == 0


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_a_program_that_computes_something_else_is_not_kept(wrong, tmp_path, monkeypatch):
    """Also where only the second of two outputs does."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.net(x)
            return y, 2 * y

    def off(file):
        run = READERS["torch-export"](file)
        return lambda inputs: [y + wrong if at else y for at, y in enumerate(run(inputs))]

    monkeypatch.setattr(exports, "READERS", {"torch-export": off})
    with pytest.raises(CheckFailed, match="the exported program differs from the network"):
        export(Two(), tmp_path / "two.pt2", input_size=SIZE)
    assert list(tmp_path.iterdir()) == []
