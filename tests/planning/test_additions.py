"""What a plan says where few of a network's additions are residual ones."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import RuleError
from attnsurgeon.planning.plan import Plan
from attnsurgeon.report.record import model_record, operation_record
from tests.nets.blocks import C, Net, Plain, PreActivated
from tests.nets.families.residuals import reversible
from tests.nets.families.segmenters import UNet
from tests.nets.rebuilding import Branched
from tests.nets.whole import AdditiveUNet

SIZE = (3, 16, 16)
SAID = (
    "1 residual branch; 2 more additions were judged otherwise: a term is upsampled: it merges "
    "resolutions (:add to :add#2)"
)


def planned(net: nn.Module, where: str = "residual-branch") -> Plan:
    return attnsurgeon.plan(net, "eca", where=where, input_size=SIZE)


def test_a_plan_says_how_many_additions_it_leaves_and_why():
    made = planned(AdditiveUNet())
    assert made.notes == (SAID,)
    assert SAID in " ".join(repr(made).split())


def test_the_record_and_the_terminal_say_it_too():
    from io import StringIO

    from rich.console import Console

    from attnsurgeon.models import Source
    from attnsurgeon.operate import weigh_plan
    from attnsurgeon.report.operation import show_operation

    made = planned(AdditiveUNet())
    record = operation_record(made, weigh_plan(made), model=model_record(Source("net")))
    assert json.loads(json.dumps(record["notes"])) == [SAID]
    printed = Console(file=StringIO(), width=400)
    show_operation(printed, record)
    assert SAID in printed.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("net", "where"),
    [
        (lambda: Net(Plain(), PreActivated()), "residual-branch"),
        (reversible, "residual-add"),
        (lambda: Net(Plain(), Plain(), Plain(), Branched()), "residual-block"),  # far more than one
        (AdditiveUNet, "stage"),  # for no residual role
        (AdditiveUNet, "conv"),
        (lambda: UNet(False), "conv3x3"),
    ],
)
def test_a_plan_says_nothing_where_all_is_well(net, where):
    assert planned(net(), where).notes == ()


def test_reasons_are_counted_where_there_are_several():
    class Mixed(AdditiveUNet):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x + F.avg_pool2d(x, 3, 1, 1)

    (said,) = planned(Mixed()).notes
    assert said == (
        "1 residual branch; 3 more additions were judged otherwise: 2: a term is upsampled: it "
        "merges resolutions (:add to :add#2); 1: a term is linear: a positional or "
        "re-parameterisation branch (:add#3)"
    )


@pytest.mark.parametrize(("where", "what"), [("residual-block", "block"), ("residual-add", "add")])
def test_where_there_is_none_the_refusal_gives_the_reasons(where, what):
    with pytest.raises(RuleError, match="matches nothing") as caught:
        planned(Net(Branched(), Branched()), where)
    assert f"no residual {what}" in (caught.value.hint or "")
    assert "2 additions were judged otherwise: it has no shortcut" in (caught.value.hint or "")


def test_the_refusal_of_another_placement_says_nothing_of_additions():
    net = nn.Sequential(nn.Conv2d(3, C, 1), Branched(), nn.Flatten(), nn.Linear(C * 256, 3))
    with pytest.raises(RuleError) as caught:
        planned(net, "depthwise")
    assert "addition" not in (caught.value.hint or "")


def test_short_plans_are_short_in_words_as_well():
    with torch.device("meta"):
        net = Net(Plain())
    assert "judged otherwise" not in repr(planned(net))
    assert len(repr(planned(net)).splitlines()) < 20
