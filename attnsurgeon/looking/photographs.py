"""A file or a folder -> pictures of plain colours, the right way up; of each what was done to it.

The only door to Pillow, an extra: `pip install "attnsurgeon[pictures]"`.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attnsurgeon.errors import UsageError
from attnsurgeon.shown import brief

if TYPE_CHECKING:
    from PIL.Image import Image

EXTRA = 'pip install "attnsurgeon[pictures]"'
_SHOWN = 5  # bad files that a message names
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
# Transparent parts are shown on white, as browsers do.
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture as it is seen.

    Attributes:
        name: of its file.
        image: of Pillow, in RGB.
        notes: what was done to it, in words: turned, its first frame taken, ...
    """

    name: str
    image: Image
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Unreadable:
    """A file that is no picture.

    Attributes:
        path: of the file.
        why: in words.
        hint: what to do, or None.
    """

    path: Path
    why: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.why}"

    def __repr__(self) -> str:
        return brief(self, str(self))


def pillow() -> Any:
    """Returns `PIL.Image`.

    Raises:
        UsageError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UsageError("pictures need Pillow, which is not installed", EXTRA) from error
    return Image


def as_photograph(given: Any) -> Photograph:
    """Returns the picture that a file holds, or that Pillow has already read.

    Raises:
        UsageError: it is no picture, cut off, or too large.
    """
    image = pillow()
    if isinstance(given, Photograph):
        return given
    if isinstance(given, image.Image):
        name = getattr(given, "filename", "") or "the picture"
        return _plain(Path(name).name or name, given)
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(
            f"a {type(given).__name__} is no picture", "name a file, or hand over a PIL.Image"
        )
    read = _read(Path(os.path.expanduser(given)))
    if isinstance(read, Unreadable):
        raise UsageError(str(read), read.hint)
    return read


def files_in(folder: str | os.PathLike[str], limit: int | None = None) -> tuple[Path, ...]:
    """Returns the files of a folder and of those below it, sorted; hidden ones are left out.

    Args:
        folder: of pictures, or of folders of such.
        limit: at most so many, evenly spread, so that a folder for each class stays represented.

    Raises:
        UsageError: there is no such folder, or no file in it.
    """
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"the folder of images {folder} {what}", "name a folder with pictures")
    found = sorted(
        file
        for file in root.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(root).parts)
    )
    if not found:
        raise UsageError(f"there is no image in {folder}: no file at all", "name another folder")
    if limit is None or limit >= len(found):
        return tuple(found)
    return tuple(found[len(found) * at // limit] for at in range(limit))


def bad_files(files: Sequence[Path], where: str, *, skip_bad: bool) -> dict[Path, Unreadable]:
    """Returns the files that are no pictures, by what stands at their beginning.

    Args:
        files: to look at.
        where: they come from, for messages.
        skip_bad: leave them out; all are never left out.

    Raises:
        UsageError: one is no picture, and not `skip_bad`; or none is one.
    """
    bad = [found for file in files if (found := _header(file)) is not None]
    refuse_bad(bad, len(files), where, skip_bad=skip_bad)
    return {one.path: one for one in bad}


def read_files(files: Sequence[Path]) -> Iterator[Photograph | Unreadable]:
    """Yields the picture of each file; what is wrong with those that are cut off."""
    return map(_read, files)


def refuse_bad(bad: Sequence[Unreadable], of: int, where: str, *, skip_bad: bool) -> None:
    """Refuses files that are no pictures, all by their number and the first by their names.

    Args:
        bad: these files.
        of: how many files there are in all.
        where: they come from.
        skip_bad: only refuse where nothing else is there.
    """
    if not bad or (skip_bad and len(bad) < of):
        return
    shown = "".join(f"\n  {one}" for one in bad[:_SHOWN])
    more = f"\n  and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    count = "none" if len(bad) == of else f"{of - len(bad):,}"
    hint = "name a folder with pictures" if len(bad) == of else "take them out, or skip_bad=True"
    raise UsageError(
        f"of {of:,} files in {where} {count} can be read as an image:{shown}{more}", hint
    )


def _header(file: Path) -> Unreadable | None:
    opened = _opened(file)
    if isinstance(opened, Unreadable):
        return opened
    opened.close()
    return None


def _pillows_own(opening: Any) -> Any:
    """The function that one stands for which a library has put in its place.

    ultralytics does, and its own installs a package where a file is no image.
    """
    kept = [opening, *opening.__globals__.values()]
    kept += [cell.cell_contents for cell in opening.__closure__ or ()]
    home = pillow().__name__
    own = [f for f in kept if getattr(f, "__module__", "") == home and callable(f)]
    return next((f for f in own if f.__name__ == "open"), opening)


def _opened(file: Path) -> Any:
    image = pillow()
    try:
        with warnings.catch_warnings():  # from half of its bound on, Pillow warns
            warnings.simplefilter("ignore", image.DecompressionBombWarning)
            return _pillows_own(image.open)(file)
    except (FileNotFoundError, IsADirectoryError):
        return Unreadable(file, "is a folder" if file.is_dir() else "does not exist")
    except image.DecompressionBombError:
        most = 2 * (image.MAX_IMAGE_PIXELS or 0)
        return Unreadable(
            file, f"has more than {most:,} pixels, which Pillow does not read", "scale it down"
        )
    except image.UnidentifiedImageError:
        empty = not file.stat().st_size
        return Unreadable(file, "is empty" if empty else "is no image that Pillow knows")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        return Unreadable(file, f"cannot be read: {_first_line(error)}")


def _read(file: Path) -> Photograph | Unreadable:
    opened = _opened(file)
    if isinstance(opened, Unreadable):
        return opened
    with opened:
        try:
            opened.load()
            return _plain(file.name, opened)
        except UsageError as error:
            return Unreadable(file, error.what.partition(" ")[2], error.hint)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
            return Unreadable(file, f"is damaged or cut off: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _plain(name: str, image: Any) -> Photograph:
    """The picture in RGB, turned as its camera was held."""
    from PIL import ImageOps

    notes = []
    frames = getattr(image, "n_frames", 1)
    if getattr(image, "is_animated", False) and frames > 1:
        notes.append(f"the first of {frames} frames")
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        notes.append("turned as its EXIF says")
    turned = ImageOps.exif_transpose(image)
    return Photograph(name, _in_colours(name, turned, notes), tuple(notes))


def _in_colours(name: str, image: Any, notes: list[str]) -> Any:
    if image.mode.startswith("I") or image.mode == "F":
        notes.append(f"{image.mode} brought to 8 bits")
        return _of_8_bits(name, image).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        seen = image.convert("RGBA")
        opaque = seen.getchannel("A").getextrema() == (255, 255)
        if not opaque:
            notes.append("its transparent parts on white")
        ground = pillow().new("RGBA", seen.size, _WHITE)
        return pillow().alpha_composite(ground, seen).convert("RGB")
    if image.mode not in ("RGB", "L", "1", "P"):
        notes.append(f"{image.mode} converted to RGB")
    return image.convert("RGB")


def _of_8_bits(name: str, image: Any) -> Any:
    """A grey picture of 16 bits, or of fractions of one, as one of 8 bits."""
    if image.mode == "F":
        kind, most = torch.float32, 1.0
    else:
        image, kind, most = image.convert("I"), torch.int32, 65535.0
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=kind).double()
    low, high = (float(v) for v in values.aminmax())
    if not 0 <= low <= high <= most:  # and NaN
        raise UsageError(
            f"{name} has grey values from {low:g} to {high:g}, and which of them is white it does"
            " not say",
            f"save it with values from 0 to {most:g}",
        )
    eighth = (values * (255 / most)).round().to(torch.uint8)
    return pillow().frombytes("L", image.size, bytes(eighth.tolist()))
