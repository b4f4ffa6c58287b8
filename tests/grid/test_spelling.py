"""`se(reduction=8)`: read as literals, refused as anything else; nothing is evaluated."""

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.grid.spelling import read_attn, split

READ = [
    ("se", "se", {}),
    (" se ", "se", {}),
    ("se()", "se", {}),
    ("se(reduction=8)", "se", {"reduction": 8}),
    ("se( reduction = 8 , bias = true )", "se", {"reduction": 8, "bias": True}),
    ("se(bias=False, mode=None)", "se", {"bias": False, "mode": None}),
    ("x(a=null, b=false)", "x", {"a": None, "b": False}),
    ("spa(pools=[1, 2, 4])", "spa", {"pools": [1, 2, 4]}),
    ("spa(pools=(1, 2))", "spa", {"pools": [1, 2]}),
    ("sc(rate=-0.5)", "sc", {"rate": -0.5}),
    ("x(mode=sum)", "x", {"mode": "sum"}),
    ("x(mode='a, (b')", "x", {"mode": "a, (b"}),
    ("my.py:Attn(groups=4)", "my.py:Attn", {"groups": 4}),
    ("my.py:Attn(c=$C, s='$stage')", "my.py:Attn", {"c": "$C", "s": "$stage"}),
    ("s*(reduction=4)", "s*", {"reduction": 4}),
]
REFUSED = [
    ("se(", "open"),
    ("se)", "open"),
    ("", "empty"),
    ("se(8)", "'8' has no name"),
    ("se(**{'a': 1})", "no argument"),
    ("se(reduction=8, reduction=9)", "cannot be read|given twice"),
    ("se(reduction=1 + 1)", "'1 \\+ 1' is no number"),
    ("se(reduction=__import__('os').getpid())", "is no number"),
    ("se(reduction=[x for x in y])", "is no number"),
    ("se(reduction={'a': 1})", "is no number"),
    ("se(reduction=1j)", "is no number"),
    ("se(reduction=(lambda: 1))", "is no number"),
    ("se(a=1) or f(b=2)", "open|more than one|has no name|cannot be read"),
    ("se(a=1)(b=2)", "open|more than one"),
    ("se(reduction=8", "open"),
    ("se(a=" + "[" * 300 + "]" * 300 + ")", "cannot be read|too long|is no number"),
    ("se(a='" + "x" * 20_000 + "')", "too long"),
]


@pytest.mark.parametrize(("text", "name", "args"), READ)
def test_a_mechanism_is_read_with_its_arguments(text, name, args):
    found = read_attn(text)
    assert (found.name, found.args) == (name, args)
    assert [type(v) for v in found.args.values()] == [type(v) for v in args.values()]
    again = read_attn(found.text)  # what rows print can be typed again
    assert (again.text, again.args) == (found.text, args)


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_anything_else_is_refused_in_a_sentence(text, why):
    with pytest.raises(UsageError, match=why) as refused:
        read_attn(text)
    assert len(str(refused.value)) < 400 or len(text) > 300


def test_nothing_is_run_that_stands_in_an_argument(tmp_path):
    file = tmp_path / "made"
    with pytest.raises(UsageError):
        read_attn(f"se(a=open({str(file)!r}, 'w'))")
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("se,eca", ["se", "eca"]),
        ("se(a=1,b=2), eca", ["se(a=1,b=2)", "eca"]),
        ("spa(pools=[1,2]),x(m='a)b,c')", ["spa(pools=[1,2])", "x(m='a)b,c')"]),
        ("se", ["se"]),
        ("se,", ["se", ""]),
    ],
)
def test_commas_inside_of_brackets_and_quotes_do_not_split(text, parts):
    assert split(text) == parts
