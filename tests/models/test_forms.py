"""Every form of docs/checkpoints.md is taken or refused as it says, number by number."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import source_of
from attnsurgeon.models.files.limits import LIMITS
from tests.models import checkpoint_forms
from tests.models.checkpoint_forms import FORMS, REFUSED, trained

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
SPEC = f"{checkpoint_forms.__file__}:net"


def rows(heading: str) -> dict[str, list[str]]:
    """The tables under a heading of the page: the first cell -> the others."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\S+) \|(.*)\|$", text, re.MULTILINE)
    cells = {first: [cell.strip() for cell in rest.split(" | ")] for first, rest in found}
    return {first: rest for first, rest in cells.items() if first not in ("form", "limit")}


def said(form: str) -> str:
    return rows("Forms")[form][-1].strip("|").strip().strip("`")


def test_the_page_and_the_tests_have_the_same_forms_and_they_are_many():
    assert rows("Forms").keys() == FORMS.keys()
    assert len(FORMS) >= 60
    refused = PAGE.read_text(encoding="utf-8").split("### Refused")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| ([a-z-]+) \| ", refused, re.MULTILINE)) - {"form"} == REFUSED


def test_the_page_has_the_limits_that_hold():
    written = {name: int(cells[0].replace(",", "")) for name, cells in rows("Limits").items()}
    assert written == dataclasses.asdict(LIMITS)


@pytest.mark.parametrize("form", sorted(FORMS.keys() - REFUSED))
def test_a_form_that_is_taken_has_every_number_and_says_what_was_done(form, tmp_path):
    model = trained()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    path = FORMS[form](tmp_path, model, state)
    taken = attnsurgeon.load_model(SPEC, checkpoint=path)
    for name, value in taken.state_dict().items():
        wanted = state[name].to(value.dtype)
        if form == "before-counters" and name.endswith("num_batches_tracked"):
            wanted = torch.zeros((), dtype=torch.int64)
        assert torch.equal(value, wanted), name
    source = source_of(taken)
    assert source is not None
    notes = "; ".join(source.notes)
    assert said(form) in notes
    assert bool(said(form)) == bool(notes)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", sorted(REFUSED))
def test_a_form_that_is_refused_says_why_and_what_to_do(form, tmp_path):
    model = trained()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    path = FORMS[form](tmp_path, model, state)
    with pytest.raises(ModelError) as caught:
        attnsurgeon.load_model(SPEC, checkpoint=path)
    assert said(form) in str(caught.value)
    assert caught.value.hint


def test_the_call_in_the_form_with_code_is_live(tmp_path):
    path = FORMS["with-code"](tmp_path, trained(), trained().state_dict())
    attnsurgeon.load_model(SPEC, checkpoint=path, unsafe_pickle=True)
    assert (tmp_path / "ran").exists()
