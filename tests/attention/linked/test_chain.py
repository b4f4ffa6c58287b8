"""Chains by a small attention whose places say what they were handed."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attnsurgeon.attention.linked.chain import Chain, Fleeting, Link, Linked


class Counting(Linked):
    """Adds how many places came before, and hands on one more."""

    def step(self, x, state):
        before = 0 if state is None else state
        return x + before, before + 1


class Memory(Linked):
    """Gates by a hidden state that depends on all places before."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def step(self, x, state):
        z = self.layer(x)
        state = (z if state is None else z + state).tanh()
        return x * state, state


def linked(places=3, *, attention=Counting, tied=True):
    """Returns links of one chain."""
    chain, first = Chain(), attention()
    return nn.Sequential(
        *(Link(first if tied else attention(), chain, place) for place in range(places))
    )


def blocks(places=4, *, tied=True):
    """Returns blocks, each with a link of one chain in it, in double precision."""
    links = linked(places, attention=Memory, tied=tied)
    return nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), link) for link in links)).double()


def image():
    return torch.randn(3, 5, dtype=torch.float64, requires_grad=True)


def in_segments(network, x, size, **how):
    """Returns network(x), checkpointed in segments of several blocks; `how` is of checkpoint."""
    for first in range(0, len(network), size):
        x = checkpoint(network[first : first + size], x, **how)
    return x


def gradients(network, y, **how):
    return torch.autograd.grad(y.square().sum(), tuple(network.parameters()), **how)


ZERO = torch.zeros(1)


def test_each_place_is_given_what_the_place_before_handed_on():
    assert linked(4)(ZERO).item() == 0 + 1 + 2 + 3


def test_every_forward_starts_anew():
    network = linked()
    assert [network(ZERO).item() for _ in range(3)] == [3, 3, 3]


def test_a_forward_that_broke_off_leaves_nothing_to_the_next():
    network = linked()
    network[:2](ZERO)
    assert network(ZERO).item() == 3


def test_a_network_may_be_run_piece_by_piece():
    network = linked()
    assert [link(ZERO).item() for link in network] == [0, 1, 2]


def test_a_place_without_the_one_before_it_starts_anew():
    network = linked()
    assert [network[place](ZERO).item() for place in (2, 1, 1)] == [0, 0, 0]
    assert [network[place](ZERO).item() for place in (0, 2)] == [0, 0]


def test_after_the_last_place_nothing_is_handed_on():
    network = linked(2)
    network(ZERO)
    assert network[1](ZERO).item() == 0


