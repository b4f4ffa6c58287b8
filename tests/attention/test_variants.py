"""The contract of all mechanisms, for forms of a mechanism that are far from its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from attnsurgeon.attention.identity import Blend
from attnsurgeon.attention.registry import lookup
from tests.attention.activations.test_contract import Activation
from tests.attention.cases import SIZES, Case, params, stir
from tests.attention.contract import behaviour, portability
from tests.attention.convs.cases import Alone, InConv
from tests.attention.weights.test_contract import Excitation


@dataclass(frozen=True)
class Variant(Case):
    """A mechanism at one rank, with what follows from where it is put."""

    def given(self) -> dict[str, Any]:
        return self.card.args_at(SIZES[self.rank], dict(self.args), rank=self.rank)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("ge", {"extent": 4}),
    ("ge", {"gather": "theta"}),
    ("ge", {"gather": "theta", "extent": 4}),
    ("ge", {"gather": "theta-plus"}),
    ("ge", {"gather": "theta-plus", "extent": 2}),
    ("gsop", {"hidden": 5, "stride": 1}),
    ("fca", {"dct_size": (14, 9), "frequencies": "low4"}),
    ("tse", {"tile": (2, 3), "bias": False}),
    ("spa", {"pools": (3,)}),
    ("nam", {"spatial": True}),
    ("sge", {"groups": 1}),
    ("ulsam", {"groups": 16}),
    ("sa", {"groups": 1}),
    ("triplet", {"kernel_size": 3}),
    ("triplet", {"spatial": False}),
    ("cbam", {"spatial": False}),
    ("cbam", {"pool": "mixed", "bias": False}),
    ("coord", {"form": "sum", "reduction": 6, "divisor": 8}),
    ("coord", {"divisor": 4, "bias": False}),
    ("crisscross", {"recurrence": 2}),
    ("soca", {"iterations": 1, "reduction": 2}),
    ("gam", {"groups": 4}),
    ("gam", {"sigmoid": True}),
    ("eca", {"padding": "circular"}),
    ("eca", {"hidden": 8}),
    ("gct", {"norm": "l1"}),
    ("gc", {"pool": "mean", "fusion": "scale"}),
    ("gc", {"fusion": "both"}),
    ("nl", {"form": "gaussian"}),
    ("nl", {"form": "dot"}),
    ("nl", {"form": "concatenation"}),
    ("nl", {"norm": True, "subsample": "before"}),
    ("nl", {"form": "gaussian", "subsample": "after"}),
    ("bat", {"block": 3, "groups": 8, "dropout": 0.0, "bias": False}),
    ("generalized", {"attention_type": "0010"}),
    ("generalized", {"attention_type": "0101", "q_stride": 2, "heads": 5, "kv_stride": 1}),
    ("generalized", {"attention_type": "0011", "spatial_range": 2}),
    ("danet", {"form": "position"}),
    ("danet", {"form": "channel"}),
    ("external", {"relu": True}),
    ("lka", {"projections": True}),
    ("ela", {"kernel_size": 5, "groups": 8}),
    ("ela", {"form": "separate", "norm_groups": 1}),
    ("ela", {"form": "sum", "kernel_size": 3}),
    ("mlca", {"windows": 2, "weight": 0.25}),
    ("mca", {"channel": False}),
    ("ema", {"groups": 8}),
    ("polarized", {"form": "sequential"}),
]
# Of other kinds than gates, which stand in the place of something.
REPLACING: list[tuple[type[Case], str, dict[str, Any]]] = [
    (Activation, "dyrelu", {"form": "A"}),
    (Activation, "dyrelu", {"lines": 3, "reduction": 4}),
    (Activation, "frelu", {"kernel_size": 5}),
    (Activation, "acon", {"form": "c"}),
    (Activation, "acon", {"reduction": 4}),
    (Alone, "sk", {"groups": 1, "dilation": 2, "minimum": 8, "split": True}),
    (Alone, "cot", {"kernel_size": 5}),
    (Alone, "splat", {"radix": 4}),
    (Alone, "splat", {"radix": 1}),
    (Alone, "involution", {"kernel_size": 7}),
    (Alone, "bot", {"heads": 8}),
    (Alone, "halo", {"block": 3, "halo": 4}),
    (Alone, "lambda", {"scope": None, "heads": 2}),
    (Excitation, "odconv", {"kernels": 1}),
    (Excitation, "odconv", {"kernels": 2, "reduction": 4}),
    (Excitation, "dyconv", {"kernels": 2, "temperature": 1.0}),
    (Excitation, "condconv", {"kernels": 2}),
]
LEARNS = ("dot", "concatenation")  # forms without a softmax, where no parameter is inert


def made(kind: type[Case], name: str, rank: int, args: dict[str, Any]) -> Case:
    """Returns the case; those of a convolution say the arguments in their name."""
    said = {"form": "-".join(map(str, args.values()))} if issubclass(kind, InConv) else {}
    return kind(lookup(name), rank, tuple(args.items()), **said)


CASES = [
    made(kind, name, rank, args)
    for kind, name, args in [*((Variant, *form) for form in FORMS), *REPLACING]
    for rank in lookup(name).ranks
    if rank >= len(args.get("tile", ()))
]
INITS = ("paper", "identity")


def test_it_computes_something_finite_everywhere(case):
    for init in INITS:
        for train in (False, True):
            for batch in (1, 2):
                behaviour.test_shape_and_dtype_pass_through_and_all_is_finite(
                    case, init, train, batch
                )
            for value in (0.0, 3.0, 1e4):
                behaviour.test_a_map_without_any_variation_stays_finite(case, init, train, value)


def test_its_identity_start_is_exact_and_can_learn(case):
    for train in (False, True):
        for batch in (1, 2):
            behaviour.test_identity_is_exact_to_the_bit(case, train, batch)
    behaviour.test_identity_is_exact_for_other_layouts_and_dtypes(case)
    behaviour.test_an_identity_start_can_learn_something_else(case)
    start = case.build("identity")
    # A form of a gate may start natively where another of it is blended in.
    extra = isinstance(start, Blend) if case.card.kind == "gate" else case.extra()
    assert params(start) == case.params() + extra


def test_all_its_parameters_move(case):
    behaviour.test_the_declared_number_of_parameters_is_the_true_one(case, 96)
    x = case.input(4, dtype=torch.float64)
    for init in INITS:
        module = case.build(init).double()
        names = {name.removeprefix("inner.") for name, _ in module.named_parameters()}
        inert = names & {*case.card.inert}
        if dict(case.args).get("form") in LEARNS:
            inert = set()
        assert behaviour.still_after_two_steps(module.eval(), x) == inert
        module = case.build(init).double()
        unmoved = inert | names & {*case.card.unmoved}
        if dict(case.args).get("form") == "sum":
            unmoved = inert  # without the norm that takes a bias away
        if case.card.name == "nl" and dict(case.args).get("norm"):
            unmoved.add("value.bias")  # a softmax hands it on, and the norm takes it away
        assert behaviour.still_after_two_steps(module.train(), x) == unmoved


def test_layouts_batches_and_runs_agree(case):
    behaviour.test_channels_last_gives_the_same_numbers_and_stays_channels_last(case)
    behaviour.test_an_input_that_is_a_strided_view_gives_the_same_numbers(case)
    behaviour.test_each_image_of_a_batch_is_treated_alone_in_eval(case)
    behaviour.test_gradients_are_those_of_finite_differences(case)
    for init in INITS:
        behaviour.test_the_input_is_neither_changed_nor_returned(case, init)
        behaviour.test_no_operation_has_an_unsteady_backward(case, init)
        behaviour.test_two_runs_agree_to_the_bit(case, init)


def test_it_is_traced_copied_and_planned(case):
    for init in INITS:
        for train in (False, True):
            portability.test_symbolic_tracing_gives_the_same_function_at_any_size(case, init, train)
        portability.test_copies_are_equal_and_apart(case, init)
        portability.test_a_state_dict_carries_everything_that_was_learned(case, init)
        portability.test_the_meta_device_is_enough_to_plan(case, init)
    portability.test_a_traced_module_still_changes_its_mode(case)


@pytest.mark.slow
def test_it_compiles_without_a_graph_break(case):
    portability.test_it_compiles_without_a_graph_break(case, "paper", True)


@pytest.mark.slow
def test_it_exports_for_any_batch(case):
    module = case.build("identity").eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (case.input(),), dynamic_shapes=free).module()
    x = case.input(3)
    torch.testing.assert_close(exported(x), module(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_runtime_gives_the_same_for_any_batch(case, tmp_path):
    module = stir(case.build("identity")).eval()
    # A weight for each image is a group for each, and ONNX takes no number of groups from a value.
    fixed = case.card.per_sample
    free = {} if fixed else {0: torch.export.Dim.DYNAMIC}
    run = portability.in_onnx_runtime(module, case.input(), free, tmp_path / "gate.onnx")
    for x in (case.input(), case.input(2 if fixed else 3)):
        torch.testing.assert_close(run(x), module(x), rtol=0, atol=1e-4)


def test_it_computes_in_other_dtypes(case):
    autocast = portability.test_autocast_makes_the_dtype_that_was_there_and_stays_near
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        portability.test_a_module_of_another_dtype_computes_in_it(case, dtype)
    for train in (False, True):
        portability.test_half_precision_does_not_overflow_on_large_values(case, train)
        for init in INITS:
            for dtype in (torch.float32, torch.bfloat16):
                autocast(case, init, train, dtype)
