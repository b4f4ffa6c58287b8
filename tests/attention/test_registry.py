"""The catalogue, its cards, and what create_attention refuses."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.pictures import AS_SEEN
from attnsurgeon.attention.registry import (
    KINDS,
    REPLACES_A_CONV,
    create_attention,
    lookup,
    mechanism,
    mechanisms,
    read_docstring,
)
from attnsurgeon.errors import MechanismError, SurgeonError
from tests.attention.cases import make

ROOT = Path(__file__).parents[2]
each_card = pytest.mark.parametrize("card", mechanisms().values(), ids=lambda c: c.name)


ORDER = (
    "se cmpe-se ge gsop srm sk dia eca spa fca psa tse nam ran sge ulsam scse bam sa triplet cbam "
    "sc coord simam dca we atac aff iaff aw ba2m interflow csra crisscross s2 soca gam "
    "ese gct gc nl generalized a2 bat danet external lka ela mlca mca ema polarized "
    "dyrelu frelu acon cot splat involution bot halo lambda "
    "odconv dyconv condconv attention-gate"
)


# The forms of a mechanism that have every parameter its card speaks of, where the default has not.
FULLEST: dict[str, list[dict[str, Any]]] = {
    "dca": [{"inner": "cbam", "previous_channels": 32}],
    "attention-gate": [{"signal": "coarser"}, {"signal": "raised"}],
    "nl": [{"norm": True}],
}


def test_the_catalogue_keeps_its_order():
    assert list(mechanisms()) == [name for name in ORDER.split() if name in mechanisms()]


def test_the_catalogue_cannot_be_written():
    with pytest.raises(TypeError):
        mechanisms()["mine"] = lookup("se")  # pyright: ignore[reportIndexIssue]


@each_card
def test_every_card_is_complete(card):
    assert mechanisms()[card.name] is card
    assert card.kind in KINDS
    assert set(card.ranks) <= {1, 2, 3}
    assert card.ranks == (1, 2, 3) or card.rank_reason
    assert card.identity in ("native", "blend")
    assert card.paper.startswith("https://")
    for text in (card.title, card.venue, card.formula, card.identity_how):
        assert text.strip()
    assert "=" in card.equation


@each_card
def test_the_placement_of_every_card_is_shipped(card):
    assert (ROOT / "rules" / f"{card.placement}.yaml").is_file()


@each_card
def test_every_parameter_the_card_calls_unmoved_exists_and_is_explained(card):
    if card.unmoved:
        place: dict[str, Any] = {"channels": 64}
        if card.kind in REPLACES_A_CONV:
            place = {"conv": nn.Conv2d(64, 64, 3, padding=1)}
        names: set[str] = set()
        for form in FULLEST.get(card.name, [{}]):
            module = create_attention(card.name, **place, **form)
            names.update(dict(getattr(module, "excitation", module).named_parameters()))
        assert set(card.unmoved) <= names
        assert any("cannot learn" in text for text in card.deviations)


@each_card
def test_cards_can_be_compared_and_hashed(card):
    assert {card: 1}[card] == 1


def test_a_card_is_read_from_its_file():
    card = lookup("eca")
    assert card.title == "Efficient channel attention"
    assert (card.venue, card.paper) == ("CVPR 2020", "https://arxiv.org/abs/1910.03151")
    assert card.equation.splitlines()[0] == "gate = sigmoid(conv1d_k(mean(x)))"
    assert dict(card.args) == {"kernel_size": None, "padding": "zeros", "hidden": 0}


def test_a_docstring_without_a_citation_is_refused():
    good = 'Title: does.\n\n    y = x\n\nA et al., "T", CVPR 2020, https://example.org\n'
    assert read_docstring(good) == {
        "title": "Title",
        "equation": "y = x",
        "venue": "CVPR 2020",
        "paper": "https://example.org",
    }
    with pytest.raises(ValueError, match="no title, equation or citation"):
        read_docstring(good.replace("https://", "at "))


def test_without_docstrings_the_texts_are_empty_and_the_rest_works():
    assert set(read_docstring(None).values()) == {""}


def register(name, kind="gate"):
    facts = {"ranks": (2,), "placement": "stage", "formula": "0", "count": lambda: 0}
    facts["picture"] = AS_SEEN
    return mechanism(name, kind=kind, identity=blend(), **facts)


def test_a_name_taken_twice_is_refused():
    with pytest.raises(ValueError, match="'se' is already"):
        register("se")(nn.Identity)
    assert lookup("se").build is not nn.Identity


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="did you mean 'gate'"):
        register("mine", kind="gates")(nn.Identity)
    assert "mine" not in mechanisms()


def refusal(*args, **kwargs):
    with pytest.raises(MechanismError) as caught:
        create_attention(*args, **kwargs)
    assert isinstance(caught.value, SurgeonError)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return str(caught.value)


def test_an_unknown_mechanism_is_answered_with_the_nearest():
    message = refusal("ecaa", 64)
    assert "'ecaa'" in message
    assert "did you mean 'eca'" in message


def test_an_unknown_argument_is_answered_with_the_nearest():
    message = refusal("se", 64, reducton=8)
    assert message == "se: there is no argument 'reducton'\n  hint: did you mean 'reduction'?"


def test_a_mechanism_without_arguments_says_so():
    assert "it takes no arguments" in refusal("srm", 64, reduction=8)


@pytest.mark.parametrize("value", [True, "8", 8.0, 0, -1, None])
def test_an_argument_of_the_wrong_type_is_refused(value):
    assert f"se: reduction={value!r} is not a whole number" in refusal("se", 64, reduction=value)


@pytest.mark.parametrize("value", [0, 1, "false", None])
def test_a_truth_value_has_to_be_one(value):
    assert "is not true or false" in refusal("se", 64, bias=value)


def test_a_whole_number_may_stand_for_a_float_but_not_nan():
    assert make("simam", 8, e_lambda=1).e_lambda == 1
    assert "is not a finite number" in refusal("simam", 8, e_lambda=float("nan"))


def test_the_build_errors_name_the_mechanism_and_a_value_that_works():
    message = refusal("cbam", 8)
    assert message == (
        "cbam: reduction=16 leaves no hidden channel out of 8\n"
        "  hint: the largest that works here is reduction=8"
    )
    create_attention("cbam", 8, reduction=8)


def test_an_even_kernel_is_refused_with_an_odd_one():
    assert "use an odd number, as kernel_size=5" in refusal("eca", 64, kernel_size=4)
    create_attention("eca", 64, kernel_size=5)


def test_a_lambda_that_divides_zero_by_zero_is_refused():
    assert "use e_lambda=0.0001" in refusal("simam", 64, e_lambda=0.0)


@pytest.mark.parametrize("channels", [None, 0, -4, 8.0, True, "8"])
def test_channels_have_to_be_a_positive_whole_number(channels):
    assert "is not a number of channels" in refusal("se", channels)


def test_a_convolution_is_refused_by_what_does_not_replace_one():
    assert "give channels" in refusal("se", conv=nn.Conv2d(3, 5, 1))


@pytest.mark.parametrize("rank", [0, 4, "2"])
def test_a_rank_that_is_not_defined_is_refused_with_those_that_are(rank):
    message = refusal("se", 64, rank=rank)
    assert f"not defined for rank {rank!r}" in message
    assert "it is for rank 1, 2, 3" in message


def test_an_unknown_start_is_refused():
    assert "did you mean 'identity'" in refusal("se", 64, init="identical")


def test_building_leaves_the_arguments_alone_and_the_cards_usable():
    args = {"reduction": 8, "bias": False}
    create_attention("se", 64, **args)
    assert args == {"reduction": 8, "bias": False}
    assert dict(lookup("se").args) == {"reduction": 16, "bias": True, "hidden": None}


def test_the_parameter_count_checks_its_arguments_too():
    with pytest.raises(MechanismError, match="reducton"):
        lookup("se").params(64, reducton=8)


def test_an_error_survives_pickling():
    with pytest.raises(MechanismError) as caught:
        create_attention("ecaa", 64)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_two_seeds_build_two_modules_and_one_seed_builds_one():
    def weight(seed):
        torch.manual_seed(seed)
        return make("se", 64).fc1.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
