"""Hints speak the language of the surface: options on the command line, keywords in Python."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import attnsurgeon
from attnsurgeon.errors import MechanismError, ModelError, SurgeonError
from attnsurgeon.report.surfaces import OPTIONS, hint_of, in_options
from tests.cli import command
from tests.cli.command import TINY

PACKAGE = Path(attnsurgeon.__file__).parent
# The command line itself and what it prints; and texts that stand in rule files.
OF_OPTIONS = ("cli", "report")
DOCUMENTS = {"rules/schema.py", "rules/template.py"}
OPTION = re.compile(r"(?:^|[\s(`'\"])(--?[a-z][a-z-]*)(?![\w+])")
ERRORS = {"SurgeonError", "CheckFailed", "UsageError", "ModelError", "RuleError", "MechanismError"}
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in (*OF_OPTIONS, "__main__.py")
    and path.relative_to(PACKAGE).as_posix() not in DOCUMENTS
)


def text_of(node: ast.AST) -> str:
    """The words of a string, of an f-string and of several added up; {} for what is worked out."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    return ""


def for_the_command_line(tree: ast.Module) -> set[ast.AST]:
    """The nodes whose strings only the command line prints, and docstrings, which nobody does."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            found.add(node.body[0])
        if isinstance(node, ast.keyword) and node.arg in ("command", "option"):
            found.add(node.value)
        if isinstance(node, ast.Assign) and all(
            isinstance(name, ast.Name) and name.id.endswith("_COMMAND") for name in node.targets
        ):
            found.add(node.value)
        if isinstance(node, ast.FunctionDef):
            found.update(default for default in node.args.kw_defaults if default is not None)
            if node.returns is not None and ast.unparse(node.returns) == "tuple[str, str]":
                found.update(_second_of_pairs(node))  # (in Python, on the command line)
    return {inner for node in found for inner in ast.walk(node)}


def _second_of_pairs(function: ast.FunctionDef) -> list[ast.AST]:
    inside = list(ast.walk(function))
    pairs = [
        n.value for n in inside if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)
    ]
    named = {
        name.id for pair in pairs for name in ast.walk(pair.elts[1]) if isinstance(name, ast.Name)
    }
    spelled = [
        n.value
        for n in inside
        if isinstance(n, ast.Assign)
        and named.intersection(
            name.id for name in ast.walk(n.targets[0]) if isinstance(name, ast.Name)
        )
    ]
    return [*(pair.elts[1] for pair in pairs), *spelled]


def options_in(source: str) -> list[str]:
    """The options that strings name which Python prints too."""
    tree = ast.parse(source)
    hidden = for_the_command_line(tree)
    parts = {part for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    lists = [n for n in ast.walk(tree) if isinstance(n, ast.List)]
    # The words of another program's command; no sentence is an option alone.
    words = {n for one in lists for n in one.elts if OPTION.fullmatch(text_of(n) or "")}
    strings = [n for n in ast.walk(tree) if text_of(n) and n not in hidden | parts | words]
    said = [text_of(node).replace("python -m ", "") for node in strings]
    return [option for text in said for option in OPTION.findall(text)]


def hints_without_command(source: str) -> list[str]:
    """The hints that the command line prints as `in_options` turns them."""
    return [
        text_of(call.args[1])
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ERRORS
        and len(call.args) > 1
        and not any(keyword.arg == "command" for keyword in call.keywords)
    ]


def keywords_in(said: str) -> list[str]:
    """The keywords of the library that a text of the command line names."""
    spelled = "|".join(OPTIONS)
    return re.findall(rf"(?<![\w.-])(?:{spelled})=|\b(?:load|load_model|insert|plan)\(", said)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_message_of_the_library_names_an_option(path):
    assert options_in(path.read_text(encoding="utf-8")) == []


def test_no_hint_that_the_command_line_prints_names_a_keyword():
    """Training and trainers have no command."""
    files = [path for path in FILES if path.parent.name not in ("integrations", "training")]
    hints = [(path, h) for path in files for h in hints_without_command(path.read_text("utf-8"))]
    assert len(hints) > 100
    wrong = {f"{path}: {hint}" for path, hint in hints if keywords_in(in_options(hint))}
    assert wrong == set()


def test_the_checks_of_the_strings_can_fail():
    assert options_in("raise UsageError('no', 'say --init')") == ["--init"]
    assert options_in("_HINT = f'write it: -o {name}'") == ["-o"]
    assert options_in("raise UsageError('no', 'say init=', command='say --init')") == []
    assert options_in("def f() -> tuple[str, str]:\n    return 'say --init', 'say --init'") != []
    assert options_in("def f() -> tuple[str, str]:\n    return 'say init=', 'say --init'") == []
    assert options_in("'''A docstring with --init.'''\nx = 'a - b, -1, -n+3, x--y'") == []
    assert options_in("run([python, '-m', 'ruff', '--quiet'])") == []
    assert options_in("said = ['say --init', 'run python -m a.b -x']") == ["--init", "-x"]
    assert hints_without_command("RuleError('no', f'a{b}c')") == ["a{}c"]
    assert hints_without_command("RuleError('no', 'a', command='b')") == []
    assert keywords_in("give checkpoint=FILE to load_model(...)") == ["checkpoint=", "load_model("]


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ("say pretrained=True as well", "say --pretrained as well"),
        ("pass the file as checkpoint=, or not", "pass the file as --checkpoint, or not"),
        ("name one: attn='eca', or add `attn:`", "name one: --attn eca, or add `attn:`"),
        ("input_size=(3, 224, 224); so", "--input-size 3,224,224; so"),
        (
            "of several: input_size=((3, 64, 64), (1, 64, 32))",
            "of several: --input-size 3,64,64 --input-size 1,64,32",
        ),
        ('all weights: mode="full"', "all weights: --save full"),
        ("either example=torch.randn(2, (3, 4)) or not", "either --input FILE or not"),
        ("all of it, example=(x, timesteps)", "all of it, --input FILE"),
        ("pass it: model=base", "pass it: --base base"),
        ("build it with num_classes=10", "build it with num_classes=10"),
        (
            "x=checkpoint is no keyword, nor is my.init=3",
            "x=checkpoint is no keyword, nor is my.init=3",
        ),
    ],
)
def test_keywords_become_options(keywords, options):
    assert in_options(keywords) == options


def test_other_names_are_arguments_of_a_mechanism_where_it_is_about_one():
    said = "use tile=(7, None), or shared=3, split=False"
    spelled = "use --arg tile=[7,null], or --arg shared=3, --arg split=false"
    assert hint_of(MechanismError("no", said)) == spelled
    assert hint_of(ModelError("no", said)) == said
    assert hint_of(ModelError("no", "a=1", command="as it is: init=")) == "as it is: init="
    assert hint_of(SurgeonError("no")) is None


def test_every_option_that_a_keyword_becomes_is_one():
    from attnsurgeon.cli.app import app

    names = app.list_commands(None)  # type: ignore[arg-type]
    options = {
        option
        for name in names
        for found in [app.get_command(None, name)]  # type: ignore[arg-type]
        for parameter in [
            *found.params,
            *(p for c in getattr(found, "commands", {}).values() for p in c.params),
        ]
        for option in parameter.opts
    }
    assert {option.split()[0] for option in OPTIONS.values()} - options == set()
    known = [attnsurgeon.load, attnsurgeon.load_model, attnsurgeon.plan, attnsurgeon.insert]
    known += [attnsurgeon.Operation.save, attnsurgeon.measure, attnsurgeon.compare]
    known += [attnsurgeon.prune, attnsurgeon.heatmap, attnsurgeon.suggest]
    known += [attnsurgeon.sweep]
    taken = {name for function in known for name in inspect.signature(function).parameters}
    assert set(OPTIONS) - taken == set()


NET = [f"{TINY}net", "--input-size", "3,40,24"]


@pytest.mark.parametrize(
    ("argv", "call", "option", "keyword"),
    [
        (
            ["plan", f"{TINY}net", "--attn", "se", "--input-size", "5,40,24"],
            lambda net: attnsurgeon.plan(net, "se", input_size=(5, 40, 24)),
            "--input-size 3,H,W, or, of what is no image, the input itself: --input FILE\n",
            "input_size=(3, H, W), or, of what is no image, the input itself: example=...",
        ),
        (
            ["plan", *NET, "--attn", "se", "--arg", "reduction=64"],
            lambda net: attnsurgeon.plan(
                net, "se", attn_args={"reduction": 64}, input_size=(3, 40, 24)
            ),
            "--arg reduction=32",
            "is reduction=32",
        ),
        (
            ["plan", *NET, "--where", "stem"],
            lambda net: attnsurgeon.plan(net, where="stem", input_size=(3, 40, 24)),
            "--attn eca",
            "attn='eca'",
        ),
    ],
)  # fmt: skip
def test_one_mistake_is_answered_in_the_language_of_each_surface(argv, call, option, keyword):
    from tests.cli.tiny import net

    done = command.attnsurgeon(*argv)
    assert done.code != 0
    assert option in done.err
    assert keywords_in(done.err) == []
    with pytest.raises(SurgeonError) as raised:
        call(net())
    assert keyword in str(raised.value)
    assert OPTION.findall(str(raised.value)) == []
