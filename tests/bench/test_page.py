"""The HTML page: what is in it, and that it works in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.made import made_result
from weebill.bench.charts import Axis, Bar, Series, bar_chart, log_ticks, nice_ticks, xy_chart
from weebill.bench.results import Result

pytest.importorskip("jinja2", reason="the page is made with jinja2")
from weebill.bench.page import render_page


class Balanced(HTMLParser):
    """Fails on a tag that is closed and was not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Remember it."""
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must be the last one that was opened."""
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else() -> None:
    page = render_page([made_result()])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')>\s]+)""", page)
    assert all(address.startswith("data:") for address in addresses)
    for title in ("relative to weebill", "Roofline", "Accuracy", "threads", "image size"):
        assert title in page
    assert page.count("made up &amp; &lt;escaped&gt;") == 5  # once an engine, not once a row
    assert "wrong" in page
    assert "litert: skipped: not installed" in page
    assert page.count("<svg") == 8 + 1 + 2 + 4 + 4


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        render_page([Result({})])


def test_ticks_cover_the_data() -> None:
    assert nice_ticks(0.0, 4.3) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert nice_ticks(2.0, 2.0)[0] <= 2.0 <= nice_ticks(2.0, 2.0)[-1]
    assert log_ticks(0.9, 30.0) == [1.0, 2.0, 5.0, 10.0, 20.0]
    assert log_ticks(1.0, 1e6) == [10.0**e for e in range(7)]


def test_charts_are_well_formed_and_escape_text() -> None:
    bars = bar_chart([Bar("<a>", 2.0, 1.5, 9.0, "s1")], "title & more")
    lines = xy_chart(
        [Series("s", ((1.0, 1.0), (2.0, 3.0)), "s0", ("<b>", "c"), show_names=True)],
        Axis("x", log=True),
        Axis("y"),
        "chart",
    )
    for chart in (bars, lines):
        ElementTree.fromstring(chart)
        for x in re.findall(r' (?:x|x1|x2|cx)="([\d.-]+)"', chart):
            assert 0 <= float(x) <= 640


PROBE = """
<script>
window.addEventListener("error", (event) => { document.title = "error: " + event.message; });
window.addEventListener("load", () => {
  const table = [...document.querySelectorAll("table")].pop();
  const column = [...table.querySelectorAll("th")].findIndex((h) => h.textContent === "median ms");
  const values = () => [...table.tBodies[0].rows].map((r) => r.cells[column].textContent);
  const button = table.querySelectorAll("th button")[column];
  const order = () => {
    const filled = values().filter((v) => v !== "");
    const empty = values().slice(filled.length).every((v) => v === "");
    const numbers = filled.map(Number);
    const up = numbers.every((v, i) => i === 0 || numbers[i - 1] <= v);
    const down = numbers.every((v, i) => i === 0 || numbers[i - 1] >= v);
    return [filled.length, empty, up, down].join(" ");
  };
  const results = [order()];
  button.click();
  results.push(order());
  button.click();
  results.push(order());
  const wide = document.documentElement.scrollWidth > window.innerWidth;
  const cut = [...document.querySelectorAll(".scroll")].some((e) => e.scrollWidth > e.clientWidth);
  document.body.dataset.probe = [...results, "overflow " + wide, document.title, cut].join("; ");
});
</script>
</head>"""


@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_chromium(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = tmp_path / "report.html"
    page.write_text(render_page([made_result()]).replace("</head>", PROBE, 1))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found is not None
    before, up, down, overflow, title, cut = found[1].split("; ")
    assert before == "32 false false false"
    assert (up, down) == ("32 true true false", "32 true false true")
    assert (overflow, title) == ("overflow false", "weebill bench")
    # On a screen all columns of all tables show; a telephone scrolls within the table.
    assert cut == ("false" if width == 1280 else "true")
