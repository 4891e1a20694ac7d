"""The built site: links lead somewhere, and everybody can read it. `.ci/run` builds it and names its folder in SITE."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / os.environ.get("SITE", "build/docs")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif("SITE" not in os.environ, reason="SITE must name the folder of a built site"),
]
# What Sphinx makes of itself, without a page of ours.
OF_SPHINX = {"genindex.html", "py-modindex.html", "search.html"}
TEXT = 4.5  # the contrast that WCAG 2.2 asks of text


@pytest.fixture(scope="module")
def pages() -> dict:
    """The pages by their place in the site, parsed."""
    bs4 = pytest.importorskip("bs4")
    assert (SITE / "index.html").exists(), f"build the site into {SITE} first: sphinx-build -W docs {SITE}"
    found = {}
    for path in sorted(SITE.rglob("*.html")):
        if "_static" not in path.parts:
            found[path.relative_to(SITE).as_posix()] = bs4.BeautifulSoup(path.read_text(), "html.parser")
    assert len(found) > 30
    return found


def test_every_link_and_picture_leads_somewhere_without_a_network(pages: dict) -> None:
    anchors = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for tag in page.find_all(["a", "img", "link", "script"]):
            target = tag.get("href", tag.get("src"))
            if target is None or target.startswith(("data:", "mailto:")):
                continue
            parts = urlsplit(target)
            if parts.scheme:
                # Only a reader's click may leave the site.
                if tag.name != "a":
                    broken.append(f"{name} loads {target}")
                continue
            path = (SITE / name).parent / unquote(parts.path) if parts.path else SITE / name
            if not path.is_file():
                broken.append(f"{name}: {target}")
                continue
            there = path.resolve().relative_to(SITE.resolve()).as_posix()
            # A hash alone is the top of the page, and other files have no anchors.
            if parts.fragment and there in anchors and unquote(parts.fragment) not in anchors[there]:
                broken.append(f"{name}: {target}")
    assert not broken, "\n".join(sorted(set(broken)))


def test_everybody_can_read_every_page(pages: dict) -> None:
    faults = []
    for name, page in pages.items():
        if name in OF_SPHINX:
            continue
        language = "zh-CN" if name == "zh.html" else "en"
        if page.html.get("lang") != language:
            faults.append(f"{name}: its language must be {language}; got {page.html.get('lang')}")
        if not page.title or not page.title.text.strip():
            faults.append(f"{name} has no title")
        # A phone lays the page out in its own width.
        if not page.find("meta", attrs={"name": "viewport"}):
            faults.append(f"{name} has no viewport")
        levels = [int(tag.name[1]) for tag in page.article.find_all(re.compile("^h[1-6]$"))]
        if levels.count(1) != 1 or levels[0] != 1:
            faults.append(f"{name} must begin with its one h1; its headings are {levels}")
        for before, after in itertools.pairwise(levels):
            if after > before + 1:
                faults.append(f"{name}: h{after} comes after h{before}")
        for image in page.find_all("img"):
            if not image.get("alt", "").strip() or image["alt"] == image.get("src"):
                faults.append(f"{name}: {image.get('src')} has no description")
        for table in page.article.find_all("table"):
            if not table.find("th"):
                faults.append(f"{name}: a table has no header: {table.text.strip()[:40]!r}")
            # The wrapper scrolls, so that the page does not.
            if not table.find_parent(class_="table-wrapper"):
                faults.append(f"{name}: a table does not scroll in itself: {table.text.strip()[:40]!r}")
        for link in page.article.find_all("a", href=True):
            if not link.text.strip() and not link.find("img"):
                faults.append(f"{name}: a link without words: {link['href']}")
    assert not faults, "\n".join(faults)


# Opens each page in a frame, as wide as a phone and as a desk, and says by how much it is too wide.
MEASURE = """<body><pre></pre><script>
async function measure(pages) {
  const found = [];
  for (const width of [390, 1280]) {
    for (const page of pages) {
      const frame = document.createElement("iframe");
      frame.style = `width: ${width}px; height: 800px; border: 0`;
      const loaded = new Promise(done => { frame.onload = done; });
      frame.src = page;
      document.body.append(frame);
      await loaded;
      const root = frame.contentDocument.documentElement;
      const content = frame.contentDocument.querySelector(".content");
      const excess = [root, content].map(part => part.scrollWidth - part.clientWidth);
      found.push([page, width, Math.max(...excess)]);
      frame.remove();
    }
  }
  document.querySelector("pre").textContent = JSON.stringify(found);
}
measure(PAGES);
</script></body>"""


def test_no_page_is_too_wide_or_has_an_error_in_a_browser(pages: dict, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    places = [(SITE / name).resolve().as_uri() for name in pages]
    (tmp_path / "measure.html").write_text(MEASURE.replace("PAGES", json.dumps(places)))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=300000", f"--user-data-dir={tmp_path / 'browser'}"]
    command = [browser, *options, "--dump-dom", (tmp_path / "measure.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(re.search(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)[1])
    assert len(found) == 2 * len(pages)
    faults = [f"{page} is {excess} px too wide at {width} px" for page, width, excess in found if excess > 0]
    faults += [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert not faults, "\n".join(faults)


def rgb(color: str) -> tuple[float, ...]:
    """The color of `#abc` or `#aabbcc`, each part from 0 to 1."""
    digits = color.lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return tuple(int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_the_standard_does() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    # The lightest gray that passes on white, and the next one.
    assert contrast("#767676", "#fff") > TEXT > contrast("#777777", "#fff")


def variables(theme: str) -> dict[str, str]:
    """The colors of the theme's style sheet, and of ours after it, by name."""
    sheets = [SITE / "_static/styles/furo.css", SITE / "_static/site.css"]
    css = "".join(sheet.read_text() for sheet in sheets)
    selectors = ["body"]
    if theme == "dark":
        selectors.append("body[data-theme=dark]")
    found = {}
    for selector in selectors:
        for block in re.findall(rf"(?:^|[{{}}\n]){re.escape(selector)}\s*{{([^}}]*)}}", css):
            found |= dict(re.findall(r"--(color-[\w-]+):\s*([^;]+)", block))
    return found


