"""An Ultralytics name (`yolov8n`, `yolo11n-seg`) or a YAML file -> the network built from it.

ultralytics is an extra (`pip install "attnsurgeon[ultralytics]"`). What it prints and logs goes to
stdout by its own choice; here it goes to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.fitting import fit_checkpoint
from attnsurgeon.models.foreign import explain_call, first_line, guarded
from attnsurgeon.models.provenance import Source
from attnsurgeon.models.recipes import Recipe
from attnsurgeon.models.suggestions import nearest_file

_INSTALL = 'pip install "attnsurgeon[ultralytics]"'
# The kinds of networks that are surely taken right; a task is what ultralytics calls the kind.
_CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
}
_SIZED = re.compile(r"(\d+)([nslmx])(.+)?$")  # yolov8n-seg is yolov8-seg.yaml at the scale n
_SUFFIXES = (".yaml", ".yml")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?<!\.pt)")


def ultralytics_recipe(name: str) -> Recipe:
    """Return how to build `yolov8n`, `yolo11n-seg` or `path/to/custom.yaml`.

    Raises:
        ModelError: ultralytics is not installed, or has no such network, or there is no such
            file; the nearest names are in the hint.
    """
    with said_to_stderr():
        guarded(_import, _missing)
        config = _config(name)
        task = _task(config, name)
    return Recipe(partial(_build, name, config, task), adopt=_adopt)


@contextlib.contextmanager
def said_to_stderr() -> Iterator[None]:
    """Send to stderr what ultralytics prints and logs inside; stdout belongs to our caller."""
    stdout, logger = sys.stdout, logging.getLogger("ultralytics")
    before = {handler: handler.stream for handler in _streams(logger)}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for handler in before:
                handler.setStream(sys.stderr)
            yield
        finally:
            for handler in _streams(logger):  # those that its import has made, too
                handler.setStream(before.get(handler, stdout))


def _streams(logger: logging.Logger) -> list[logging.StreamHandler[Any]]:
    return [h for h in logger.handlers if type(h) is logging.StreamHandler]


def _import() -> None:
    import ultralytics  # pyright: ignore[reportMissingImports]
    import ultralytics.nn.tasks  # noqa: F401  # pyright: ignore[reportMissingImports]


def _missing(error: BaseException) -> ModelError:
    if isinstance(error, ModuleNotFoundError) and error.name == "ultralytics":
        return ModelError("YOLO needs the package ultralytics, which is not installed", _INSTALL)
    return ModelError(f"ultralytics cannot be imported: {first_line(error)}", _INSTALL)


def _config(name: str) -> str:
    """The YAML file of a network, in the spelling that carries its scale.

    Only a name of the package or a file that exists is handed on: of anything else ultralytics
    would search the disk, or download it.
    """
    if not name:
        raise ModelError("the name of the network is empty", "for example ultralytics:yolov8n")
    if name.endswith(".pt"):
        raise ModelError(
            f"{name} is a checkpoint, not the name of a network",
            f"name its network and pass the file: load_model('ultralytics:{_stem(name)}',"
            f" checkpoint={name!r})",
            command=f"name its network and pass the file: ultralytics:{_stem(name)}"
            f" --checkpoint {name}",
        )
    file = Path(os.path.expanduser(name))
    if file.suffix in _SUFFIXES and (file.is_file() or _unified(file).is_file()):
        return str(file)
    if file.suffix in _SUFFIXES and file.parent != Path():
        raise ModelError(f"there is no file {name}", nearest_file(file))
    known = _shipped()
    stem = _architecture(_stem(name))
    home = known.get(stem) or known.get(_unified(Path(stem)).name)
    if home is None:
        raise ModelError(f"ultralytics has no network called {name!r}", _nearest(stem, known))
    return str(home / f"{stem}.yaml")  # whole, or a file in the working folder would come first


def known_to_ultralytics(name: str) -> bool:
    """Tell whether a name is of a model whose description ultralytics ships.

    A file in the working folder comes before the package's own of the same name.

    Raises:
        ModelError: ultralytics is not installed.
    """
    with said_to_stderr():
        guarded(_import, _missing)
    file = Path(name)
    if _PLAIN_NAME.fullmatch(name) is None:
        return False
    if file.suffix in _SUFFIXES and (file.exists() or _unified(file).exists()):
        return False
    stem, known = _architecture(_stem(name)), _shipped()
    return stem in known or _unified(Path(stem)).name in known


def _stem(name: str) -> str:
    return re.sub(r"\.(ya?ml|pt)$", "", Path(name).name)


def _architecture(stem: str) -> str:
    """yolov5nu, the weights of today's YOLOv5, has the architecture yolov5n."""
    return re.sub(r"^(yolov[35].*)u$", r"\1", stem)


def _weights(name: str) -> str:
    stem = _stem(name)
    return f"{stem}u.pt" if re.fullmatch(r"yolov[35].*[^u]", stem) else f"{stem}.pt"


