"""A saved folder is a MODEL: it is looked at, operated again, thinned out, trained and saved."""

import json

import pytest
import torch
from safetensors.torch import load_file

import attnsurgeon as library
from tests.cli.command import TINY, attnsurgeon
from tests.saved.networks import assert_same, randomise

SIZE = (3, 40, 24)
NET = [f"{TINY}net", "--input-size", "3,40,24"]
BRIEF = ("--latency", "--repeats", "2", "--seconds", "0")
BRANCH = ["--where", "residual-branch"]
TRUST = "--trust-code"


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with eca at three sites."""
    path = tmp_path_factory.mktemp("once") / "net-eca"
    assert attnsurgeon("insert", *NET, "--attn", "eca", *BRANCH, "-o", path).code == 0
    return path


@pytest.fixture(scope="module")
def twice(once, tmp_path_factory):
    """The same, with se behind each of them."""
    path = tmp_path_factory.mktemp("twice") / "net-eca-se"
    done = attnsurgeon("insert", once, TRUST, "--attn", "se", *BRANCH, "-o", path)
    assert (done.code, done.err) == (0, "")
    return path


def load(path, **how):
    return library.load(path, trust=True, **how)


@pytest.mark.slow
def test_a_folder_operated_again_holds_both_operations(once, twice):
    record = json.loads((twice / "surgery.json").read_text())
    assert [made["attn"] for made in record["operations"]] == ["eca", "se"]
    assert record["operations"][1]["input_size"] == [3, 40, 24]  # of the first, not asked again
    before, after = load(once), load(twice)
    assert all(torch.equal(after.state_dict()[name], t) for name, t in before.state_dict().items())
    assert attnsurgeon("verify", twice, TRUST).code == 0


def test_what_a_folder_is_called_is_what_reports_say(once):
    record = attnsurgeon("plan", once, TRUST, "--attn", "se", *BRANCH, "--json").json()
    assert (record["model"], record["input_size"]) == (str(once), [3, 40, 24])
    # An se of 32 channels, reduction 16: 32 -> 2 -> 32, with biases; two of it, and one of 48.
    assert [site["path"] for site in record["sites"]] == [
        "blocks.0.attn",
        "blocks.1.attn",
        "late.attn",
    ]


@pytest.mark.slow
def test_every_command_of_a_model_takes_a_folder(once, twice):
    params = sum(p.numel() for p in load(twice).parameters())
    assert attnsurgeon("cost", twice, TRUST, "--json").json()["cost"]["before"]["params"] == params
    listed = attnsurgeon("inspect", once, TRUST, "--role", "residual-branch", "--json").json()
    assert [s["path"] for s in listed["sites"]] == ["blocks.0.attn", "blocks.1.attn", "late.attn"]
    rows = attnsurgeon("compare", once, TRUST, "--attn", "se,simam", *BRANCH, "--json")
    assert rows.code == 0
    latency = attnsurgeon("cost", once, TRUST, "--attn", "se", *BRANCH, *BRIEF, "--json")
    assert latency.json()["latency"] is not None


@pytest.mark.parametrize("name", ["plan", "insert", "cost"])
def test_code_that_a_folder_names_is_run_only_where_that_is_allowed(once, name, tmp_path):
    done = attnsurgeon(name, once, "--attn", "se", *BRANCH)
    assert (done.code, done.out) == (3, "")
    assert "code of its own" in done.err
    assert "--trust-code" in done.err


def test_options_that_a_folder_has_no_use_for_are_refused(once, tmp_path):
    for argv, says in [
        (["insert", once, TRUST, "--attn", "se", "--pretrained"], "--pretrained"),
        (["plan", once, TRUST, "--attn", "se", "--model-arg", "num_classes=3"], "--model-arg"),
        (["plan", *NET, TRUST, "--attn", "se"], "--trust-code is about a saved folder"),
    ]:
        done = attnsurgeon(*argv)
        assert (done.code, done.out) == (2, "")
        assert says in done.err


def test_a_name_of_two_meanings_is_refused(once, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_resnet").symlink_to(once)
    done = attnsurgeon("plan", "test_resnet", "--attn", "se")
    assert (done.code, done.out) == (2, "")
    assert "./test_resnet" in done.err
    assert "timm:test_resnet" in done.err
    assert attnsurgeon("plan", "./test_resnet", TRUST, "--attn", "se", *BRANCH).code == 0


@pytest.mark.slow
def test_all_attention_removed_is_the_original_bit_for_bit(twice, tmp_path):
    original = library.load(twice, trust=True)
    library.remove(original)
    done = attnsurgeon("remove", twice, TRUST, "-o", tmp_path / "base")
    assert (done.code, done.err) == (0, "")
    assert "6 of 6 modules removed: the original network" in done.out
    again = load(tmp_path / "base")
    assert_same(again, original)
    assert type(again.late) is type(original.late)
    kept = load_file(tmp_path / "base" / "model.safetensors")
    assert sorted(kept) == sorted(library.load_model(f"{TINY}net").state_dict())
    more = attnsurgeon(
        "insert", tmp_path / "base", TRUST, "--attn", "eca", *BRANCH, "-o", tmp_path / "new"
    )
    assert more.code == 0


@pytest.mark.slow
def test_a_part_is_removed_by_site_or_by_mechanism_or_both(twice, tmp_path):
    def left(*argv):
        done = attnsurgeon("remove", twice, TRUST, *argv, "-o", tmp_path / "o", "--overwrite",
                           "--json")  # fmt: skip
        assert (done.code, done.err) == (0, "")
        record = done.json()
        load(tmp_path / "o")
        return [(cut["attn"], cut["path"]) for cut in record["kept"]]

    sites = ["blocks.0.norm", "blocks.1.norm", "late.norm"]
    assert left("--attn", "se") == [("eca", site) for site in sites]
    assert left("--attn", "eca") == [("se", site) for site in sites]
    assert left("--site", "blocks.*") == [("eca", "late.norm"), ("se", "late.attn")]
    assert left("--site", "late.*", "--attn", "eca") == [
        ("eca", "blocks.0.norm"),
        ("eca", "blocks.1.norm"),
        ("se", "blocks.0.attn"),
        ("se", "blocks.1.attn"),
        ("se", "late.norm"),
    ]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--site", "lat.*"], "no inserted attention is called 'lat.*'"),
        (["--attn", "ec"], "has no ec in it"),
    ],
)
def test_what_is_not_there_cannot_be_removed(argv, says, once, tmp_path):
    done = attnsurgeon("remove", once, TRUST, *argv, "-o", tmp_path / "o")
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "did you mean" in done.err
    assert not (tmp_path / "o").exists()


def test_a_folder_without_attention_says_so(once, tmp_path):
    base = tmp_path / "base"
    assert attnsurgeon("remove", once, TRUST, "-o", base).code == 0
    for argv in (["report", base], ["verify", base, TRUST], ["remove", base, TRUST, "-o", "x"]):
        done = attnsurgeon(*argv)
        assert (done.code, done.out) == (2, "")
        assert "has no attention in it" in done.err


@pytest.mark.slow
def test_what_was_replaced_for_good_cannot_be_had_back(tmp_path):
    made = tmp_path / "sk"
    argv = ["--attn", "sk", "--where", "conv3x3", "--init", "paper", "--arg", "groups=1"]
    assert attnsurgeon("insert", *NET, *argv, "-o", made).code == 0
    done = attnsurgeon("remove", made, TRUST, "-o", tmp_path / "o")
    assert (done.code, done.out) == (3, "")
    assert "its weights are gone" in done.err


def test_a_trained_checkpoint_becomes_a_folder(once, tmp_path):
    trained = load(once)
    randomise(trained)
    torch.save({"state_dict": trained.state_dict(), "epoch": 3}, tmp_path / "last.pth")
    done = attnsurgeon(
        "save", once, TRUST, "--checkpoint", tmp_path / "last.pth", "-o", tmp_path / "new"
    )
    assert done.code == 0
    assert_same(load(tmp_path / "new"), trained)
    removed = attnsurgeon("remove", tmp_path / "new", TRUST, "-o", tmp_path / "base")
    assert "the base has been trained since the operation" in removed.err


@pytest.mark.slow
def test_a_folder_is_operated_again_with_the_weights_of_a_checkpoint(once, tmp_path):
    trained = load(once)
    randomise(trained)
    torch.save(trained.state_dict(), tmp_path / "last.pth")
    argv = [once, TRUST, "--attn", "simam", *BRANCH, "--checkpoint", tmp_path / "last.pth"]
    assert attnsurgeon("insert", *argv, "-o", tmp_path / "o").code == 0
    made = load(tmp_path / "o").state_dict()
    assert all(torch.equal(made[name], t) for name, t in trained.state_dict().items())


@pytest.mark.slow
def test_an_audit_counts_calls_and_fails_where_one_is_lost(once, monkeypatch):
    done = attnsurgeon("audit", once, TRUST)
    assert (done.code, done.err) == (0, "")
    assert "3 inserted modules" in done.out
    assert "every inserted module runs" in done.out
    record = attnsurgeon("audit", once, TRUST, "--json").json()
    assert record["calls"] == {"blocks.0.attn": 1, "blocks.1.attn": 1, "late.attn": 1}
    from attnsurgeon.saved import restore

    def broken(*args, **how):
        model = library.load_model(f"{TINY}net")
        model = library.insert(model, "eca", "residual-branch", input_size=SIZE).model
        model.late.attn = torch.nn.Identity()
        return model

    monkeypatch.setattr(restore, "load", broken)
    lost = attnsurgeon("audit", once, TRUST)
    assert lost.code == 1
    assert "late.attn" in lost.err


@pytest.mark.slow
def test_the_lines_that_are_printed_run(once, tmp_path, monkeypatch):
    for argv in (["remove", once, TRUST, "-o"], ["save", once, TRUST, "-o"]):
        done = attnsurgeon(*argv, tmp_path / argv[0])
        names = {}
        exec("\n".join(line.strip() for line in done.out.splitlines()[-2:]), names)
        assert names["model"].fc.out_features == 7


def test_saving_nowhere_and_options_without_their_folder_are_refused(once):
    for argv, says in [
        ([], "say where: -o DIR"),
        (["--push-to-hub", "a/b", "--checkpoint", "x.pth"], "--checkpoint needs the folder"),
        (["--push-to-hub", "a"], "no name of a repository"),
    ]:
        done = attnsurgeon("save", once, *argv)
        assert (done.code, done.out) == (2, "")
        assert says in done.err


def test_a_folder_goes_to_the_hub_as_it_is(once, monkeypatch, tmp_path):
    from attnsurgeon.saved import hub

    sent = []
    monkeypatch.setattr(hub, "push", lambda folder, name: sent.append((folder, name)))
    done = attnsurgeon("save", once, "--push-to-hub", "someone/net")
    assert (done.code, sent) == (0, [(once, "someone/net")])
    assert "uploaded to hf-hub:someone/net" in done.out
