"""Operated network -> the same, of which only what is new learns; and back.

    optimizer = torch.optim.AdamW(attnsurgeon.param_groups(model, lr=1e-4, new_lr=1e-3))
    attnsurgeon.freeze_backbone(model)
    ...                                            # some epochs on what is new
    attnsurgeon.unfreeze(model)
    ...                                            # and on all of it

The optimizer is made before: it holds all parameters, and passes those that are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.given import takes_networks
from attnsurgeon.training.frozen import forget, is_noted, note, noted
from attnsurgeon.training.held_norms import hold, release, release_all, statistics
from attnsurgeon.training.held_norms import stay_in_evaluation as _stay_in_evaluation  # noqa: F401
from attnsurgeon.training.new_parts import NewParts

POLICIES = ("frozen", "updated")


@takes_networks()
def freeze_backbone(
    model: nn.Module, *, keep: str | Iterable[str] = (), norm_statistics: str = "frozen"
) -> None:
    """Leave only what is new trainable, in place: the inserted attention, and a new classifier.

    The backbone's parameters stop requiring gradients and lose those that they have, which the
    next step of an optimizer would still apply. Its norms with running statistics stay in
    evaluation mode, whatever `model.train()` says: they normalise by the statistics that the
    backbone was trained with and do not touch them, so that training leaves every value of the
    backbone as it was, bit for bit. So do estimates that change in training mode (spectral norm).
    Dropout and drop-path keep following `model.train()`. Torch's `update_bn` (SWA) gathers
    statistics anew for the norms of what is new alone; `recalibrate_norms` does for all.

    A classifier is new if it replaced another one after the operation (`reset_classifier(10)`,
    `model.fc = ...`), or if `load_model(..., pretrained=True, num_classes=10)` found no weights for
    it: attention that trains against a random classifier that stands still learns its noise. What
    has kept its name and shape is not known to be new; `keep` names it.

    Modules, their classes and the state-dict keys stay the same; copies and pickles stay frozen,
    and so do the norms that a SyncBatchNorm conversion puts in the place of frozen ones. The
    network may be wrapped (`torch.compile`, `DataParallel`, a task around it) before or after.

    Args:
        model: the operated network.
        keep: what else stays trainable: paths of modules, names of parameters, or patterns of
            these, such as `"fc"` or `["layer4.*", "fc"]`.
        norm_statistics: of the backbone's norms. "frozen" (the default): they stay as they are and
            are what is normalised by. "updated": the norms follow `model.train()`, normalise by
            each batch and gather its statistics, as images unlike the pretraining's may need;
            the backbone then computes something else after training than before.

    Raises:
        UsageError: the network has no inserted attention, nothing of it is called that, or
            `norm_statistics` is no policy.
    """
    check_policy(norm_statistics)
    new = NewParts.of(model, (keep,) if isinstance(keep, str) else tuple(keep))
    own = new.parameters(model)
    frozen = noted(model)
    for parameter in model.parameters():
        if id(parameter) in own:
            if id(parameter) in frozen:  # by an earlier call, that kept less
                parameter.requires_grad_(True)
                frozen.remove(id(parameter))
        else:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                frozen.add(id(parameter))
            parameter.grad = None  # one that is there would be applied by the next step
    note(model, frozen)
    _hold_norms(model, new if norm_statistics == "frozen" else None)


@takes_networks()
def unfreeze(model: nn.Module, *, norm_statistics: str = "updated") -> None:
    """Make trainable again what `freeze_backbone` froze, in place.

    Parameters that did not require gradients before that (fixed position embeddings) still do
    not.

    Args:
        model: the operated network.
        norm_statistics: of the backbone's norms. "updated" (the default): they return to the mode
            of the network. "frozen": they stay in evaluation mode, or are put there, while their
            scales and biases learn; usual where batches are small.

    Raises:
        UsageError: the network has no inserted attention, and nothing of it was frozen; it is
            wrapped in a DDP that was made while it was frozen; or `norm_statistics` is no policy.
    """
    check_policy(norm_statistics)
    new = None
    if not is_noted(model) or norm_statistics == "frozen":
        new = NewParts.of(model)
    frozen = noted(model)
    found = [parameter for parameter in model.parameters() if id(parameter) in frozen]
    _refuse_unsynchronised(model, found)
    for parameter in found:
        parameter.requires_grad_(True)
    forget(model)
    _hold_norms(model, new if norm_statistics == "frozen" else None)


def _refuse_unsynchronised(model: nn.Module, frozen: list[nn.Parameter]) -> None:
    """Refuse a DDP that averages the gradients of fewer parameters than are going to learn.

    It takes those that are trainable when it is made; of others every process keeps its own
    gradient, and the networks drift apart.
    """
    if not isinstance(model, DistributedDataParallel) or not frozen:
        return
    ignored = model.parameters_to_ignore
    names = [name for name, _ in model.module.named_parameters() if name not in ignored]
    thawing = {id(parameter) for parameter in frozen}
    wanted = [
        parameter
        for parameter in map(model.module.get_parameter, names)
        if parameter.requires_grad or id(parameter) in thawing
    ]
    if len(wanted) > int(model._get_ddp_logging_data()["num_parameter_tensors"]):
        raise UsageError(
            "DDP was made while the backbone was frozen, and would not average its gradients",
            "unfreeze(ddp.module), then DistributedDataParallel(ddp.module) anew; or make it"
            " before freeze_backbone, with find_unused_parameters=True",
        )


def _hold_norms(model: nn.Module, new: NewParts | None) -> None:
    """Hold the norms that are not new in evaluation mode; without `new`, none."""
    if new is None:
        release_all(model)
        return
    for path, module in model.named_modules(remove_duplicate=False):
        names = [f"{path}.{name}" if path else name for name in statistics(module)]
        if any(name in new for name in names):
            release(model, path)
        elif names:
            hold(model, path)


def check_policy(norm_statistics: str) -> None:
    """Raise a UsageError for what is no policy of the norms' statistics."""
    if norm_statistics not in POLICIES:
        raise UsageError(
            f'norm_statistics={norm_statistics!r} is neither "frozen" nor "updated"',
            nearest(str(norm_statistics), POLICIES),
        )
