"""A saved folder cannot have code run but the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attnsurgeon.errors import ModelError
from attnsurgeon.saved.trust import refuse_foreign_code
from tests.saved import networks

OWN = """
import functools, os, subprocess
import torch
from subprocess import call
from torch import nn

import own_net


def make(width=24):
    return own_net.make(width=width)


@functools.wraps(make)
def wrapped(*args, **kwargs):
    return make(*args, **kwargs)


class Kinds:
    @classmethod
    def narrow(cls):
        return own_net.make(width=8)


decorated = torch.no_grad()(make)
prepared = functools.partial(make, width=16)
unsafe = functools.partial(torch.load, weights_only=False)
built = own_net.make()
Net = own_net.Net
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Iterator[Path]:
    """A working folder with a user's code."""
    networks.write(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_net", "mine"):  # the next test has its own
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "spec",
    [
        "resnet50",
        "timm:resnet50",
        "torchvision:resnet50",
        "hf-hub:org/net",
        "timm:no:such:network",
        "torchvision.models.resnet:ResNet",  # a class of networks of an installed package
        "gone.py:make",  # nothing is called; load_model says that it is not there
        "mine.py:gone",
        *(
            f"mine.py:{name}"
            for name in ["make", "wrapped", "decorated", "prepared", "built", "Net", "Kinds.narrow"]
        ),
        "mine:make",
        "own_net:make",
    ],
)
def test_names_of_networks_and_your_own_code_may_be_called(spec, own):
    refuse_foreign_code(spec, own / "saved")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("subprocess:call", "no network"),
        ("os:system", "no network"),
        ("builtins:exec", "no network"),
        ("attnsurgeon.models.checkpoint:read_checkpoint", "no network"),
        ("torch:load", "neither"),
        ("torch.hub:load", "neither"),
        ("torchvision.models:resnet50", "neither"),  # harmless, but nothing tells it from the last
        (f"{subprocess.__file__}:call", "belongs to Python"),
        (f"{Path(torch.__file__).parent}/serialization.py:load", "installed package"),
        ("mine.py:call", "neither"),
        ("mine.py:subprocess.call", "neither"),
        ("mine.py:torch.load", "neither"),
        ("mine.py:unsafe", "neither"),
        ("mine.py:os.system", "neither"),
        ("mine.py:Kinds", "neither"),
        ("mine:torch.hub.load", "neither"),
    ],
)
def test_code_of_others_is_refused(spec, why, own):
    with pytest.raises(ModelError, match=why) as caught:
        refuse_foreign_code(spec, own / "saved")

    assert spec in caught.value.what
    assert "model=base" in (caught.value.hint or "")


def test_code_that_came_with_the_folder_is_refused_without_being_imported(own):
    folder = own / "saved"
    (folder / "deeper").mkdir(parents=True)
    trap = "import pathlib; pathlib.Path('ran').touch()\nmake = 1\n"
    (folder / "deeper" / "evil.py").write_text(trap)
    (folder / "evil.py").write_text(trap)

    for spec in ("saved/evil.py:make", f"{folder}/deeper/evil.py:make", "saved.evil:make"):
        with pytest.raises(ModelError, match="came with the folder"):
            refuse_foreign_code(spec, Path("saved"))
    os.chdir(folder)
    for spec in (
        "evil.py:make",
        "evil:make",
        "../saved/deeper/../evil.py:make",
        "ultralytics:evil.yaml",  # it may hold code for its activation
        "ultralytics:deeper/evil8n.yml",
    ):
        with pytest.raises(ModelError, match="came with the folder"):
            refuse_foreign_code(spec, Path())

    assert not list(own.rglob("ran"))


def test_code_that_cannot_be_imported_says_why(own):
    (own / "broken.py").write_text("import no_such_package_at_all\n")

    with pytest.raises(ModelError, match=r"broken\.py cannot be imported.*no_such_package"):
        refuse_foreign_code("broken.py:make", own / "saved")
