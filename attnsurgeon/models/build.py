"""Spec, and the weights asked for -> a network that knows where it came from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models.checkpoint import Checkpoint, read_checkpoint
from attnsurgeon.models.fitting import Wishes, fit_checkpoint
from attnsurgeon.models.heads import head_of, left_random, without_classes
from attnsurgeon.models.imports import FORMS
from attnsurgeon.models.kin import kin_that_fits
from attnsurgeon.models.provenance import Source, note_on, stamp
from attnsurgeon.models.recipes import UNSAID, Recipe
from attnsurgeon.models.timm_names import hub_recipe, known_to_timm, timm_recipe
from attnsurgeon.models.torchvision_names import torchvision_recipe
from attnsurgeon.models.transformers_names import transformers_recipe
from attnsurgeon.models.ultralytics_names import ultralytics_recipe
from attnsurgeon.models.user_code import file_recipe, missing_factory, module_recipe
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.twin import meta_twin

_FAMILIES = {
    "timm": timm_recipe,
    "torchvision": torchvision_recipe,
    "hf-hub": hub_recipe,
    "hf_hub": hub_recipe,  # timm's older spelling
    "ultralytics": ultralytics_recipe,
    "transformers": transformers_recipe,
}


@known_state(own_dice=False)
def load_model(
    spec: str,
    *,
    pretrained: Any = UNSAID,
    checkpoint: str | os.PathLike[str] | None = None,
    unsafe_pickle: bool = False,
    checkpoint_key: str | None = None,
    partial: bool = False,
    weights_only: bool = False,
    accept: str | Collection[str] = (),
    new_head: bool = False,
    **model_args: Any,
) -> nn.Module:
    """Build a network from a name or from your own code, with random weights unless asked.

    Of a name nothing is downloaded unless `pretrained` asks for it (of an `hf-hub:` name the
    configuration is always fetched: the architecture stands in it). Your own factory is called with
    the arguments that you give and no others: one that fetches weights by its own default fetches
    them here, too, unless `pretrained=False` (or None, as it takes it) says otherwise.

    Args:
        spec: `resnet50` (timm), `timm:NAME`, `torchvision:NAME`, `hf-hub:ORG/NAME`,
            `ultralytics:NAME` or `ultralytics:path/file.yaml`, `transformers:ORG/NAME`,
            `transformers:path/to/folder` or `transformers:Class`, `path/file.py:factory` or
            `package.module:factory`, where the factory is a function that returns an nn.Module,
            an nn.Module class, or a network already built.
        pretrained: fetch the weights that timm, torchvision or the hub offer for this name;
            default: no. To your own factory it is handed on as it is given, a name of weights
            included, and by default not at all.
        checkpoint: a file or folder of weights to load instead. Nothing in it is executed; the
            weights are found by their names, and must fit. `source_of(model).notes` says what was
            taken.
        unsafe_pickle: let a checkpoint execute code while it is read, from a source you trust.
        checkpoint_key: the entry or the prefix of the checkpoint to take, where several fit.
        partial: take what fits, and leave the rest as it was built; the notes list both.
        weights_only: of a whole pickled network that is another than the one built, take the
            weights all the same.
        accept: take weights all the same that have NaN or Inf ("non-finite"), or are "integers"
            or "complex" where the network has fractions.
        new_head: take all weights but those of the head, which stays as it was built: whatever
            depends on the number of classes. `left_random(model)` names it, `freeze_backbone`
            leaves it trainable.
        model_args: for the network's factory: `num_classes=10`, `in_chans=1`, ...

    Returns:
        The network, in training mode as its factory leaves it; `source_of` tells its origin.

    Raises:
        ModelError: the network is unknown or cannot be built, or the weights cannot be had.
        UsageError: both `pretrained` and `checkpoint` were given, or `new_head` and neither.
    """
    said = pretrained is not UNSAID and bool(pretrained)
    if said and checkpoint is not None:
        raise UsageError(
            "pretrained and checkpoint both name the weights to start from",
            "give one of the two",
        )
    if new_head and not said and checkpoint is None:
        raise UsageError(
            "new_head is about weights, and there are none to load",
            "give pretrained=True or checkpoint=FILE",
        )
    wishes = Wishes.of(checkpoint_key, partial, weights_only, accept)
    recipe = resolve(spec)
    # Read before the network is built: a wrong path should not cost that time.
    weights = None if checkpoint is None else read_checkpoint(checkpoint, unsafe_pickle)
    fetched, model_args = _told(recipe, spec, pretrained, model_args)
    told = model_args
    if new_head and weights is None:
        donor = recipe.build(fetched, without_classes(model_args))
        weights = Checkpoint(f"the pretrained weights of {spec}", donor.state_dict())
        fetched, told = False, {**model_args, "pretrained": False} if recipe.own else model_args
    model = recipe.build(fetched, told)
    if weights is None:
        origin = "pretrained" if said else recipe.weights
        stamp(model, Source(spec, dict(model_args), origin))
        if dropped := left_random(model):
            note_on(model, (f"new head: {', '.join(dropped)}: the weights are for other classes",))
        return model
    head = head_of(model, model_args, partial_of(build_on_meta, spec), spec) if new_head else ()

    def kin(state: Mapping[str, Any]) -> str | None:
        return kin_that_fits(spec, state, lambda name: build_on_meta(name, **model_args))

    fitted = fit_checkpoint(model, weights, what=spec, wishes=wishes, kin=kin, new_head=head)
    recipe.adopt(model, fitted.attributes)
    origin = fitted.description if checkpoint is not None else "pretrained"
    given = dict(model_args)
    return stamp(model, Source(spec, given, origin, fitted.stripped, fitted.notes, fitted.new))


@known_state()
def build_on_meta(spec: str, *, pretrained: Any = UNSAID, **model_args: Any) -> nn.Module:
    """Build the same network with shapes in place of numbers: no weights, no memory.

    Args:
        spec: as for `load_model`.
        pretrained: handed on to your own factory; of names nothing is fetched.
        model_args: as for `load_model`.

    Returns:
        The network with every parameter and buffer on the meta device.

    Raises:
        ModelError: the network is unknown or cannot be built.
    """
    recipe = resolve(spec)
    _, model_args = _told(recipe, spec, pretrained, model_args)
    model = _without_numbers(recipe, model_args)
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.device.type != "meta" for tensor in tensors):
        model = meta_twin(model, constants=True)
    return stamp(model, Source(spec, dict(model_args), weights="none"))


def _told(
    recipe: Recipe, spec: str, pretrained: Any, model_args: dict[str, Any]
) -> tuple[bool, dict[str, Any]]:
    """Whether weights are to be fetched, and the arguments, with what the user's code is told."""
    if pretrained is UNSAID or pretrained is True:
        return pretrained is True, model_args
    if recipe.own:
        return False, {**model_args, "pretrained": pretrained}
    if isinstance(pretrained, str):
        raise ModelError(
            f"pretrained={pretrained!r} names weights, and {spec} takes True or False",
            "weights of timm are named behind a dot: resnet50.a1_in1k",
        )
    return bool(pretrained), model_args


