"""`heatmap`, `gates` and `prune` on a saved folder, and what they refuse."""

import re

import pytest
import torch
from PIL import Image

import attnsurgeon as library
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]
SITES = ["blocks.0.norm", "blocks.1.norm", "late.norm"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a trained network, the same untrained, and three photographs."""
    made = tmp_path_factory.mktemp("looking")
    argv = ["--attn", "cbam", "--where", "residual-branch", "-o", made / "start"]
    done = attnsurgeon("insert", *NET, *argv)
    assert done.code == 0, done.err
    model = library.load(made / "start", trust=True)
    with torch.no_grad():
        model.get_parameter("late.attn.fc2.bias").uniform_(-3, 3)
        model.get_parameter("late.attn.norm.weight").fill_(1.0)
    library.save(model, made / "trained")
    (made / "photos").mkdir()
    for number in range(3):
        photo = Image.effect_noise((60, 50), 50 + 40 * number).convert("RGB")
        photo.save(made / "photos" / f"{number}.png")
    return made


def run(command: str, here, *argv: object):
    return attnsurgeon(command, here / "trained", "--trust-code", *argv)


# ------------------------------------------------------------------------------------- heatmap


def test_a_heat_map_is_written_and_said_what_was_assumed(here, tmp_path):
    photo = here / "photos" / "0.png"
    done = run("heatmap", here, "--image", photo, "-o", tmp_path / "a.png", "--json")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > 500
    record = done.json()
    assert [site["path"] for site in record["sites"]] == SITES
    assert [p["name"] for p in record["sites"][2]["pictures"]] == ["channel", "spatial"]
    assert record["sites"][0]["pictures"][1] == {
        "name": "spatial", "form": "map", "title": "spatial mask", "size": [20, 12],
        "low": 1, "high": 1,
    }  # fmt: skip
    assert "assumed: mean, std: those of ImageNet" in done.err
    assert record["preprocessing"]["size"] == [40, 24]


@pytest.mark.slow
def test_what_the_user_says_is_not_assumed(here, tmp_path):
    said = ["--mean", "0.5", "--std", "0.5,0.5,0.5", "--image-size", "32,32", "--site", "late"]
    argv = ["--image", here / "photos" / "0.png", "-o", tmp_path / "a.svg", *said]
    done = run("heatmap", here, *argv, "--json")
    assert done.code == 0, done.err
    assert [site["path"] for site in done.json()["sites"]] == ["late.norm"]
    assert done.json()["preprocessing"]["assumed"] == ["crop: 87.5% of the side"]
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_before_and_after_stand_side_by_side_in_a_page_that_loads_nothing(here, tmp_path):
    file = tmp_path / "a.html"
    argv = ["--image", here / "photos" / "0.png", "--against", here / "start", "-o", file]
    done = run("heatmap", here, *argv)
    assert done.code == 0, done.err
    assert f"{file} written: 3 sites" in done.out
    page = file.read_text()
    assert page.count("data:image/png;base64,") == 4  # the photograph, and each site
    assert "trained against start" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "spatial mask of cbam at late.norm: from" in page


@pytest.mark.slow
def test_an_existing_file_stays_unless_it_may_go(here, tmp_path):
    file = tmp_path / "a.png"
    file.write_text("mine")
    argv = ["--image", here / "photos" / "0.png", "--site", "late", "-o", file]
    done = run("heatmap", here, *argv)
    assert (done.code, file.read_text()) == (2, "mine")
    assert "--overwrite" in done.err
    assert run("heatmap", here, *argv, "--overwrite").code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--image", "nowhere.jpg"], 2, "nowhere.jpg does not exist"),
        (["--image", __file__], 2, "test_looking.py is no image that Pillow knows"),
        (["--image", "{photo}", "-o", "a.xyz"], 2, "ends in .xyz"),
        (["--image", "{photo}", "--site", "nothing"], 2, "no inserted attention is called"),
        (["--image", "{photo}", "--device", "cuda:99"], 2, "there is no device 'cuda:99' here"),
        (["--image", "{photo}", "--position", "2,2"], 2, "is not a position"),
        (["--image", "{photo}", "--mean", "a"], 2, "is not numbers with commas"),
        (["--image", "{photo}", "--mean", "0.1,0.2"], 2, "is not 1 or 3 numbers"),
        (["--image", "{photo}", "--against", "nowhere"], 3, "nowhere does not exist"),
    ],
)
def test_what_a_heat_map_refuses(here, tmp_path, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    given = [str(word).format(photo=here / "photos" / "0.png") for word in argv]
    done = run("heatmap", here, *given)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mechanism_without_a_map_says_what_is_drawn_instead(here, tmp_path):
    assert attnsurgeon("insert", *NET, "--attn", "se", "-o", tmp_path / "se").code == 0
    argv = ["--trust-code", "--image", here / "photos" / "0.png", "-o", tmp_path / "a.png"]
    done = attnsurgeon("heatmap", tmp_path / "se", *argv)
    assert done.code == 0
    assert "se weighs no positions, so there is no map; drawn instead: channel" in done.err


# --------------------------------------------------------------------------------------- gates


def test_gates_over_a_folder(here):
    record = run("gates", here, "--images", here / "photos", "--json").json()
    assert (record["images"], record["skipped"], record["still_below"]) == (3, [], 0.01)
    sites = record["sites"]
    assert [site["path"] for site in sites] == SITES
    assert [site["effect"]["change"] for site in sites[:2]] == [0, 0]
    assert sites[2]["effect"]["change"] > 0
    assert sites[0]["pictures"]["channel"]["still"] == 1
    assert sites[0]["pictures"]["channel"]["most"] == 2


@pytest.mark.slow
def test_gates_in_the_terminal_and_as_a_page(here, tmp_path):
    done = run("gates", here, "--images", here / "photos", "--limit", "2")
    assert done.code == 0
    assert "3 sites over 2 images" in done.out
    assert "output moves: |y without the site - y| / |y|" in done.out
    file = tmp_path / "gates.html"
    done = run("gates", here, "--images", here / "photos", "--html", file)
    assert (done.code, done.out) == (0, "")
    assert "late.norm" in file.read_text()


@pytest.mark.slow
def test_a_folder_with_other_files_is_refused_or_they_are_named(here, tmp_path):
    for photo in (here / "photos").iterdir():
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "labels.csv").write_text("a,b")
    done = run("gates", here, "--images", tmp_path)
    assert done.code == 2
    assert "of 4 files" in done.err
    assert "labels.csv is no image that Pillow knows" in done.err
    assert "hint: take them out, or --skip-bad" in done.err
    done = run("gates", here, "--images", tmp_path, "--skip-bad")
    assert done.code == 0
    assert "1 file left out, no images:" in done.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--images", "{empty}"], "there is no image in"),
        (["--images", "{photos}", "--limit", "0"], "'--limit'"),
        (["--images", "{photos}", "--overwrite"], "--overwrite needs the file to write"),
        ([], "Missing option '--images'"),
    ],
)
def test_what_gates_refuses(here, tmp_path, argv, words):
    given = [word.format(empty=tmp_path, photos=here / "photos") for word in argv]
    done = run("gates", here, *given)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


# --------------------------------------------------------------------------------------- prune


def test_what_does_nothing_is_pruned_and_the_folder_loads(here, tmp_path):
    out = tmp_path / "pruned"
    done = run("prune", here, "--images", here / "photos", "-o", out, "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert [site["path"] for site in record["removed"]] == SITES[:2]
    assert record["moved"]["change"] == 0
    before, after = record["cost"]["before"], record["cost"]["after"]
    assert before["params"] - after["params"] == 2 * 262  # 2 (32*2) + 2 + 32, and 2*49 + 2
    model = library.load(out, trust=True)
    assert [site.path for site in library.status(model, run=False).sites] == ["late.norm"]
    trained = library.load(here / "trained", trust=True)
    x = torch.randn(2, 3, 40, 24)
    assert torch.equal(model.eval()(x), trained.eval()(x))


@pytest.mark.slow
def test_a_dry_run_says_all_of_it_and_writes_nothing(here, tmp_path):
    argv = ["--images", here / "photos", "-o", tmp_path / "out", "--dry-run"]
    done = run("prune", here, *argv)
    assert done.code == 0
    assert "2 of 3 sites below 0.01" in done.out
    assert "all of them gone at once, the output moves by 0, at most by 0" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_to_prune_is_said_and_is_no_success(here, tmp_path):
    argv = ["--images", here / "photos", "--site", "late", "--below", "1e-9"]
    done = run("prune", here, *argv, "-o", tmp_path / "out")
    assert done.code == 1
    assert "nothing to prune: the least effect is" in done.err
    assert list(tmp_path.iterdir()) == []
    assert run("prune", here, *argv, "--dry-run").code == 0


@pytest.mark.slow
def test_where_everything_goes_the_original_network_is_left(here, tmp_path):
    argv = ["--trust-code", "--images", here / "photos", "-o", tmp_path / "out"]
    done = attnsurgeon("prune", here / "start", *argv)
    assert done.code == 0, done.err
    assert "no attention is left: this is the original network" in done.out
    assert "attention as it was inserted does that" in done.out
    assert list(library.load(tmp_path / "out", trust=True).modules())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "say where: -o DIR, or --dry-run"),
        (["--dry-run", "--overwrite"], "--overwrite needs the folder"),
        (["--dry-run", "--below", "-1"], "is no bound"),
    ],
)
def test_what_prune_refuses(here, argv, words):
    done = run("prune", here, "--images", here / "photos", *argv)
    assert done.code == 2
    assert words in done.err
