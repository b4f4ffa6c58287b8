"""A folder of class folders -> batches of images, as a network takes them, with their labels.

Laid out as torchvision's ImageFolder has it: a folder for each class, whose number is its place in
the order of their names.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.looking.photographs import Photograph, files_in, read_files, refuse_bad
from attnsurgeon.looking.preparing import prepare
from attnsurgeon.models import left_random
from attnsurgeon.models.preprocessing import Preprocessing, preprocessing_of
from attnsurgeon.searching.trial import HELD_OUT, Lessons, cross_entropy
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import each

MOST, BATCH = 512, 16

Labelled = tuple[Path, int]


def lessons_of(
    folder: str | os.PathLike[str],
    model: nn.Module,
    survey: Survey,
    *,
    most: int = MOST,
    batch: int = BATCH,
) -> Lessons:
    """Reads images to train on and images to judge by: of each class every fourth is held out.

    Args:
        folder: with a folder for each class the network knows, in the order of its classes.
        model: the network, which says how it wants its images.
        survey: of it, which says how large.
        most: images to read, as many of each class.
        batch: images of a batch.

    Raises:
        UsageError: there is no such folder, no image, a file that is none, or too few.
        ModelError: the classes are not those of the network, or its classifier has no weights.
    """
    classes = classes_in(folder)
    _check_head(model, survey, folder, len(classes))
    how = _preprocessing(model, survey)
    train, held_out = _divided(folder, classes, most)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    read = [
        [_batch(part[at : at + batch], how, device) for at in range(0, len(part), batch)]
        for part in (train, held_out)
    ]
    return Lessons(read[0], read[1], cross_entropy)


def classes_in(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the folders in a folder, sorted.

    Raises:
        UsageError: there is no such folder, or no folder in it.
    """
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"the folder of images {folder} {what}", "name a folder of class folders")
    found = sorted(one.name for one in root.iterdir() if one.is_dir() and one.name[:1] != ".")
    if not found:
        raise UsageError(
            f"there is no folder in {folder}, and each class needs one",
            f"put the images of a class into {os.path.join(folder, 'CLASS')}",
        )
    return found


def _check_head(model: nn.Module, survey: Survey, folder: object, classes: int) -> None:
    """Refuses a network whose classes the folders are not."""
    outputs = survey.traced.root.outputs
    shape = outputs[0].meta["shape"] if len(outputs) == 1 else None
    if shape is None or len(shape) != 2:
        raise ModelError(
            "a folder of classes trains a classifier, and this network returns something else",
            "in Python, say how a batch is judged: suggest(model, data=batches, loss=...)",
        )
    if shape[1] != classes:
        raise ModelError(
            f"{folder} has {classes} classes, and the network tells {shape[1]} apart",
            "name the folder of its own classes, or load a network that was trained on these",
        )
    if random_parts := left_random(model):
        raise ModelError(
            f"{random_parts[0]} has no trained weights, and what attention gains against a random"
            " classifier says nothing",
            "train the network on these classes first, and load it with its weights",
        )


def _preprocessing(model: nn.Module, survey: Survey) -> Preprocessing:
    sizes = each(survey.traced.input_size)
    if len(sizes) != 1 or len(sizes[0]) != 3:
        raise ModelError(
            "the network takes no picture", "in Python, hand over batches: data= of suggest"
        )
    channels, height, width = sizes[0]
    how = preprocessing_of(model, (height, width))
    if how.size != (height, width):
        how = how.changed(image_size=(height, width))
    return how.of_channels(channels)


def _divided(
    folder: str | os.PathLike[str], classes: Sequence[str], most: int
) -> tuple[list[Labelled], list[Labelled]]:
    """Images of every class in turn, and of each class every fourth held out."""
    root = Path(os.path.expanduser(folder))
    of_class = max(2, most // len(classes))
    train: list[Labelled] = []
    held_out: list[Labelled] = []
    for label, name in enumerate(classes):
        files = files_in(root / name, of_class)
        if len(files) < 2:
            raise UsageError(
                f"there is one image in {root / name}",
                "give some to train on, and some to judge by",
            )
        step = min(HELD_OUT, len(files))
        held_out += [(file, label) for file in files[step - 1 :: step]]
        train += [(f, label) for at, f in enumerate(files) if at % step != step - 1]
    for part in (train, held_out):
        random.Random(0).shuffle(part)
    return train, held_out


def _batch(
    part: Sequence[Labelled], how: Preprocessing, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    images, bad = [], []
    for found in read_files([file for file, _ in part]):
        if isinstance(found, Photograph):
            images.append(prepare(found, how).input)
        else:
            bad.append(found)
    refuse_bad(bad, len(part), "a batch of the data", skip_bad=False)
    labels = torch.tensor([label for _, label in part])
    return torch.stack(images).to(device), labels.to(device)
