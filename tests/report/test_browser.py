"""The pages in a real browser: nothing is fetched, nothing is cut, everybody can read them.

Skipped where there is no Chromium; `apt-get install chromium` or `playwright install chromium`
gives one.
"""

from __future__ import annotations

import itertools
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from tests.report.pages import HOSTILE, PAGES

pytestmark = pytest.mark.slow

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
LOOKED_AT = (1280, "light"), (390, "dark")  # by axe, which takes its time
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic")  # fmt: skip
# What reaches over the edge of the window, but for what lies in something that scrolls.
CUT = """() => [...document.body.querySelectorAll('*')].filter((one) => {
  const box = one.getBoundingClientRect(), style = getComputedStyle(one);
  if (!box.width || one.closest('.sr, .skip') || style.visibility === 'hidden') return false;
  if (one.parentElement.closest('.wide, pre')) return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map((one) => one.outerHTML.slice(0, 100))"""
# Texts that their own box does not hold.
CLIPPED = """() => [...document.body.querySelectorAll('*')].filter((one) => {
  const style = getComputedStyle(one);
  return ['hidden', 'clip'].includes(style.overflowX) && one.scrollWidth > one.clientWidth + 1
    && !one.closest('.sr, .skip');
}).map((one) => one.outerHTML.slice(0, 100))"""
AXE = """() => axe.run().then((found) => found.violations.map(
  (one) => `${one.id}: ${one.nodes[0].html.slice(0, 120)}`))"""


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> the file of a page, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def file(name: str) -> Path:
        if name not in made:
            made[name] = folder / f"{name}.html"
            made[name].write_text(PAGES[name][0](folder), encoding="utf-8")
        return made[name]

    return file


class Tab:
    """A page in a browser, with what it complains of and what it asks for."""

    def __init__(self, browser, file, width=1280, scheme="light", **more):
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **more
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def outside(self):
        """What was asked for, but for the file itself and what lies in it."""
        return [url for url in self.asked[1:] if not url.startswith("data:")]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_at_every_width_and_in_light_and_dark(name, chromium, files):
    _, title, texts = PAGES[name]
    for width, scheme in itertools.product(WIDTHS, SCHEMES):
        with Tab(chromium, files(name), width, scheme, bypass_csp=True) as tab:
            assert (tab.said, tab.outside()) == ([], [])
            root = tab.page.locator("html")
            assert root.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
            assert tab.page.evaluate(CUT) == []
            assert tab.page.evaluate(CLIPPED) == []
            assert title in tab.page.title()
            shown = " ".join(tab.page.locator("body").inner_text().split())
            assert [text for text in texts if text.lower() not in shown.lower()] == []
            if (width, scheme) in LOOKED_AT and name != "many":  # 200 rows take it a minute
                tab.page.evaluate(_axe())
                assert tab.page.evaluate(AXE) == []


def test_what_the_checks_look_for_they_find(chromium, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><html><title>t</title><p style='width: 2000px'>far</p>"
        "<p style='color: #aaa; background: #fff'>pale</p>"
        "<p style='overflow: hidden; width: 9px; white-space: nowrap'>cut off</p>"
        "<img src='https://picture.invalid/x.png'><script>console.log('here')</script></html>"
    )
    with Tab(chromium, file) as tab:
        tab.page.wait_for_load_state()
        assert any("here" in said for said in tab.said)
        assert tab.outside() == ["https://picture.invalid/x.png"]
        assert len(tab.page.evaluate(CUT)) == 1
        assert len(tab.page.evaluate(CLIPPED)) == 1
        tab.page.evaluate(_axe())
        kinds = {found.partition(":")[0] for found in tab.page.evaluate(AXE)}
        assert {"color-contrast", "image-alt", "html-has-lang"} <= kinds


def test_the_policy_of_a_page_lets_nothing_in(chromium, files, tmp_path):
    whole = files("comparison").read_text(encoding="utf-8")
    more = "<script>document.title = 'ran'</script><img src='https://picture.invalid/x.png' alt=''>"
    broken = tmp_path / "broken.html"
    broken.write_text(whole.replace("</main>", f"{more}</main>"), encoding="utf-8")
    with Tab(chromium, broken) as tab:
        assert tab.page.title() == PAGES["comparison"][1]
        # The script that was put in is refused, and the picture; the page's own run.
        assert len([said for said in tab.said if "Content Security Policy" in said]) == 2
        assert tab.page.locator("#axes").is_visible()


@pytest.mark.parametrize("name", ["hostile", "hostile-comparison"])
def test_hostile_names_run_nothing_and_are_shown_as_they_are(name, chromium, files):
    with Tab(chromium, files(name), bypass_csp=True) as tab:  # so that nothing else protects it
        tab.page.wait_for_load_state()
        assert tab.said == []
        assert HOSTILE in tab.page.locator("h1").inner_text()
        assert tab.page.title() != "ran"
        assert tab.page.locator("img").count() == (1 if name == "hostile" else 0)


