"""Random networks, operated at random places: refused with a reason, or right to the last bit.

A failing example is printed as the text of its file, which can be run by itself.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.forwards.retype import original_class
from attnsurgeon.operate import Operation, carry_out, plan_rules
from attnsurgeon.recording.randomness import OwnDice, settled
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import Survey
from attnsurgeon.splicing.history import inserted
from tests.nets.random_networks import Draw, Program, write_network

# Mechanism -> arguments that suit few channels; the one role it is for, or "" for any value;
# whether it needs maps of positions.
MECHANISMS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "eca": ({}, "", False),
    "se": ({"reduction": 1}, "", False),
    "simam": ({}, "", False),
    "srm": ({}, "", False),
    "sge": ({"groups": 1}, "", False),
    "scse": ({"reduction": 1}, "", False),
    "nam": ({}, "", False),
    "cbam": ({"reduction": 1}, "", True),
    "coord": ({}, "", True),
    "bam": ({"reduction": 1}, "", True),
    "atac": ({"reduction": 1}, "act", False),
    "aff": ({"reduction": 1}, "residual-add", True),
    "we": ({}, "conv", True),
    "sc": ({}, "conv", True),
}
PLACEMENTS = ("residual-branch", "residual-block", "stage", "conv", "norm", "act", "pool",
              "concat", "head", "any")  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What is to be inserted where: a mechanism and a placement, thinned out to every n-th site."""

    attn: str
    role: str
    nth: int
    start: int

    def takes(self, site: Site) -> bool:
        if self.role != "any" and self.role not in site.roles:
            return False
        tokens = ("NLC", "NCL") if MECHANISMS[self.attn][2] else ()
        return (
            site.layout not in (None, "NC", *tokens)
            and site.index % self.nth == self.start % self.nth
        )


@dataclass
class Tally:
    """What came out of all examples."""

    examples: int = 0
    operated: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    rounded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    techniques: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)


class Wrong(AssertionError):
    """Surgery broke a promise."""


def need(promise: bool, what: str) -> None:
    if not promise:
        raise Wrong(what)


# What a network is, seen from outside.


def run(net: nn.Module, inputs: tuple[Tensor, ...], train: bool = False) -> Any:
    """What a network returns, and what it made of its inputs; a copy is trained."""
    twin = full_twin(net) if train else net
    twin.train(train)
    given = tuple(x.clone() for x in inputs)
    with torch.no_grad():
        return settled(lambda: form(twin(*given)), 7), *given


def form(value: Any) -> Any:
    """Nested values with the types of what holds them."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value).__name__, [(key, form(v)) for key, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [form(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, [form(v) for v in vars(value).values()]
    return value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def nearly(a: Any, b: Any) -> bool:
    """Equal but for the last bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
        return torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(nearly, a, b))
    return same(a, b)


def relaid(program: Program, operated: nn.Module) -> bool:
    """Whether attention lays a value out in another way: then sums run in another order.

    A slice with gaps becomes a dense tensor; a sum is laid out like its first term.
    """
    seen: list[bool] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(any(output.stride() != x.stride() for x in args))

    with hooked(part.register_forward_hook(look) for _, part in inserted(operated)):
        for inputs in program.various_inputs().values():
            with contextlib.suppress(RuntimeError):
                run(operated, inputs)
    return any(seen)