def _unified(file: Path) -> Path:
    return file.with_name(_SIZED.sub(r"\1\3", file.stem) + file.suffix)


def _shipped() -> dict[str, Path]:
    """The names of the package's YAML files, without a scale, and their folders."""
    import ultralytics  # pyright: ignore[reportMissingImports]

    root = Path(str(ultralytics.__file__)).parent / "cfg" / "models"
    return {file.stem: file.parent for file in root.rglob("*.yaml")}


def _nearest(stem: str, known: Mapping[str, Path]) -> str:
    sized = {_SIZED.sub(r"\1\3", stem): stem}
    return nearest(next(iter(sized)), known) + "; a scale follows the number: yolov8n, yolo11s-seg"


def _task(config: str, name: str) -> str:
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load  # pyright: ignore[reportMissingImports]

    read = guarded(lambda: yaml_model_load(config), partial(_unreadable, config))
    task = guess_model_task(read) if _describes(read) else None
    if task not in _CLASSES:
        raise ModelError(
            f"ultralytics:{name} is no network for {', '.join(_CLASSES)}",
            "build it in your own code and give 'path/file.py:factory'",
        )
    return task


def _describes(read: Any) -> bool:
    """Whether this is the description of a network whose last layer says its task."""
    if not isinstance(read, Mapping) or not read.get("backbone") or not read.get("head"):
        return False
    last = read["head"][-1]
    return isinstance(last, list) and len(last) == 4 and not str(last[2]).startswith(_PROMPTED)


_PROMPTED = ("World", "YOLOE")  # they are called with texts beside the image


def _unreadable(config: str, error: BaseException) -> ModelError:
    return ModelError(f"{config} cannot be read: {first_line(error)}", "it has to be a model YAML")


def _build(
    name: str, config: str, task: str, pretrained: bool, model_args: Mapping[str, Any]
) -> nn.Module:
    with said_to_stderr():
        from ultralytics.nn import tasks  # pyright: ignore[reportMissingImports]
        from ultralytics.utils import DEFAULT_CFG_DICT  # pyright: ignore[reportMissingImports]

        kind = getattr(tasks, _CLASSES[task])
        given = {"nc" if key == "num_classes" else key: v for key, v in model_args.items()}
        given = {"ch" if key == "in_chans" else key: v for key, v in given.items()}
        model = guarded(
            lambda: kind(config, **{"verbose": False, **given}),
            partial(explain_call, what=f"ultralytics:{name}", factory=kind, given=model_args),
        )
        # What its trainer, predictor and exporter read, and YOLO(...) itself sets.
        file = model.yaml["yaml_file"] = config if Path(name).suffix else Path(config).name
        model.args = {**DEFAULT_CFG_DICT, "model": file, "task": task}
        model.task = task
        if pretrained:
            _fetch(name, model)
    return model


def _fetch(name: str, model: nn.Module) -> None:
    """Load the weights that ultralytics offers for a name; the file is downloaded by itself."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset  # pyright: ignore[reportMissingImports]

    file = _weights(name)
    offered = [n.removesuffix(".pt") for n in GITHUB_ASSETS_NAMES if n.endswith(".pt")]
    if file not in GITHUB_ASSETS_NAMES:
        raise ModelError(
            f"ultralytics has no pretrained weights {file}", nearest(_stem(file), offered)
        )
    path = guarded(lambda: attempt_download_asset(file), partial(_not_fetched, name, file))
    if not Path(path).is_file():
        raise _not_fetched(name, file, FileNotFoundError(path))
    fitted = fit_checkpoint(model, read_checkpoint(path), what=f"ultralytics:{name}")
    _adopt(model, fitted.attributes)


def _not_fetched(name: str, file: str, error: BaseException) -> ModelError:
    return ModelError(
        f"could not fetch the pretrained weights of ultralytics:{name}: {first_line(error)}",
        f"download {file} from github.com/ultralytics/assets where there is a network and pass"
        " the file as checkpoint=, or leave pretrained out for random weights",
    )


def _adopt(model: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Take over from the network in a checkpoint what is no weight: the names of its classes."""
    own: Any = model.names
    names = attributes.get("names")
    if isinstance(names, dict) and names.keys() == own.keys():
        own.update({number: name for number, name in names.items() if isinstance(name, str)})


def described(model: nn.Module) -> Source | None:
    """Return what the description that a YOLO carries names; None of any other network.

    It is only a guess: the file may have been one of the user's own.
    """
    read: Any = getattr(model, "yaml", None)
    file = read.get("yaml_file") if isinstance(read, Mapping) else None
    if not isinstance(file, str):
        return None
    given = {"nc": read.get("nc"), "ch": read.get("channels")}
    plain = {name: value for name, value in given.items() if type(value) is int}
    return Source(f"ultralytics:{_stem(file)}", plain, weights="as built")
