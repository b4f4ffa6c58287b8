"""`report --image`: what the attention does to a photograph, on the page of its folder."""

import pytest

from tests.cli.command import TINY, attnsurgeon
from tests.report.pages import png

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
NET = [f"{TINY}net", "--input-size", "3,40,24"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "net-cbam"
    done = attnsurgeon("insert", *NET, "--attn", "cbam", "--where", "residual-branch", "-o", path)
    assert done.code == 0
    return path


@pytest.fixture
def photograph(tmp_path):
    file = tmp_path / "grey.png"
    file.write_bytes(png())
    return file


@pytest.mark.slow
def test_a_photograph_and_what_each_site_does_to_it_are_on_the_page(folder, photograph, tmp_path):
    page = tmp_path / "net.html"
    done = attnsurgeon(
        "report", folder, "--html", page, "--image", photograph, "--trust-code", "--json"
    )
    assert (done.code, done.err) == (0, f"{page} written\n")
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 4  # the photograph, and three sites
    assert text.count('src="data:image/png;base64,') == 4
    for path in ("blocks.0.norm: cbam", "blocks.1.norm: cbam", "late.norm: cbam"):
        assert path in text
    assert '<h2 id="pictures-title">What the attention does</h2>' in text
    plain = attnsurgeon("report", folder, "--html", page, "--overwrite")
    assert plain.code == 0
    assert "<img " not in page.read_text(encoding="utf-8")


def test_options_that_load_the_network_need_a_photograph(folder, photograph, tmp_path):
    done = attnsurgeon("report", folder, "--trust-code")
    assert done.code == 2
    assert "--trust-code is about loading the network, which only --image does" in done.err
    done = attnsurgeon("report", folder, "--image", photograph)
    assert done.code == 2
    assert "--image needs the file to draw in: --html FILE" in done.err


def test_what_is_no_image_is_refused_and_nothing_is_written(folder, tmp_path):
    file, page = tmp_path / "note.txt", tmp_path / "net.html"
    file.write_text("no picture")
    done = attnsurgeon("report", folder, "--html", page, "--image", file, "--trust-code")
    assert done.code != 0
    assert "is no image" in done.err
    assert not page.exists()


def test_code_that_a_folder_names_is_run_for_a_photograph_only_where_that_is_allowed(
    folder, photograph, tmp_path
):
    page = tmp_path / "net.html"
    done = attnsurgeon("report", folder, "--html", page, "--image", photograph)
    assert done.code == 3
    assert "--trust-code" in done.err
    assert not page.exists()
