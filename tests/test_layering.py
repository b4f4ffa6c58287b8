"""Imports run down the floors only, and each outside library has one door."""

import ast
from pathlib import Path

import pytest

import attnsurgeon

PACKAGE = Path(__file__).parents[1] / "attnsurgeon"
# Lowest first. A wing's files, where they are listed, may import one another in the order given;
# of a folder inside a wing, all its files are.
WINGS: dict[str, str] = {
    "version": "",
    "moved": "",
    "errors": "",
    "given": "",
    "plain": "",
    "shown": "",
    "sizes": "",
    "attention": "",
    "recording": "calls randomness garbage caches hooks sharding twin record inputs examples"
    " input_records global_hooks ambient shape_only memory trace handed_on",
    "models": "",
    "sites": "site flow layouts tokens levels residuals rises projections encoders ending stem"
    " descent kept trunk blocks ascent survey parts analysis",
    "forwards": "retype script_source alignment decisions privately whereabouts conversions makers "
    "proxies running in_place symbolic tracing sizes_that_turn ways branches modes shallow "
    "fingerprint",
    "rules": "",
    "planning": "selection additions place cutting.rebuilders cutting.graphs cutting.modules "
    "cutting.appearing cutting.leaks cutting.hooks cutting.retyping cutting.takeover "
    "cutting.insertion cut deciding.operand deciding.asked deciding.signals deciding.gates "
    "deciding.linked deciding.convolutions deciding.weights deciding.activations "
    "deciding.fusions deciding.heads deciding.sharing deciding.narrow deciding.decider plan "
    "elsewhere",
    "splicing": "parts channels_first adapters norms_into holders configs makeup history selecting "
    "switching rewriting scripted_ways scripting removing splice replay folding thinning",
    "cost": "",
    "looking": "following positions watching told watcher gates photographs preparing running "
    "batches effects statistics pruning panels look charts drawing heatmap",
    "checks": "threads auditing status finite learning verify",
    "saved": "fields parts schema drafts folder file hub trust code origin weights behaviour "
    "base loading card pricing config save restore",
    "exporting": "forms subject programs code.names code.bundle code.base code.forwards "
    "code.modules code.page code.tidy code.alone code.running code.writing exports",
    "training": "frozen new_parts held_norms places layer_depth groups finetune norms renames"
    " optimizers phases sharding callbacks.schedule callbacks.lightning callbacks.transformers"
    " callbacks.ultralytics",
    "asked": "",
    "operate": "",
    "grid": "table spelling limits text journal subjects cells measuring saving filling comparing",
    "searching": "candidates features solving choosing latencies journal trial images rulefile "
    "drawing suggestion suggesting",
    "sweeping": "functions trials schedulers watching healing engine versions merging sweeps",
    "integrations": "",
    "checkup": "",
    "contract": "",
    "report": "",
    "cli": "",
    "__init__": "",
    "__main__": "",
}
FLOORS = {
    f"{wing}.{room}" if room else wing: (floor, at)
    for floor, (wing, rooms) in enumerate(WINGS.items())
    for at, room in enumerate(["", *rooms.split()])
}
FOLDERS = {room.rpartition(".")[0] for room in FLOORS if room.count(".") == 2}
FLOORS |= {
    folder: min(FLOORS[r] for r in FLOORS if r.startswith(f"{folder}.")) for folder in FOLDERS
}
DOORS = {
    "timm": ("models", "integrations"),
    "torchvision": "models",
    "ultralytics": ("models", "integrations"),
    "transformers": ("models", "integrations", "training"),
    "lightning": ("training", "integrations"),
    "yaml": "rules",
    "re2": "rules",
    "pydantic": ("rules", "saved"),  # the two kinds of file that others write
    "fvcore": "cost",
    "PIL": "looking",
    "matplotlib": ("looking", "searching"),
    "rich": "report",
    "jinja2": "report",
    "markupsafe": "report",
    "pygments": "report",
    "click": "cli",
    "scipy": "searching",
    "ray": "sweeping",
    "safetensors": ("saved", "models", "exporting"),
    "huggingface_hub": ("saved", "models"),
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "shipped" not in path.parts)


def room_of(path: Path) -> str:
    """The name of a file as `FLOORS` has it: of a listed room, else of its wing."""
    return _room(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def _room(name: str) -> str:
    wing, *inner = name.removesuffix(".__init__").split(".")
    if not inner or not WINGS.get(wing):
        return wing
    room = f"{wing}.{inner[0]}"
    return ".".join([room, *inner[1:2]]) if room in FOLDERS else room


def imported_names(source: str, *, at_run_time_only: bool = True) -> set[str]:
    tree = ast.parse(source)
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            hidden.update(inner for statement in node.body for inner in ast.walk(statement))
    nodes = [n for n in ast.walk(tree) if not (at_run_time_only and n in hidden)]
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}


def breaches(room: str, names: set[str]) -> list[str]:
    found = []
    wing = room.split(".")[0]
    for name in sorted(names):
        top, _, rest = name.partition(".")
        if top == "attnsurgeon" and rest:
            other = _room(rest)
            if FLOORS[other] > FLOORS[room]:
                found.append(f"{room} imports {name}, which is above it")
        doors = DOORS.get(top, wing)
        if wing not in ((doors,) if isinstance(doors, str) else doors):
            found.append(f"{room} imports {top}, whose door is {doors}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    assert breaches(room_of(path), imported_names(path.read_text(encoding="utf-8"))) == []


def test_every_file_has_a_floor_and_every_floor_a_file():
    assert {room_of(path) for path in FILES} - set(FLOORS) == set()
    rooms = {room_of(path) for path in FILES} | {wing for wing in WINGS if WINGS[wing]}
    assert set(FLOORS) - rooms == set()


def test_no_module_bears_the_name_of_a_public_function():
    """Importing it would put the module in the function's place."""
    assert {path.stem for path in PACKAGE.iterdir()} & {*attnsurgeon.__all__} == set()


def test_this_check_can_fail():
    def found(room: str, code: str) -> list[str]:
        return breaches(room, imported_names(code))

    assert found("recording.trace", "from attnsurgeon.cli import main") != []
    assert found("recording.trace", "def f():\n    import click") != []
    assert found("sites.flow", "from attnsurgeon.sites.trunk import find_trunk") != []
    assert found("recording.record", "from attnsurgeon.planning import plan") != []
    hooks, leaks = "planning.cutting.hooks", "planning.cutting.leaks"
    assert found(leaks, f"from attnsurgeon.{hooks} import tap") != []
    assert found(hooks, f"from attnsurgeon.{leaks} import leaks") == []
    assert room_of(PACKAGE / "planning" / "cutting" / "unheard_of.py") not in FLOORS
    assert found("sites.trunk", "from attnsurgeon.sites.flow import Flow") == []
    assert found("cost", "from attnsurgeon.splicing.splice import splice") == []