@contextlib.contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Takes hooks off again."""
    hung = list(handles)
    try:
        yield
    finally:
        for handle in hung:
            handle.remove()


def looks(net: nn.Module) -> dict[str, Any]:
    """Classes, attributes, flags, hooks and values of every module of a network."""
    return {
        path: (
            (type(m).__module__, type(m).__qualname__),  # a parametrised module's own class
            [name for name in vars(m) if name != "_attnsurgeon_origin"],
            list(m._modules),
            m.training,
            len(m._forward_hooks) + len(m._forward_pre_hooks),
            [
                (name, tensor.clone())
                for name, tensor in (*m._parameters.items(), *m._buffers.items())
                if tensor is not None and name != "calls"  # a counter of forwards
            ],
        )
        for path, m in net.named_modules(remove_duplicate=False)
    }


def parts_of(operation: Operation) -> dict[str, nn.Module]:
    return {c.module_path: operation.model.get_submodule(c.module_path) for c in operation.plan}


# The promises.


def check(program: Program, net: nn.Module, survey: Survey, wish: Wish, tally: Tally) -> None:
    """Operates a network and compares it with the one it was."""
    reference = program.build()
    before = looks(net)
    tally.examples += 1
    tally.asked[wish.role] += 1
    try:
        operation = operate(net, survey, wish)
    except attnsurgeon.SurgeonError as error:
        need(len(error.what) > 20, "a refusal without a reason")
        need(same_looks(net, before), "a refused network was changed")
        tally.refused[error.what] += 1
        return
    tally.operated[wish.role] += 1
    tally.cut += len(operation.plan)
    tally.refused.update(refused.reason for refused in operation.plan.refused)
    tally.techniques.update(cut.place.technique for cut in operation.plan)
    tally.features.update(program.features)
    need(same_looks(net, before), "the network handed in was changed")
    check_modules(net, operation)
    may_round = relaid(program, operation.model)
    tally.rounded += check_outputs(program, reference, operation.model, may_round)
    check_copies(program, reference, operation.model)
    check_values(program, reference, operation)
    check_audit(program, operation)
    check_action(program, reference, operation)
    check_removal(program, reference, operation.model)


def operate(net: nn.Module, survey: Survey, wish: Wish) -> Operation:
    """What attnsurgeon.insert does, with the forward that showed the sites to choose from."""
    file = rules_for(wish.attn, wish.takes, None, MECHANISMS[wish.attn][0], "identity")
    plan = plan_rules(survey, file, init="identity", where=wish.role)
    return carry_out(full_twin(net), plan)


def same_looks(net: nn.Module, before: dict[str, Any]) -> bool:
    now = looks(net)
    return list(now) == list(before) and all(same(now[path], before[path]) for path in before)


def check_outputs(program: Program, net: nn.Module, operated: nn.Module, may_round: bool) -> bool:
    """Compares the outputs bit by bit; returns whether the leave to round was made use of."""
    rounded: list[bool] = []

    def agree(found: Any, expected: Any) -> bool:
        if same(found, expected):
            return True
        rounded.append(True)
        return may_round and nearly(found, expected)

    for what, inputs in program.various_inputs().items():
        try:
            expected = run(net, inputs)
        except RuntimeError:
            need(what != "as recorded", "the network itself does not run")
            continue
        need(agree(run(operated, inputs), expected), f"outputs differ: {what}")
    inputs = program.inputs()
    try:
        expected = run(net, inputs, train=True)
    except (RuntimeError, ValueError):
        return bool(rounded)
    need(agree(run(operated, inputs, train=True), expected), "outputs differ in training mode")
    return bool(rounded)


def check_modules(net: nn.Module, operation: Operation) -> None:
    operated = operation.model
    new = tuple(f"{path}." for path in parts_of(operation))
    for was, now in [
        (list(net.state_dict()), list(operated.state_dict())),
        ([n for n, _ in net.named_parameters()], [n for n, _ in operated.named_parameters()]),
    ]:
        kept = [key for key in now if not key.startswith(new)] if new else now
        need(kept == was, "keys are lost or stand in another order")
    for path, module in net.named_modules(remove_duplicate=False):
        found = operated.get_submodule(path)
        need(original_class(found) is original_class(module), f"{path} has another class")
        need(isinstance(found, original_class(module)), f"{path} is no instance of its class")
        need(found.training == module.training, f"{path} is in another mode")


def check_copies(program: Program, net: nn.Module, operated: nn.Module) -> None:
    expected = run(operated, program.inputs())
    copies = [copy.deepcopy(operated)]
    if picklable(net):  # parametrised modules are not
        copies.append(pickle.loads(pickle.dumps(operated)))
    for twin in copies:
        need(same(run(twin, program.inputs()), expected), "a copy computes something else")


def picklable(net: nn.Module) -> bool:
    try:
        pickle.dumps(net)
    except RuntimeError:
        return False
    return True


def check_values(program: Program, net: nn.Module, operation: Operation) -> None:
    """Attention behind a module is given what that module makes."""
    made: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    handles = []

    def keep(values: dict[str, Tensor], path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
            values[path] = (args[0] if output is None else output).flatten().sort()[0]

        return hook

    for cut in operation.plan:
        if ":" in cut.site.path or cut.site.calls > 1 or cut.action != "insert-after":
            continue
        if cut.place.moved:  # behind a module that rebuilds itself, in which the site is
            continue
        path = cut.module_path
        site, part = (
            m.get_submodule(p) for m, p in ((net, cut.site.path), (operation.model, path))
        )
        handles.append(site.register_forward_hook(keep(made, path)))
        handles.append(part.register_forward_pre_hook(keep(given, path)))
    with hooked(handles):
        run(net, program.inputs())
        run(operation.model, program.inputs())
    for path, value in given.items():
        need(nearly(value, made[path]), f"{path} is given another value than its site's")


def check_audit(program: Program, operation: Operation) -> None:
    calls = attnsurgeon.audit(operation.model, input_size=program.input_size).calls
    expected = {cut.module_path: cut.place.calls for cut in operation.plan}
    need(calls == expected, f"calls {calls} where {expected} were planned")


def check_action(program: Program, net: nn.Module, operation: Operation) -> None:
    """Every attention that is not the identity moves the outputs, and learns from them."""
    expected = run(operation.model, program.inputs())

    for cut in operation.plan.cuts[:4]:
        part = operation.model.get_submodule(cut.module_path)
        need(
            moves(program, operation.model, part, expected) or dies(program, net, cut.site.path),
            f"{cut.module_path} has no effect",
        )
    learner = full_twin(operation.model)
    learner.train()
    for path in parts_of(operation):
        for parameter in learner.get_submodule(path).parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    if not learns(full_twin(net), program.inputs()):
        return  # it changes in place what its own gradient needs
    need(learns(learner, program.inputs()), "there is no gradient any more")
    for path in parts_of(operation):
        grads = [p.grad for p in learner.get_submodule(path).parameters()]
        need(not any(g is None for g in grads), f"no gradient reaches all of {path}")
        finite = all(bool(g.isfinite().all()) for g in grads if g is not None)
        need(finite, f"{path} has a gradient that is no number")


def moves(program: Program, net: nn.Module, part: nn.Module, expected: Any) -> bool:
    """Whether outputs change when what a module of a network makes is disturbed."""

    def disturbed(factor: float) -> bool:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output * factor + torch.rand(output.shape)

        with hooked([part.register_forward_hook(hook)]):
            return not same(run(net, program.inputs()), expected)

    return any(map(disturbed, (3.0, -2.0, 7.0, -30.0, 300.0)))


def dies(program: Program, net: nn.Module, path: str) -> bool:
    """Whether a module's output has no effect in the network as it was: a ReLU may stop it."""
    if ":" in path or "#" in path:
        return False
    return not moves(program, net, net.get_submodule(path), run(net, program.inputs()))


