"""What a user can do wrong: one clear message, the documented exit code, nothing half-written."""

import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.command import TINY, attnsurgeon
from tests.cli.test_surfaces import keywords_in

NET = [f"{TINY}net", "--input-size", "3,40,24"]
HEAD = "version: 1\nname: mine\n"
RULE = "rules:\n  - id: one\n    match: {site: residual-branch}\n    attn: se\n"

EXPLODING = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

FILES = {
    "tabs.yaml": f"{HEAD}rules:\n\t- id: one\n",
    "exploding.yaml": EXPLODING,
    "unknown-key.yaml": f"{HEAD}rules:\n  - id: one\n    match: {{chanels: 3}}\n    attn: se\n",
    "wrong-type.yaml": f"{HEAD}rules: seventeen\n",
    "twice.yaml": f"{HEAD}{RULE}{RULE.removeprefix('rules:' + chr(10))}",
    "unknown-attn.yaml": f"{HEAD}{RULE.replace('se' + chr(10), 'ecaa' + chr(10))}",
    "not-utf8.yaml": b"name: \xff\xfe",
    "empty.yaml": "",
    "no-attn.yaml": f"{HEAD}{RULE.replace('    attn: se' + chr(10), '')}",
    "cbam.yaml": f"{HEAD}{RULE.replace('se' + chr(10), '{type: cbam, reduction: 8}' + chr(10))}",
    "starts.yaml": f"{HEAD}{RULE}    init: identity\n",
    "too-few.yaml": f"{HEAD}{RULE}    expect: {{count: 8}}\n",
    "look.yaml": f"{HEAD}rules:\n  - id: one\n    match: {{name: 're:(?!x)'}}\n    attn: se\n",
    "nothing.yaml": f"{HEAD}{RULE.replace('residual-branch', 'concat')}",
}