def _without_numbers(recipe: Recipe, model_args: Mapping[str, Any]) -> nn.Module:
    """Three ways, the cheapest first; the last one's error is the one that counts.

    Of timm's and torchvision's names only the 15 torchvision RegNets need the second: they
    compute their widths with tensors, and a meta tensor has no numbers to compute with.
    """
    for place in (torch.device("meta"), _EmptyOnMeta()):
        try:
            with place, _Unfilled(), OwnDice():
                return recipe.build(False, model_args)
        except ModelError as error:
            if isinstance(error.__cause__, OSError):  # the hub did not answer; nor will it now
                raise
    with OwnDice():
        return recipe.build(False, model_args)


_FILLING = frozenset(
    {
        *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
        *(Tensor.erfinv_, Tensor.clamp_, Tensor.mul_, Tensor.add_),
    }
)


class _Unfilled(TorchFunctionMode):
    """Leaves out initial values where there is no room for them: most of the time of a build."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _FILLING and type(args[0]) in (Tensor, nn.Parameter) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _EmptyOnMeta(TorchFunctionMode):
    """Puts on meta what is made without numbers, as parameters are; all else keeps its numbers.

    A hook on the registration of parameters would be asked in every thread, for every network.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _EMPTY and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


_EMPTY = frozenset({torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty})


def resolve(spec: str) -> Recipe:
    """Return how to build the network a spec names.

    Raises:
        ModelError: the spec names nothing; the hint has the nearest thing that exists.
    """
    if not isinstance(spec, str):
        raise ModelError(
            f"a network is named by a string; this is of type {type(spec).__name__}", FORMS
        )
    family, colon, name = spec.partition(":")
    if colon and family in _FAMILIES:
        return _FAMILIES[family](name)
    if spec.endswith(".py"):
        raise missing_factory(spec)
    left, colon, factory = spec.rpartition(":")
    if colon and left.endswith(".py"):
        if not factory:
            raise missing_factory(left)
        return file_recipe(left, factory)
    if os.path.exists(spec) and not known_to_timm(spec):
        raise _not_a_network(Path(spec))
    if colon:
        return module_recipe(left, factory)
    if "/" in spec or os.sep in spec:
        raise ModelError(
            f"{spec} is neither a file or folder nor the name of a network",
            f"a repository of the hub is named as 'hf-hub:{spec}', your code as"
            " 'path/file.py:factory'",
        )
    if not spec:
        raise ModelError("the name of the network is empty", FORMS)
    return timm_recipe(spec)


def _not_a_network(path: Path) -> ModelError:
    if path.is_dir():
        return ModelError(
            f"{path} is a folder, not the name of a network",
            f"a network saved after surgery is read by attnsurgeon.load({str(path)!r})",
            command=f"a network saved after surgery is read by `attnsurgeon verify {path}`",
        )
    return ModelError(
        f"{path} is a file, not the name of a network",
        f"if it holds weights, name their network and pass the file: load_model('resnet50',"
        f" checkpoint={str(path)!r})",
        command=f"if it holds weights, name their network and pass the file: resnet50"
        f" --checkpoint {path}",
    )