def test_two_chains_do_not_meet():
    one, other = linked(), linked()
    assert [link(ZERO).item() for pair in zip(one, other, strict=True) for link in pair] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_forwards_in_several_threads_do_not_meet():
    network, results, together = linked(), {}, threading.Barrier(2)

    def run(name, steps):
        for link in network[:steps]:
            together.wait()
            results.setdefault(name, []).append(link(ZERO).item())

    threads = [threading.Thread(target=run, args=(name, 3)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"a": [0, 1, 2], "b": [0, 1, 2]}


def test_alone_every_call_is_the_next_place_until_a_reset():
    alone = Counting()
    assert [alone(ZERO).item() for _ in range(3)] == [0, 1, 2]
    alone.reset()
    assert [alone(ZERO).item() for _ in range(2)] == [0, 1]


def test_the_base_class_leaves_the_step_and_the_clearing_open():
    with pytest.raises(NotImplementedError):
        Linked()(ZERO)
    with pytest.raises(NotImplementedError):
        Fleeting()


def test_a_link_says_its_place():
    assert "place=2" in repr(linked())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_shares_what_the_network_shares_and_has_no_state(copied):
    network, x = blocks(), image()
    network[:2](x)  # a state with a graph waits for the third place
    twin = copied(network)
    assert len({id(block[1].chain) for block in twin}) == 1
    assert len({id(block[1].attention) for block in twin}) == 1
    assert twin[0][1].chain is not network[0][1].chain
    assert twin[0][1].chain.places == 4
    torch.testing.assert_close(twin[2](x), blocks_alone(twin[2], x), rtol=0, atol=0)
    torch.testing.assert_close(twin(x), network(x), rtol=0, atol=0)


def blocks_alone(block, x):
    """Returns what a block gives that nothing was handed to."""
    linear, link = block
    return link.attention.step(linear(x), None)[0]


def test_a_plain_attribute_could_not_be_copied():
    network, x = nn.Linear(5, 5).double(), image()
    network.state = network(x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)


def test_a_state_dict_holds_parameters_only():
    network = linked(2, attention=Memory)
    network[:1](torch.randn(3, 5))
    names = {f"{place}.attention.layer.{name}" for place in "01" for name in ("weight", "bias")}
    assert set(network.state_dict()) == names


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_checkpointing_gives_the_gradients_of_no_checkpointing(size, tied):
    network, x = blocks(tied=tied), image()
    expected = gradients(network, network(x))
    for _ in range(2):
        y = in_segments(network, x, size, use_reentrant=False)
        torch.testing.assert_close(gradients(network, y), expected, rtol=0, atol=0)


def test_the_gradients_depend_on_what_is_handed_on():
    network, x = blocks(), image()
    expected = gradients(network, network(x))
    for block in network[1:]:
        block[1].join(Chain(), 0)  # each of them the first place of a chain of its own
    assert not torch.allclose(gradients(network, network(x))[0], expected[0])


def test_frozen_weights_before_the_chain_change_nothing():
    network, x = blocks(), image().detach()
    for block in network:
        block[0].requires_grad_(False)
    learning = network[0][1]
    expected = gradients(learning, network(x))
    y = in_segments(network, x, 1, use_reentrant=False)
    torch.testing.assert_close(gradients(learning, y), expected, rtol=0, atol=0)


def test_checkpointing_tells_several_forwards_before_one_backward_apart():
    network, images = blocks(), [image() for _ in range(3)]
    expected = gradients(network, torch.cat([network(x) for x in images]))
    ys = [in_segments(network, x, 1, use_reentrant=False) for x in images]
    actual = gradients(network, torch.cat(ys))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_graph_may_be_run_backward_twice_under_checkpointing():
    network, x = blocks(), image()
    y = in_segments(network, x, 1, use_reentrant=False)
    first = gradients(network, y, retain_graph=True)
    torch.testing.assert_close(gradients(network, y), first, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_the_backward_may_run_in_another_thread(size):
    """As it does on a GPU."""
    network, x, found = blocks(), image(), []
    expected = gradients(network, network(x))
    y = in_segments(network, x, size, use_reentrant=False)
    thread = threading.Thread(target=lambda: found.extend(gradients(network, y)))
    thread.start()
    thread.join()
    torch.testing.assert_close(tuple(found), expected, rtol=0, atol=0)


def test_another_forward_may_come_between_a_forward_and_its_backward():
    network, x = blocks(), image()
    expected = gradients(network, network(x))
    y = in_segments(network, x, 1, use_reentrant=False)
    with torch.no_grad():
        network(image())
    torch.testing.assert_close(gradients(network, y), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_reentrant_checkpointing_between_two_places_is_refused(size):
    network, x = blocks(), image()
    y = in_segments(network, x, size, use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        y.sum().backward()


def test_reentrant_checkpointing_around_a_whole_chain_loses_nothing():
    network, x = blocks(), image()
    network(x).square().sum().backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    in_segments(network, x, 4, use_reentrant=True).square().sum().backward()
    actual = [p.grad for p in network.parameters()]
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_attention_that_counts_its_calls_refuses_a_recomputation():
    alone, x = Memory().double(), image()
    for _ in range(2):
        x = checkpoint(alone, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="a Link of its own"):
        x.sum().backward()


def test_a_forward_within_a_backward_is_a_forward():
    network, seen = linked(), []
    x = image()
    x.register_hook(lambda _: seen.extend(link(ZERO).item() for link in network))
    x.sum().backward()
    assert seen == [0, 1, 2]


def states_of(network):
    """Lets every step leave a weak reference to the state that it hands on."""
    left = []
    for block in network:
        attention = block[1].attention
        step = attention.step

        def watched(x, state, step=step):
            y, state = step(x, state)
            left.append(weakref.ref(state))
            return y, state

        attention.step = watched
    return left


def test_a_forward_keeps_nothing_alive():
    network, x = blocks(tied=False), image()
    left = states_of(network)
    network(x)
    gc.collect()
    assert [state() for state in left] == [None] * 4
    with torch.no_grad():
        network[:3](x)
    gc.collect()
    waiting = [state() is not None for state in left[4:]]
    assert waiting == [False, False, True]  # for the last place, which may follow


def test_what_checkpointing_needs_lives_as_long_as_the_graph():
    network, x = blocks(tied=False), image()
    left = states_of(network)
    y = in_segments(network, x, 2, use_reentrant=False)
    gc.collect()
    assert [state() is None for state in left] == [False] * 3 + [True]
    y.sum().backward()
    del y
    gc.collect()
    assert [state() for state in left if state() is not None] == []
    assert network[0][1].chain._notes == {1: [], 2: [], 3: []}


def test_symbolic_tracing_writes_the_links_down():
    network, x = linked(attention=Memory), torch.randn(3, 5)
    traced = torch.fx.symbolic_trace(network)
    torch.testing.assert_close(traced(x), network(x), rtol=0, atol=0)
    torch.testing.assert_close(traced(2 * x), network(2 * x), rtol=0, atol=0)


@pytest.mark.slow
def test_a_chain_compiles_without_a_graph_break():
    torch._dynamo.reset()
    network, x = blocks(3), image()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), network(x))
    torch.testing.assert_close(
        gradients(network, compiled(x)), gradients(network, network(x)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_blocks_may_be_compiled_one_by_one():
    torch._dynamo.reset()
    network, x = blocks(3), image()
    compiled = [torch.compile(block, backend="eager") for block in network]
    for first in (network[0], compiled[0]):
        for second in (compiled[1], network[1]):
            y = compiled[2](second(first(x)))
            torch.testing.assert_close(y, network(x))


@pytest.mark.slow
def test_compiled_checkpointing_gives_the_gradients_of_no_checkpointing():
    torch._dynamo.reset()
    network, x = blocks(3), image()
    compiled = torch.compile(
        lambda x: in_segments(network, x, 1, use_reentrant=False), backend="aot_eager"
    )
    expected = gradients(network, network(x))
    torch.testing.assert_close(gradients(network, compiled(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_chain_exports_and_leaves_the_network_as_it_was():
    network, x = blocks(3).eval(), image().detach()
    exported = torch.export.export(
        network, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    more = torch.randn(7, 5, dtype=torch.float64)
    for batch in (x, more):
        torch.testing.assert_close(exported(batch), network(batch))
