"""What a user calls images -> batches as a network takes them, as often as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.errors import UsageError
from attnsurgeon.looking.photographs import (
    Unreadable,
    as_photograph,
    bad_files,
    files_in,
    read_files,
    refuse_bad,
)
from attnsurgeon.looking.preparing import prepare
from attnsurgeon.models.preprocessing import Preprocessing
from attnsurgeon.recording.record import tensors_in

Images = Any  # a folder, files and pictures, or an iterable of batches


@dataclass(eq=False)
class Batches:
    """Images in batches.

    Attributes:
        where: they come from, in words.
        how: pictures are prepared; None for batches that were given.
        skipped: the files that were found to be no pictures, and left out.
        seen: how many images the last pass had.
    """

    where: str
    how: Preprocessing | None
    batch_size: int
    limit: int | None
    skip_bad: bool
    files: tuple[Path, ...] = ()
    given: Iterable[Any] | None = None
    skipped: dict[Path, Unreadable] = field(default_factory=dict)
    seen: int = 0

    @classmethod
    def of(
        cls,
        images: Images,
        how: Preprocessing,
        *,
        batch_size: int,
        limit: int | None,
        skip_bad: bool,
        again: bool = False,
    ) -> Batches:
        """Looks at what was given; nothing but the beginnings of files is read.

        Args:
            images: a folder; files or pictures of Pillow, in a list; or batches: tensors, or tuples
                and dicts with one, as a loader yields them.
            how: pictures are prepared.
            batch_size: of pictures.
            limit: at most so many images; of a folder evenly spread.
            skip_bad: leave out files that are no pictures.
            again: they are needed more than once.

        Raises:
            UsageError: there are none, or they are something else.
        """
        for name, number in (("batch_size", batch_size), ("limit", limit)):
            if number is not None and (type(number) is not int or number < 1):
                raise UsageError(f"{name}={number!r} is not a number of images", "from 1 on")
        asked = batch_size, limit, skip_bad
        if isinstance(images, (str, os.PathLike)):
            return cls._of_files(files_in(images, limit), os.fspath(images), how, *asked)
        if isinstance(images, Tensor):
            return cls("the tensor", None, *asked, given=[images])
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise UsageError(
                f"a {type(images).__name__} is no images",
                "give a folder, a list of files, or batches as a loader yields them",
            )
        if isinstance(images, Sequence) and images and not any(True for _ in tensors_in(images[0])):
            if all(isinstance(one, (str, os.PathLike)) for one in images):
                every = tuple(Path(os.path.expanduser(one)) for one in images[:limit])
                return cls._of_files(every, "the list", how, *asked)
            return cls("the list", how, *asked, given=images)
        if again and iter(images) is images:
            raise UsageError(
                "these images can be gone through once, and are needed twice",
                "give a list or a loader instead of a generator",
            )
        return cls("the batches", None, *asked, given=images)

    @classmethod
    def _of_files(
        cls,
        every: tuple[Path, ...],
        where: str,
        how: Preprocessing,
        batch_size: int,
        limit: int | None,
        skip_bad: bool,
    ) -> Batches:
        bad = bad_files(every, where, skip_bad=skip_bad)
        files = tuple(file for file in every if file not in bad)
        return cls(where, how, batch_size, limit, skip_bad, files, skipped=bad)

    def __len__(self) -> int:
        """The number of images where it is known before, else 0."""
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor]:
        """Yields tensors (N, C, H, W).

        Raises:
            UsageError: a file is damaged and not to be skipped, or there was no image at all.
        """
        self.seen = 0
        for batch in self._limited(self._pictures() if self.how is not None else self._given()):
            self.seen += len(batch)
            yield batch
        if not self.seen:
            count = len(self.files) + len(self.skipped)
            refuse_bad(list(self.skipped.values()), count, self.where, skip_bad=True)
            raise UsageError(f"there is no image in {self.where}", "give some")

    def _limited(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for batch in batches:
            left = None if self.limit is None else self.limit - self.seen
            if left is not None and left <= 0:
                return
            yield batch[:left]

    def _given(self) -> Iterator[Tensor]:
        assert self.given is not None
        for one in self.given:
            tensor = next((t for t in tensors_in(one) if t.dim() >= 3), None)
            if tensor is None:
                raise UsageError(
                    f"a batch holds no images: it is a {type(one).__name__}",
                    "yield tensors of (N, C, H, W), alone or first in a tuple",
                )
            yield tensor if tensor.dim() > 3 else tensor.unsqueeze(0)

    def _pictures(self) -> Iterator[Tensor]:
        assert self.how is not None
        held: list[Tensor] = []
        found = read_files(self.files) if self.given is None else map(as_photograph, self.given)
        for picture in found:
            if isinstance(picture, Unreadable):
                refuse_bad([picture], len(self.files), self.where, skip_bad=self.skip_bad)
                self.skipped[picture.path] = picture
                continue
            held.append(prepare(picture, self.how).input)
            if len(held) == self.batch_size:
                yield torch.stack(held)
                held = []
        if held:
            yield torch.stack(held)
