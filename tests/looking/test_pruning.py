"""Sites that do nothing are removed, what that moves is measured, and the price is refunded."""

import copy

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import UsageError
from tests.looking.operated import fresh, image, operated


def half_asleep() -> tuple[nn.Module, list[str]]:
    """A network of four sites, of which the first two are as they were inserted."""
    model, stirred = fresh("se"), operated("se", "identity")
    paths = [site.module_path for site in attnsurgeon.status(model, run=False).sites]
    for path in paths[2:]:
        model.get_submodule(path).load_state_dict(stirred.get_submodule(path).state_dict())
    return model, paths


def test_what_does_nothing_goes_and_what_is_left_computes_the_same_bits():
    model, paths = half_asleep()
    with torch.no_grad():
        before = model(image(3))
    pruned = attnsurgeon.prune(model, image(3))
    assert [site.module_path for site in pruned.removed] == paths[:2]
    assert [site.module_path for site in pruned.kept] == paths[2:]
    assert pruned.moved is not None
    assert (pruned.moved.change, pruned.moved.top1_agreement, pruned.moved.images) == (0, 1, 3)
    assert not pruned.everything
    with torch.no_grad():
        assert torch.equal(pruned.model(image(3)), before)
    kept = [site.module_path for site in attnsurgeon.status(pruned.model, run=False).sites]
    assert kept == paths[2:]


@pytest.mark.slow
def test_the_price_is_refunded_to_the_parameter():
    model, paths = half_asleep()
    gone = sum(p.numel() for path in paths[:2] for p in model.get_submodule(path).parameters())
    pruned = attnsurgeon.prune(model, [image(1)])
    assert pruned.cost.delta.params == -gone
    assert pruned.before.params == sum(p.numel() for p in model.parameters())
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert pruned.cost.delta.macs < 0


@pytest.mark.slow
def test_a_copy_is_pruned_unless_in_place():
    model, paths = half_asleep()
    assert attnsurgeon.prune(model, image(2)).model is not model
    assert len(attnsurgeon.status(model, run=False).sites) == len(paths)
    assert attnsurgeon.prune(model, image(2), inplace=True).model is model
    assert len(attnsurgeon.status(model, run=False).sites) == len(paths) - 2


@pytest.mark.slow
def test_effects_add_up_and_that_is_measured_and_not_added():
    model = operated("se")
    pruned = attnsurgeon.prune(model, image(4), below=1e9)
    assert pruned.everything
    plain = copy.deepcopy(model)
    attnsurgeon.remove(plain)
    with torch.no_grad():
        before, after = model(image(4)), plain(image(4))
        assert torch.equal(pruned.model(image(4)), after)
    change = (after - before).norm(dim=1) / before.norm(dim=1)
    assert pruned.moved is not None
    assert pruned.moved.change == pytest.approx(float(change.mean()), rel=1e-9)
    assert pruned.moved.change != max(s.effect.change for s in pruned.removed if s.effect)


@pytest.mark.slow
def test_where_every_site_does_something_nothing_goes():
    model = operated("se")
    pruned = attnsurgeon.prune(model, image(2), below=1e-9)
    assert (pruned.removed, pruned.moved, pruned.everything) == ((), None, False)
    assert pruned.cost.delta.params == 0
    assert "nothing to prune: the least effect is" in repr(pruned)


@pytest.mark.slow
def test_only_the_named_sites_go():
    model, paths = half_asleep()
    pruned = attnsurgeon.prune(model, image(2), sites=paths[1])
    assert [site.module_path for site in pruned.removed] == [paths[1]]


@pytest.mark.slow
def test_a_chain_goes_whole_or_not_at_all():
    model = fresh("dia")
    paths = [site.module_path for site in attnsurgeon.status(model, run=False).sites]
    assert attnsurgeon.prune(model, image(2), sites=paths[0]).removed == ()
    assert attnsurgeon.prune(model, image(2)).everything


@pytest.mark.slow
def test_what_took_the_place_of_something_stays():
    pruned = attnsurgeon.prune(operated("sk"), image(2), below=1e9)
    assert pruned.removed == ()
    assert "nothing to prune: the effect of no site is known" in repr(pruned)


@pytest.mark.parametrize("below", [0, -1, float("nan"), "x"])
def test_a_bound_that_is_none_is_refused(below):
    with pytest.raises(UsageError, match="is no bound"):
        attnsurgeon.prune(fresh("se"), image(2), below=below)


def test_images_that_can_be_gone_through_once_are_refused():
    with pytest.raises(UsageError, match="needed twice"):
        attnsurgeon.prune(fresh("se"), iter([image(2)]))
