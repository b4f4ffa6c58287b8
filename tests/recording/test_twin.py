"""The meta twin: same object graph, no numbers, and a model that was only read."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.twin import full_twin, meta_twin, shared_twin, twin_around


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(7, 7, bias=False)
        self.second = nn.Linear(7, 7, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(7)
        self.table = torch.arange(5)
        self.kept = [torch.ones(3), nn.Parameter(torch.ones(2, 3), requires_grad=False)]
        vars(self.first.weight)["note"] = "no decay"

    def forward(self, x):
        return self.norm(self.second(self.first(x)))


def test_every_tensor_of_the_twin_is_meta_wherever_it_hangs():
    twin = meta_twin(Tied())
    tensors = [*twin.state_dict().values(), twin.table, *twin.kept]
    assert {t.device.type for t in tensors} == {"meta"}
    assert [(tuple(t.shape), t.dtype) for t in (twin.table, *twin.kept)] == [
        ((5,), torch.int64),
        ((3,), torch.float32),
        ((2, 3), torch.float32),
    ]
    assert isinstance(twin.kept[1], nn.Parameter)


def test_tied_parameters_stay_tied_and_untied_ones_stay_apart():
    twin = meta_twin(Tied())
    assert twin.first.weight is twin.second.weight
    assert twin.norm.weight is not twin.norm.bias


def test_marks_dtype_requires_grad_and_training_flags_are_kept():
    model = Tied().half().train()
    model.norm.eval()
    model.norm.bias.requires_grad_(False)
    twin = meta_twin(model)
    assert type(twin.first.weight) is nn.Parameter
    assert vars(twin.first.weight)["note"] == "no decay"
    assert twin.first.weight.dtype == torch.float16
    assert not twin.norm.bias.requires_grad
    assert twin.norm.weight.requires_grad
    assert (twin.training, twin.norm.training) == (True, False)


def test_the_model_itself_is_only_read():
    model = Tied()
    before = {name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()}
    twin = meta_twin(model)
    twin.training = False
    twin.kept.append("twin only")
    for name, tensor in model.state_dict().items():
        pointer, value = before[name]
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor, value)
    assert model.training
    assert len(model.kept) == 2
    assert model.table.device.type == "cpu"


def test_hooks_on_the_twin_belong_to_the_twin():
    class Count:
        calls = 0

        def __call__(self, module, args, output):
            self.calls += 1
            return output

    model = Tied().eval()
    hook = Count()
    model.first.register_forward_hook(hook)
    twin = meta_twin(model)
    twin(torch.empty(2, 7, device="meta"))
    (copied,) = twin.first._forward_hooks.values()
    assert (hook.calls, copied.calls) == (0, 1)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_normed_weights_are_copied_too(normed):
    model = normed(nn.Linear(3, 5))
    twin = meta_twin(model)
    assert twin(torch.empty(2, 3, device="meta")).shape == (2, 5)
    assert {p.device.type for p in twin.parameters()} == {"meta"}


def test_a_lazy_module_is_refused_until_its_first_forward():
    model = nn.Sequential(nn.LazyLinear(5))
    with pytest.raises(ModelError, match=r"0 \(LazyLinear\) has parameters without shape"):
        meta_twin(model)
    model(torch.zeros(2, 3))
    assert meta_twin(model)[0].weight.shape == (5, 3)


def test_a_model_that_refuses_to_be_copied_is_one_clear_error():
    model = nn.Linear(2, 2)
    with open(__file__) as file:
        model.__dict__["log"] = file
        with pytest.raises(ModelError, match="Linear cannot be copied"):
            meta_twin(model)


def test_a_shared_twin_holds_the_very_same_parameters():
    model = Tied()
    twin = shared_twin(model)
    assert [id(p) for p in twin.parameters()] == [id(p) for p in model.parameters()]
    assert twin.norm is not model.norm


def test_running_a_shared_twin_in_training_mode_leaves_the_model_alone():
    model = Tied().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    twin = shared_twin(model).train()
    twin(torch.randn(11, 7))
    assert not torch.equal(twin.state_dict()["norm.running_mean"], before["norm.running_mean"])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not model.norm.training
    assert twin.table is not model.table
    assert torch.equal(twin.table, model.table)


def test_a_full_twin_has_the_numbers_and_shares_none():
    model = Tied()
    twin = full_twin(model)
    assert all(
        torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True)
    )
    pointers = {t.data_ptr() for t in (*model.state_dict().values(), model.table, *model.kept)}
    copied = (*twin.state_dict().values(), twin.table, *twin.kept)
    assert pointers.isdisjoint(t.data_ptr() for t in copied)
    assert twin.first.weight is twin.second.weight


def test_a_twin_around_some_tensors_shares_these_alone():
    model = Tied()
    twin = twin_around(model, [model.first.weight])
    assert twin.second.weight is model.second.weight
    assert twin.norm.weight is not model.norm.weight


@pytest.mark.parametrize("twin_of", [full_twin, meta_twin])
def test_parameters_of_a_twin_are_leaves_that_are_views_of_nothing(twin_of):
    twin = twin_of(Tied())
    assert all(p.is_leaf and not p._is_view() for p in twin.parameters())


def test_a_twin_computes_bit_for_bit_what_the_model_does():
    """torch adds up the product with a weight in another order where that is a view."""
    model, x = nn.Linear(6, 18), torch.randn(2, 130, 6).transpose(0, 1)
    with torch.no_grad():
        assert torch.equal(full_twin(model)(x), model(x))


def test_small_constants_may_keep_their_numbers_and_weights_never_do():
    model = Tied()
    model.large = torch.rand(999)
    twin = meta_twin(model, constants=True)
    assert twin.table.tolist() == [0, 1, 2, 3, 4]
    assert twin.table is not model.table
    assert twin.large.is_meta
    assert all(tensor.is_meta for tensor in twin.state_dict().values())