def test_a_column_sorts_by_click_and_by_key_and_says_so(chromium, files):
    with Tab(chromium, files("comparison")) as tab:
        page = tab.page
        head = page.locator("#table thead th", has_text=re.compile("^parameters$"))
        at = page.locator("#table thead th").all_inner_texts().index("parameters")

        def column():
            cells = page.locator(f"#table tbody tr > :nth-child({at + 1})").all_inner_texts()
            return [int(text.replace(",", "")) for text in cells]

        before = column()
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert column() == sorted(before) != before
        assert page.locator("#sorted").inner_text() == "Sorted by parameters, ascending."
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert column() == sorted(before, reverse=True)
        other = page.locator("#table thead th").first
        other.locator("button").focus()
        page.keyboard.press("Space")
        assert other.get_attribute("aria-sort") == "ascending"
        assert head.get_attribute("aria-sort") is None
        names = page.locator("#table tbody th").all_inner_texts()
        assert names.index("attention_9(reduction=9)") < names.index("attention_10(reduction=10)")
        assert tab.said == []


def test_a_mark_says_its_row_to_mouse_and_keyboard(chromium, files):
    with Tab(chromium, files("comparison")) as tab:
        page, told = tab.page, tab.page.locator("#told")
        mark = page.locator(".point").nth(7)
        mark.hover(force=True)
        assert told.inner_text().startswith("attention_")
        focusable = page.locator(".point[tabindex='0']")
        assert focusable.count() == 1  # one stop of the Tab key, not sixty
        focusable.focus()
        first = told.inner_text()
        assert page.locator("tr.told").count() == 1
        page.keyboard.press("ArrowRight")
        second = told.inner_text()
        assert second != first
        assert focusable.count() == 1
        page.keyboard.press("ArrowLeft")
        assert told.inner_text() == first
        row = page.locator("tr.told")
        assert row.locator("th").inner_text() in first
        assert row.locator("td").first.inner_text() in first


def test_the_axes_can_be_chosen_and_every_mark_stays_in_the_frame(chromium, files):
    with Tab(chromium, files("comparison"), 390) as tab:
        page = tab.page
        inside = """() => { const frame = document.querySelector('.frame').getBoundingClientRect();
          return [...document.querySelectorAll('.point')].every((one) => {
            const box = one.getBoundingClientRect();
            return box.left >= frame.left - 1 && box.right <= frame.right + 1
              && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1; }); }"""
        assert page.evaluate(inside)
        before = page.locator(".point").first.get_attribute("cx")
        stairs = page.locator("#stairs").inner_html()
        page.locator("#axis-x").select_option("macs")
        page.locator("#axis-y").select_option("latency")
        assert page.locator(".point").first.get_attribute("cx") != before
        assert page.locator("#stairs").inner_html() != stairs
        assert caption_of(page).startswith("60 of 60 rows: latency against MACs")
        assert page.locator("#label-x").inner_text() == "MACs, change in %"
        assert page.evaluate(inside)
        page.locator("#axis-y").select_option("step")  # which one row has not
        assert caption_of(page).startswith("59 of 60 rows: training step against MACs")
        assert page.locator(".point:visible").count() == 59
        assert page.locator(".point[tabindex='0']").count() == 1
        page.locator("#axis-x").select_option("latency")
        page.locator("#axis-y").select_option("params")
        assert page.locator(".point:visible").count() == 60
        assert page.locator("#stairs line").count() == stairs.count("<line")
        assert page.locator(".point").first.get_attribute("cx") == before


def test_without_scripts_the_drawing_and_the_table_are_there(chromium, files):
    with Tab(chromium, files("comparison"), java_script_enabled=False) as tab:
        assert tab.page.locator(".point").count() == 60
        assert tab.page.locator("#table tbody tr").count() == 60
        assert not tab.page.locator("#axes").is_visible()


@pytest.mark.parametrize(("name", "width"), [("resnet50", 700), ("comparison", 1000)])
def test_in_print_nothing_is_cut(name, width, chromium, files):
    """A comparison is printed across."""
    with Tab(chromium, files(name), width) as tab:
        tab.page.emulate_media(media="print")
        assert not tab.page.locator("nav").is_visible()
        assert tab.page.locator("html").evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
        reach = "(all) => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
        assert tab.page.locator("td, th, pre").evaluate_all(reach) <= width
        ground = "(one) => getComputedStyle(one).backgroundColor"
        assert tab.page.locator("body").evaluate(ground) == "rgb(255, 255, 255)"
    with Tab(chromium, files(name), width, "dark") as tab:
        tab.page.emulate_media(media="print", color_scheme="dark")
        assert tab.page.locator("body").evaluate(ground) == "rgb(255, 255, 255)"


def test_a_table_that_scrolls_shows_that_it_does_and_is_reached_by_key(chromium, files):
    with Tab(chromium, files("many"), 390, bypass_csp=True) as tab:
        scroll = tab.page.locator("#sites .wide")
        assert scroll.evaluate("(one) => one.scrollWidth > one.clientWidth + 50")
        assert "gradient" in scroll.evaluate("(one) => getComputedStyle(one).backgroundImage")
        scroll.focus()
        tab.page.keyboard.press("ArrowRight")
        tab.page.wait_for_function("document.querySelector('#sites .wide').scrollLeft > 0")


def test_a_page_is_small(files):
    assert files("resnet50").stat().st_size < 50_000
    assert files("comparison").stat().st_size < 150_000


def caption_of(page) -> str:
    return page.locator("#scatter-caption").inner_text()


def _axe() -> str:
    pytest.importorskip("axe_playwright_python")
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