# argv after the command -> exit code, and what the message has to say.
INSERT = [
    (["resnet5O", "--attn", "se"], 3, r"resnet5O.*did you mean 'resnet50'"),
    (["", "--attn", "se"], 3, "name of the network is empty"),
    (["torchvision:resnet5", "--attn", "se"], 3, "did you mean"),
    (["nowhere.py:make", "--attn", "se"], 3, "nowhere.py"),
    ([f"{TINY}nett", "--attn", "se"], 3, r"nett.*did you mean 'net'"),
    ([*NET, "--model-arg", "num_clases=3", "--attn", "se"], 3, "did you mean 'num_classes'"),
    ([f"{TINY}Fixed", "--input-size", "3,41,24", "--attn", "se"], 3, "input must be 40x24"),
    ([f"{TINY}net", "--input-size", "5,40,24", "--attn", "se"], 3, "--input-size"),
    ([*NET, "--attn", "ecaa"], 4, r"ecaa.*did you mean 'eca'"),
    ([*NET, "--attn", "se", "--where", "bottlneck"], 4, "did you mean 'bottleneck'"),
    ([*NET, "--attn", "se", "--where", "missing.yaml"], 4, "no rule file missing.yaml"),
    ([*NET, "--attn", "se", "--arg", "reductoin=4"], 4, "did you mean 'reduction'"),
    ([*NET, "--attn", "se", "--arg", "reduction=many"], 4, "whole number"),
    ([*NET, "--attn", "se", "--arg", "reduction=64"], 4, "reduction"),
    ([*NET, "--attn", "se", "--where", "depthwise"], 4, r"matches nothing.*nearest"),
    ([f"{TINY}Flat", "--input-size", "3,40,24", "--attn", "se"], 4, "no other placement takes it"),
    ([*NET, "--rules", "tabs.yaml"], 4, r"tabs.yaml:4:1: .*tab"),
    ([*NET, "--rules", "exploding.yaml"], 4, "exploding.yaml:"),
    ([*NET, "--rules", "unknown-key.yaml"], 4, r"yaml:5:13: 'chanels'.*did you mean 'channels'"),
    ([*NET, "--rules", "wrong-type.yaml"], 4, r"wrong-type.yaml:3:8: 'rules' must be a list"),
    ([*NET, "--rules", "twice.yaml"], 4, r"twice.yaml:7:9: .*'one'"),
    ([*NET, "--rules", "unknown-attn.yaml"], 4, r"unknown-attn.yaml:6:.*did you mean 'eca'"),
    ([*NET, "--rules", "not-utf8.yaml"], 4, r"not-utf8.yaml:1:7: byte 0xff is not UTF-8"),
    ([*NET, "--rules", "empty.yaml"], 4, "the file is empty"),
    ([*NET, "--rules", "no-attn.yaml"], 4, "names no mechanism"),
    ([*NET, "--attn", "se", "--rules", "cbam.yaml"], 2, "for se, and rule 'one' .* cbam"),
    (
        [*NET, "--attn", "cbam", "--arg", "reduction=4", "--rules", "cbam.yaml"],
        2,
        "for cbam reduction=4, and rule 'one' .* cbam reduction=8",
    ),
    ([*NET, "--init", "paper", "--rules", "starts.yaml"], 2, "'paper', and rule .* 'identity'"),
    ([*NET, "--rules", "too-few.yaml"], 1, "matches 3 sites, not 8"),
    ([*NET, "--rules", "nothing.yaml"], 4, "matches nothing"),
    ([*NET, "--attn", "se", "--checkpoint", "missing.pth"], 3, "no checkpoint missing.pth"),
    ([*NET, "--attn", "se", "--checkpoint", "truncated.pth"], 3, "truncated.pth"),
    ([*NET, "--attn", "se", "--checkpoint", "foreign.pth"], 3, "none of the keys"),
    ([*NET, "--attn", "se", "--checkpoint", "text.pth"], 3, "text.pth"),
    ([*NET, "--attn", "se", "--checkpoint", "."], 3, "is a folder"),
    ([*NET, "--attn", "se", "--checkpoint", "classes.pth"], 3, "num_classes=13"),
    ([*NET, "--attn", "se", "-o", "file"], 2, "file is a file"),
    ([*NET, "--attn", "se", "-o", "full"], 2, "full exists"),
    ([*NET, "--attn", "se", "-o", "full", "--overwrite"], 2, "not overwritten"),
    ([*NET, "--attn", "se", "-o", "file/below"], 2, "cannot write"),
    ([*NET, "--attn", "se", "-o", ""], 2, "empty"),
    ([*NET, "--attn", "se", "-o", "a\udc80b"], 2, r"'a\\udc80b' is not UTF-8"),
    ([*NET, "--attn", "se", "-o", "~nosuchuser/x"], 2, "is not a path"),
    ([*NET, "--attn", "se", "-o", "a\0b"], 2, "null byte"),
    ([*NET, "--attn", "se", "--model-arg", "spec=3"], 2, "'spec' is not an argument.*MODEL"),
    ([*NET, "--attn", "se", "--model-arg", "checkpoint=x"], 2, "--checkpoint FILE"),
    (["~nosuchuser/x.py:f", "--attn", "se"], 3, "there is no file ~nosuchuser/x.py"),
    (["\0.py:f", "--attn", "se"], 3, r"there is no file \\x00\.py"),
    ([f"{TINY}net", "--attn", "se", "--input-size", "99999999999,1,1"], 3, "too large"),
    ([f"{TINY}net", "--attn", "se", "--input-size", f"{'9' * 5000},1,1"], 2, "not a size"),
    ([*NET, "--attn", "gam", "--arg", "kernel_size=1000001"], 4, "gam cannot be built with"),
    ([*NET, "--rules", "a\0b"], 2, "null byte"),
    ([*NET, "--rules", "look.yaml"], 4, r"look.yaml:5:19: .*cannot look around"),
    ([*NET, "--attn", "se", "--max-params", "2%"], 2, r"\+2%"),
    ([*NET, "--attn", "se", "--max-macs", "much"], 2, "is no limit"),
    # What click finds out by itself.
    ([*NET], 2, "say what to insert"),
    (["--attn", "se"], 2, "MODEL"),
    ([*NET, "--attn", "se", "--where", "stem", "--rules", "x.yaml"], 2, "give one of them"),
    ([*NET, "--rules", "x.yaml", "--arg", "reduction=4"], 2, "--attn NAME"),
    ([*NET, "--attn", "se", "--arg", "reduction"], 2, "not name=value"),
    ([*NET, "--attn", "se", "--arg", "reduction=4", "--arg", "reduction=8"], 2, "given twice"),
    ([f"{TINY}net", "--attn", "se", "--input-size", "224"], 2, "channels first: 3,224,224"),
    ([*NET, "--attn", "se", "--init", "papre"], 2, "'papre' is not one of"),
    ([*NET, "--attn", "se", "--pretrained", "--checkpoint", "x.pth"], 2, "give one"),
    ([*NET, "--attn", "se", "--unsafe-pickle"], 2, "there is none"),
    ([*NET, "--attn", "se", "--overwrite"], 2, "-o DIR"),
    ([*NET, "--attn", "se", "--batch", "3"], 2, "--batch is about --latency"),
    ([*NET, "--attn", "se", "--seconds", "3"], 2, "--seconds is about --latency"),
    ([*NET, "--attn", "se", "--max-memory", "+1%", "--repeats", "3"], 2, "--repeats is about"),
    ([*NET, "--attn", "se", "--max-memory", "+5M"], 2, r"unknown unit 'M'\n.*\+20MB"),
    ([*NET, "--attn", "se", "--latency", "--seconds", "-1"], 2, "is not in the range"),
    ([*NET, "--attn", "se", "--latency", "--repeats", "1"], 2, "is not in the range"),
    ([*NET, "--attn", "se", "--latency", "--device", "gpu9"], 2, "no device 'gpu9'"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with every kind of bad file, which is the working folder."""
    for name, content in FILES.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
    from tests.cli.tiny import net

    torch.save(net().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"layer.weight": torch.ones(3)}, tmp_path / "foreign.pth")
    torch.save(net(13).state_dict(), tmp_path / "classes.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() if file.is_file() else b""
        for file in sorted(folder.rglob("*"))
        if "__pycache__" not in file.parts
    }


@pytest.mark.parametrize(("argv", "code", "said"), INSERT, ids=lambda value: str(value)[-60:])
def test_a_mistake_is_one_message_an_exit_code_and_nothing_written(argv, code, said, here):
    before = everything(here)
    output = [] if "-o" in argv or "--overwrite" in argv else ["-o", "new/out"]
    done = attnsurgeon("insert", *argv, *output)
    assert done.code == code, done.err
    assert done.out == ""
    assert re.search(said, done.err, re.DOTALL), done.err
    assert "Traceback" not in done.err
    assert keywords_in(done.err) == []
    starts = [line for line in done.err.splitlines() if line.lower().startswith("error:")]
    assert len(starts) == 1
    assert everything(here) == before


def test_a_checkpoint_that_would_run_code_does_not_run_it(here):
    class Dangerous:
        def __reduce__(self):
            return Path.touch, (here / "it-ran",)

    (here / "evil.pkl").write_bytes(pickle.dumps({"state_dict": Dangerous()}))
    torch.save({"state_dict": Dangerous()}, here / "evil.pth")
    for name in ("evil.pkl", "evil.pth"):
        done = attnsurgeon("insert", *NET, "--attn", "se", "--checkpoint", name)
        assert done.code == 3
        assert f"{name} holds no weights by name: it has state_dict" in done.err
        assert not (here / "it-ran").exists()
    pickle.loads((here / "evil.pkl").read_bytes())
    assert (here / "it-ran").exists()  # it is as dangerous as it says


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(here):
    closed = here / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        (closed / "probe").touch()
    except OSError:
        pass
    else:
        closed.chmod(stat.S_IRWXU)
        pytest.skip("this user may write anywhere")
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", closed / "out")
    closed.chmod(stat.S_IRWXU)
    assert done.code == 2
    assert "cannot write" in done.err


def test_pretrained_weights_that_cannot_be_had_say_what_to_do(here, monkeypatch):
    # Every host name fails to resolve, as it does offline.
    import socket

    def offline(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    done = attnsurgeon("insert", "resnet18", "--attn", "se", "--pretrained")
    assert done.code == 3
    assert "--checkpoint" in done.err or "checkpoint=" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["verify", "nowhere"], 3, "does not exist"),
        (["verify", "full"], 3, "no surgery.json"),
        (["report", "file"], 3, "is a file"),
        (["verify", "full", "--base-arg", "a=1"], 2, "--base MODEL"),
        (["export", "full"], 2, "say which file to write"),
        (["export", "full", "-o", "full"], 2, "full is a folder"),
        (["export", "full", "-o", "none/x.pt2"], 2, "cannot write"),
        (["export", "full", "-o", "x.pt2", "--format", "onyx"], 2, "'onyx' is not one of"),
        (["export", "full", "-o", "x.onnx", "--format", "torch-export"], 2, "x.onnx is onnx"),
        (["export", "full", "-o", "x.pt2", "--format", "onnx"], 2, "call it x.onnx"),
        (["export", "full", "-o", "x.bin"], 2, "let it end in .onnx (onnx) or .pt (torchscript)"),
        (["export", "full", "-o", "x"], 2, "x ends in nothing"),
        (["compare", *NET, "--attn", "se,ecaa"], 4, "did you mean 'eca'"),
        (["compare", *NET, "--attn", "se", "--where", "sten"], 4, "did you mean 'stem'"),
        (["compare", *NET], 2, "--attn"),
        (["compare", *NET, "--attn", "se,gam", "--where", "cbam.yaml"], 2, "asks for se, and rule"),
        (["compare", *NET, "--attn", "cbam,gam", "--where", "cbam.yaml"], 2, "asks for gam"),
        (["plan", *NET, "--attn", "se", "--rules", "cbam.yaml"], 2, "its own mechanism, cbam"),
        (["cost", *NET, "--attn", "se", "--where", "cbam.yaml"], 2, "'one' names its own"),
        (["inspect", *NET, "--role", "residual"], 2, "residual"),
        (["inspect", *NET, "--where", "paper"], 4, "--attn"),
        (["inspect", "resnet5O"], 3, "did you mean 'resnet50'"),
        (["cost", "resnet5O"], 3, "did you mean 'resnet50'"),
        (["cost", *NET, "--arg", "reduction=4"], 2, "--attn NAME"),
        (["plan", *NET], 2, "say what to insert"),
        (["attn", "show", "ecaa"], 4, "did you mean 'eca'"),
        (["rules", "show", "bottlneck"], 4, "did you mean 'bottleneck'"),
        (["rules", "check", "unknown-key.yaml"], 4, "did you mean 'channels'"),
        (["rules", "check", "missing.yaml"], 4, "no rule file missing.yaml"),
        (["rules", "check"], 2, "FILES"),
        (["rules", "test", "tabs.yaml"], 4, "tab"),
        (["rules", "new", "Not Kebab"], 4, "kebab-case"),
        (["rules", "new", "x", "-o", "none/x.yaml"], 2, "cannot write"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_a_mistake_in_any_command_is_answered(argv, code, said, here):
    before = everything(here)
    done = attnsurgeon(*argv)
    assert done.code == code, done.err
    assert done.out == ""
    assert said in done.err
    assert "Traceback" not in done.err
    assert keywords_in(done.err) == []
    assert everything(here) == before


@pytest.mark.slow
def test_a_mistake_in_a_real_process_is_no_traceback(here):
    done = subprocess.run(
        [sys.executable, "-m", "attnsurgeon", "insert", "resnet5O", "--attn", "se"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert "hint: did you mean" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_of_load_model_is_told_apart_from_the_network_s_arguments():
    import inspect

    from attnsurgeon import load_model
    from attnsurgeon.cli.options import OWN
    from attnsurgeon.sites.analysis import sketch

    known = inspect.signature(load_model).parameters, inspect.signature(sketch).parameters
    names = {n for one in known for n, p in one.items() if p.kind is not p.VAR_KEYWORD}
    assert names == set(OWN)