def learns(net: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a backward works in training mode; leaves the gradients."""
    net.train()
    with torch.enable_grad(), OwnDice(7):
        outputs = [t for t in tensors_in(net(*inputs)) if t.requires_grad]
        try:
            sum((t * torch.randn_like(t)).sum() for t in outputs).backward()
        except RuntimeError:
            return False
    return True


def check_removal(program: Program, net: nn.Module, operated: nn.Module) -> None:
    attnsurgeon.remove(operated)
    need(same_looks(operated, looks(net)), "removal leaves something behind")
    need(same(run(operated, program.inputs()), run(net, program.inputs())), "removal: outputs")


def draw_wish(draw: Draw, survey: Survey) -> Wish | None:
    """A mechanism and a placement that the network has."""
    attn = draw.one(tuple(MECHANISMS))
    sites = survey.sites
    roles = (MECHANISMS[attn][1],) if MECHANISMS[attn][1] else PLACEMENTS
    there = [role for role in roles if any(Wish(attn, role, 1, 0).takes(s) for s in sites)]
    if not there:
        return None
    role = draw.one(there)
    start = draw.one([s.index for s in sites if Wish(attn, role, 1, 0).takes(s)])
    return Wish(attn, role, draw.one((1, 2, 1000)), start)


Test = Callable[[Program, nn.Module, Survey, Wish, Tally], None]


def example(draw: Draw, test: Test, tally: Tally) -> None:
    """One drawn network under a test; a failure carries the text of its file."""
    program = write_network(draw)
    try:
        net = program.build()
        survey = analyse(net, program.input_size)
        wish = draw_wish(draw, survey)
        if wish is not None:
            test(program, net, survey, wish, tally)
    except BaseException as error:
        error.add_note(f"{program.source}\n# input_size={program.input_size}")
        raise
    finally:
        program.forget()


def explore(number: int, examples: int, test: Test) -> Tally:
    """Draws networks by hypothesis, the same ones every time; what fails is made smaller."""
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def drawn(data: st.DataObject) -> None:
        draw = Draw(lambda n: data.draw(st.integers(0, n - 1)) if n > 1 else 0)
        example(draw, test, tally)

    drawn()
    return tally


def roam(numbers: range, test: Test) -> Tally:
    """Draws networks by plain dice: less alike than those of hypothesis, and never made smaller."""
    tally = Tally()
    for number in numbers:
        dice = random.Random(number)
        try:
            example(Draw(dice.randrange), test, tally)
        except BaseException as error:
            error.add_note(f"# drawn by Draw(random.Random({number}).randrange)")
            raise
    return tally


def show(tally: Tally) -> None:
    """What `pytest -s` prints."""
    print(f"\n{tally.examples} examples, {tally.cut} cuts, {dict(tally.techniques)}")
    print(f"laid out in another way, and so rounded in another way: {tally.rounded}")
    for role, asked in tally.asked.most_common():
        print(f"  {role}: {tally.operated[role]} of {asked} operated")
    for why, count in tally.refused.most_common():
        print(f"  refused {count}: {why}")
    print("  operated with: " + ", ".join(f"{n} {f}" for f, n in tally.features.most_common()))


def check_share(tally: Tally) -> None:
    """Refusing everything is no way to be right, nor is looking at nothing closely."""
    show(tally)
    assert tally.operated.total() > 0.75 * tally.examples
    assert tally.cut > 2 * tally.refused.total()
    assert tally.rounded < 0.1 * tally.examples + 1


def test_a_slice_of_random_networks():
    tally = explore(0, 12, check)
    assert tally.operated.total() >= 6  # so few say nothing of the share; the many below do


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_many_random_networks(number):
    tally = roam(range(110 * number, 110 * (number + 1)), check)
    assert tally.examples >= 95  # of the other numbers no network comes out
    check_share(tally)


# The checker itself: each of these surgeons breaks one promise.


def plain() -> tuple[Program, nn.Module, Survey, Wish]:
    program = write_network(Draw(lambda n: 0))
    net = program.build()
    wish = Wish("se", "conv", 1000, 3)
    return program, net, analyse(net, program.input_size), wish


def first(operation: Operation) -> tuple[str, nn.Module]:
    return next(iter(parts_of(operation).items()))


def scale(net: nn.Module, operation: Operation) -> None:
    first(operation)[1].register_forward_hook(lambda m, args, output: output * 1.0001)


def scale_in_training(net: nn.Module, operation: Operation) -> None:
    first(operation)[1].register_forward_hook(
        lambda m, args, output: output * 1.0001 if m.training else None
    )


def drop_a_key(net: nn.Module, operation: Operation) -> None:
    layer = next(m for m in operation.model.modules() if isinstance(m, nn.Conv2d))
    layer._parameters.pop("bias")
    vars(layer)["bias"] = None


def reorder(net: nn.Module, operation: Operation) -> None:
    children = operation.model._modules
    name = next(iter(children))
    children[name] = children.pop(name)


def mark_the_network(net: nn.Module, operation: Operation) -> None:
    vars(net)["left"] = True


def change_the_network(net: nn.Module, operation: Operation) -> None:
    next(net.parameters()).data.add_(1)


def lose_it(net: nn.Module, operation: Operation) -> None:
    operation.model.__class__ = original_class(operation.model)


def run_it_beside(net: nn.Module, operation: Operation) -> None:
    """Attention is given its value, and what it makes of it is thrown away."""
    lose_it(net, operation)
    (cut,) = operation.plan

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        module.get_submodule(cut.module_path)(module.get_submodule(cut.site.path)(args[0]))

    operation.model.register_forward_hook(hook)


def detach(net: nn.Module, operation: Operation) -> None:
    first(operation)[1].register_forward_hook(lambda m, args, output: output.detach())


SURGEONS = {
    scale: "outputs differ",
    scale_in_training: "in training mode",
    drop_a_key: "keys are lost",
    reorder: "another order",
    mark_the_network: "handed in was changed",
    change_the_network: "handed in was changed",
    lose_it: "were planned",
    run_it_beside: "no effect",
    detach: "no gradient",
}


def test_a_plain_network_passes_the_checker():
    tally = Tally()
    check(*plain(), tally)
    assert tally.cut == 1


@pytest.mark.parametrize("surgeon", SURGEONS, ids=lambda surgeon: surgeon.__name__)
def test_the_checker_notices(surgeon, monkeypatch):
    right = operate

    def spoiled(net: nn.Module, survey: Survey, wish: Wish) -> Operation:
        operation = right(net, survey, wish)
        surgeon(net, operation)
        return operation

    module = sys.modules[__name__]
    monkeypatch.setattr(module, "operate", spoiled)
    monkeypatch.setattr(module, "picklable", lambda net: False)  # these surgeons' hooks are not
    with pytest.raises(Wrong, match=SURGEONS[surgeon]):
        check(*plain(), Tally())