def resolved(found: dict[str, str], name: str) -> str:
    """The color behind a name, which may refer to another name."""
    value = found[name].strip()
    while match := re.fullmatch(r"var\(\s*--([\w-]+)\s*\)", value):
        value = found[match[1]].strip()
    return value


# Which colors of text stand on which colors of a page.
PAIRS = {
    "color-background-primary": [
        "color-content-foreground",
        "color-foreground-secondary",
        "color-foreground-muted",
        "color-link",
        "color-link--visited",
        "color-api-name",
        "color-api-paren",
        "color-api-keyword",
        "color-toc-title-text",
        "color-toc-item-text",
        "color-toc-item-text--active",
    ],
    "color-sidebar-background": [
        "color-sidebar-brand-text",
        "color-sidebar-caption-text",
        "color-sidebar-link-text",
        "color-sidebar-link-text--top-level",
        "color-sidebar-search-text",
    ],
    # Inline code and the headers of tables, also with a link inside.
    "color-inline-code-background": ["color-content-foreground", "color-link", "color-link--visited"],
    "color-table-header-background": ["color-content-foreground"],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(theme: str) -> None:
    found, faint = variables(theme), []
    for background, texts in PAIRS.items():
        for text in texts:
            colors = resolved(found, text), resolved(found, background)
            if contrast(*colors) < TEXT:
                faint.append(f"{text} {colors[0]} on {background} {colors[1]}: {contrast(*colors):.2f}")
    # Code has a palette for each theme.
    css = (SITE / "_static/pygments.css").read_text()
    start = r'body\[data-theme="dark"\] ' if theme == "dark" else ""
    rules = re.findall(rf"^{start}\.highlight( [^{{]*)?{{([^}}]*)}}", css, re.MULTILINE)
    background = next(re.search(r"background: (#\w+)", body)[1] for part, body in rules if not part.strip())
    palette = {match[1] for _, body in rules if (match := re.search(r"(?:^|[ ;])color: (#\w+)", body))}
    # Line numbers have a background of their own, and no page shows them.
    numbers = {match[1] for part, body in rules if "linenos" in part and (match := re.search(r" color: (#\w+)", body))}
    for color in palette - numbers:
        if contrast(color, background) < TEXT:
            faint.append(f"code {color} on {background}: {contrast(color, background):.2f}")
    assert len(palette) > 5
    assert not faint, "\n".join(faint)


def test_words_in_diagrams_have_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    import diagrams

    for theme, colors in diagrams.COLORS.items():
        page = resolved(variables(theme), "color-background-primary")
        for background in (page, *(colors[name] for name in ("box", "learned", "step"))):
            assert contrast(colors["ink"], background) >= TEXT, (theme, background)
