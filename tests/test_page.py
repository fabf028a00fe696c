"""The page in a real browser: asks nothing of the network, sorts, filters, plots, opens, by mouse and keys.

Needs Chromium and its driver (Debian: `apt install chromium chromium-driver`); without them all but the
colours is skipped. Where SNNBENCH_AXE names axe-core's axe.min.js (`npm pack axe-core`), its rules are
tried, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from snnbench.leaderboards.render import page
from tests.commands import ROOT
from tests.page_board import LITERATURE, ROWS, make_board, tables_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("SNNBENCH_AXE", "")
CSS = Path(__file__).resolve().parents[1] / "leaderboards" / "page.css.j2"

browser_needed = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and find_spec("selenium")),
    reason="no chromium, chromedriver or selenium here (Debian: apt install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """The page of a board with five rows of hd, one synthetic, and published results."""
    folder = tmp_path_factory.mktemp("page")
    html = page(tables_of(make_board(folder)), LITERATURE)
    (folder / "index.html").write_text(html, "utf-8")
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Any]:
    """A headless browser with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert CHROMIUM
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def hd(chromium, address) -> Iterator[Any]:
    """The browser with the page freshly loaded, tab hd; no test may leave an error in its console."""
    chromium.get("about:blank")
    resize(chromium, 1200, 900)
    chromium.get(f"{address}#hd")
    chromium.execute_script("localStorage.clear()")
    chromium.get_log("browser")
    chromium.refresh()
    yield chromium
    assert chromium.get_log("browser") == []


def resize(browser, width: int, height: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def one(browser, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def names(browser) -> list[str]:
    """Entries of the table that is seen, in order."""
    rows = browser.find_elements("css selector", "#hd table.verified > tbody > tr.row")
    return [row.find_element("css selector", ".entry button").text for row in rows if seen(row)]


def seen(element) -> bool:
    return element.is_displayed()


def points(browser) -> dict[str, tuple[float, float]]:
    """Name to place of every point that is seen."""
    found = browser.find_elements("css selector", "#hd .plot .point")
    places = {}
    for point in found:
        if point.get_attribute("display") != "none":
            x, y = re.findall(r"-?[\d.]+", point.get_attribute("transform"))
            places[point.get_attribute("data-name")] = (float(x), float(y))
    return places


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def eventually(browser, condition: Callable[[], Any]) -> Any:
    """What `condition` returns as soon as it is true; a failure after some seconds."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 10).until(lambda _: condition())


# ---------------------------------------------------------------- loading


@browser_needed
def test_page_loads_without_errors_and_asks_only_for_itself(chromium, address):
    chromium.get("about:blank")
    chromium.get_log("performance")
    chromium.get_log("browser")
    chromium.get(address)
    for tab in chromium.find_elements("css selector", "[role=tab]"):
        tab.click()
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert address in asked, "nothing was logged"
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert chromium.get_log("browser") == []


@browser_needed
def test_the_page_that_ships_loads_without_errors(chromium):
    chromium.get("about:blank")
    chromium.get_log("browser")
    chromium.get((ROOT / "leaderboards" / "index.html").as_uri())
    tabs = chromium.find_elements("css selector", "[role=tab]")
    assert len(tabs) > 4
    for tab in tabs:
        tab.click()
        for cost in filter(seen, chromium.find_elements("css selector", "label:has([type=radio])")):
            cost.click()
    assert chromium.get_log("browser") == []


@browser_needed
def test_policy_runs_no_other_script(chromium, address):
    chromium.get(address)
    chromium.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = true';"
        "document.body.append(s)"
    )
    assert chromium.execute_script("return window.ran") is None
    assert "Content Security Policy" in chromium.get_log("browser")[0]["message"]


@browser_needed
def test_without_scripts_everything_can_be_read(chromium, address):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(address)
        text = one(chromium, "body").text
        buttons = chromium.find_elements("css selector", "#theme, .copy, .tools, [role=tablist]")
        assert not any(map(seen, buttons))
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for expected in (*[name for name, _, _ in ROWS], "evil", "90.20", "Run it again", "Big net"):
        assert expected in text
    assert "snnbench bench hd ff-lif" in text


# ---------------------------------------------------------------- tabs


@browser_needed
def test_tabs_change_by_mouse_and_arrow_keys(hd):
    def shown() -> list[str]:
        panels = hd.find_elements("css selector", ".task")
        return [panel.get_attribute("id") for panel in panels if seen(panel)]

    assert shown() == ["hd"]
    one(hd, "#tab-digits-synthetic").click()
    assert shown() == ["digits-synthetic"]
    for key, expected in (("\ue014", "hd"), ("\ue014", "shd"), ("\ue014", "digits-synthetic")):
        press(hd, key)
        assert shown() == [expected]
        assert hd.switch_to.active_element.get_attribute("aria-controls") == expected
        assert hd.switch_to.active_element.get_attribute("aria-selected") == "true"
    assert hd.current_url.endswith("#digits-synthetic")


@browser_needed
def test_task_with_published_results_only_has_a_tab(hd):
    one(hd, "#tab-shd").click()
    assert "No verified rows yet" in one(hd, "#shd").text
    assert "Far net" in one(hd, "#shd .published").text
    assert len(hd.find_elements("css selector", "#shd .point.literature")) == 1


# ---------------------------------------------------------------- sorting and filters

COLUMNS = [
    *("place", "entry", "accuracy", "robustness", "seeds"),
    *("spikes", "parameters", "training", "epoch"),
]


@browser_needed
@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_sorts_both_ways(hd, column):
    head = one(hd, f"#hd table.verified thead th.{column}")
    ways = []
    for _ in range(2):
        head.find_element("css selector", "button").click()
        ways.append(head.get_attribute("aria-sort"))
        cells = hd.find_elements("css selector", f"#hd table.verified > tbody > tr.row > .{column}")
        values = [cell.get_attribute("data-value") for cell in cells]
        known = [value for value in values if value]
        assert values == [*known, *[""] * (len(values) - len(known))], "what has no figure is last"
        figures: list[Any] = known if column == "entry" else [float(v) for v in known]
        assert figures == sorted(figures, reverse=ways[-1] == "descending")
    assert sorted(ways) == ["ascending", "descending"]
    assert len(hd.find_elements("css selector", "#hd table.verified th[aria-sort]")) == 1


@browser_needed
def test_details_stay_with_their_row_when_sorted(hd):
    one(hd, "#hd table.verified thead th.accuracy button").click()
    assert names(hd) == ["once", "half", "close", "steady", "weak"]
    for body in hd.find_elements("css selector", "#hd table.verified > tbody"):
        button = body.find_element("css selector", ".entry button")
        details = body.find_element("css selector", "tr.details")
        assert details.get_attribute("id") == button.get_attribute("aria-controls")


@browser_needed
def test_filter_narrows_and_says_how_many(hd):
    count = one(hd, "#hd output")
    assert count.text == "5 rows"
    text = one(hd, "#hd [name=text]")
    text.send_keys("C")
    assert names(hd) == ["close", "once"]
    assert count.text == "2 of 5 rows"
    assert set(points(hd)) == {"close", "once"}
    text.send_keys("x")
    assert names(hd) == []
    assert one(hd, "#hd .nothing").text == "No row fits the filter."
    press(hd, "\ue003", "\ue003")
    assert count.text == "5 rows"
    from selenium.webdriver.support.select import Select

    Select(one(hd, "#hd [name=standing]")).select_by_value("ranked")
    assert names(hd) == ["close", "steady", "weak"]
    Select(one(hd, "#hd [name=standing]")).select_by_value("reproduced")
    assert count.text == "0 of 5 rows"


@browser_needed
def test_published_results_are_toggled_and_stand_apart(hd):
    section = one(hd, "#hd .published")
    assert not seen(section)
    assert "Big net (2024)" not in points(hd)
    one(hd, "#hd [name=published]").click()
    assert seen(section)
    assert "Old net (2020)" in points(hd)
    assert "test-picked" in section.text
    assert "second hand" in section.text
    rows = section.find_elements("css selector", "tbody")
    assert len(rows) == 3
    assert not section.find_elements("css selector", ".place"), "published results have no rank"
    assert not hd.find_elements("css selector", "#hd table.verified .known")
    one(hd, "#hd [name=published]").click()
    assert "Old net (2020)" not in points(hd)


# ---------------------------------------------------------------- plots


@browser_needed
def test_axes_of_choice_move_the_points(hd):
    spikes = points(hd)
    assert sorted(spikes, key=lambda name: spikes[name][0]) == [
        *("weak", "steady", "half", "once", "close"),
    ]
    assert sorted(spikes, key=lambda name: -spikes[name][1]) == [
        *("weak", "steady", "close", "half", "once"),
    ]
    one(hd, "#hd .axes-tools [name=logarithmic]").click()
    linear = points(hd)
    assert all(linear[name][1] == spikes[name][1] for name in spikes)
    assert linear["steady"][0] < spikes["steady"][0]
    one(hd, "#hd .axes-tools [value=training] + span").click()
    assert "weak" not in points(hd)
    assert one(hd, "#hd .undrawn").text == "No such figure: weak."
    assert "training time" in one(hd, "#hd .plot figcaption").text
    assert "training time" in (one(hd, "#hd svg.chart").get_attribute("aria-label") or "")
    one(hd, "#hd .axes-tools [value=parameters] + span").click()
    places = {name: x for name, (x, _) in points(hd).items()}
    assert len({x for name, x in places.items() if name != "close"}) == 1, "as many parameters"
    assert places["close"] > places["steady"], "twice as many"


@browser_needed
def test_points_stay_inside_and_names_apart(hd):
    for width in (1200, 700, 360):
        resize(hd, width, 900)
        hd.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 50))")
        box = one(hd, "#hd svg.chart").rect
        boxes, labels = [], []
        for part in hd.find_elements("css selector", "#hd .point .dot, #hd .point .name"):
            if seen(part):
                r = part.rect
                boxes.append((r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"]))
                if part.tag_name == "text":
                    labels.append(boxes[-1])
        assert len(boxes) >= 9, "points or names are missing"
        for left, top, right, bottom in boxes:
            assert left >= box["x"]
            assert right <= box["x"] + box["width"] + 1
            assert top >= box["y"] - 1
            assert bottom <= box["y"] + box["height"]
        for a, b in combinations(labels, 2):
            # a text's box is a little higher than its letters
            apart = a[0] >= b[2] or b[0] >= a[2] or a[1] + 3 >= b[3] or b[1] + 3 >= a[3]
            assert apart, (a, b)


@browser_needed
def test_point_tells_its_figures_and_leads_to_its_row(hd):
    point = one(hd, "#hd .point[data-name=steady]")
    tip = one(hd, "#hd .tip")
    assert not seen(tip)
    one(hd, "#hd .axes-tools [name=logarithmic]").click()
    press(hd, "\ue004", "\ue004")
    assert hd.switch_to.active_element == point, "Tab leads from point to point"
    assert tip.text.splitlines()[0] == "steady"
    assert "spikes per sample" in tip.text
    assert re.search(r"90\.20 % \[89\.\d\d, 90\.\d\d\]", point.get_attribute("aria-label"))
    press(hd, "\ue007")
    # following an address is not done at once
    row = eventually(hd, lambda: hd.find_elements("css selector", "#hd tr.row.here"))[0]
    assert row.find_element("css selector", ".entry button").text == "steady"
    assert seen(row.find_element("xpath", "following-sibling::tr"))


# ---------------------------------------------------------------- details


@browser_needed
def test_details_open_by_keyboard_and_show_the_evidence(hd):
    button = one(hd, "#hd tr.row .entry button")
    assert button.get_attribute("aria-expanded") == "false"
    hd.execute_script("arguments[0].focus()", button)
    press(hd, "\ue007")
    assert button.get_attribute("aria-expanded") == "true"
    details = hd.find_element("id", button.get_attribute("aria-controls"))
    assert seen(details)
    for part in (".matrix svg", ".curve.seed", ".curve.train", ".curve.mean", ".rerun pre"):
        assert seen(details.find_element("css selector", part)), part
    assert len(details.find_elements("css selector", ".small-plot")) == 4
    for words in (
        "snnbench bench hd ff-lif",
        "Most often mistaken",
        "Provenance",
        "c0ffee",
        "720 KiB",
    ):
        assert words in details.text
    press(hd, " ")
    assert not seen(details)


@browser_needed
def test_details_show_every_corruption_where_the_row_was_tested(hd):
    rows = hd.find_elements("css selector", "#hd table.verified > tbody > tr.row")
    cells = [one(row, ".robustness").text.split("\n") for row in rows]
    figures = dict(zip(names(hd), cells, strict=True))
    assert [len(figures[name]) for name in ("close", "steady", "once")] == [3, 2, 1]
    assert figures["close"][2] == "3 of 10 seeds"
    assert figures["weak"] == figures["half"] == ["–"]
    one(hd, "#hd table.verified thead th.robustness button").click()
    assert names(hd)[:3] == ["close", "steady", "once"], "most robust first, none last"
    for name, body in zip(
        names(hd), hd.find_elements("css selector", "#hd table.verified > tbody"), strict=True
    ):
        one(body, ".entry button").click()
        tables = body.find_elements("css selector", ".changed table")
        assert len(tables) == (name in ("close", "steady", "once"))
        for table in tables:
            lines = table.find_elements("css selector", ".changed tbody tr")
            assert [len(line.find_elements("css selector", "td")) for line in lines] == [7] * 7
            assert all(seen(line.find_element("css selector", ".curve.mean")) for line in lines)
            assert f"Robustness {figures[name][0]}" in one(body, ".changed h3").text


@browser_needed
def test_a_row_without_the_later_figures_shows_what_it_has(hd):
    weak = next(
        b for b in hd.find_elements("css selector", "#hd tr.row .entry button") if b.text == "weak"
    )
    weak.click()
    details = hd.find_element("id", weak.get_attribute("aria-controls"))
    assert len(details.find_elements("css selector", ".small-plot")) == 1
    assert seen(details.find_element("css selector", ".matrix svg"))
    assert "size in memory" not in details.text


@browser_needed
def test_matrix_tells_the_count_under_the_pointer(hd):
    from selenium.webdriver import ActionChains

    one(hd, "#hd tr.row .entry button").click()
    ground = one(hd, "#hd tr.details.open .matrix .ground")
    side = ground.rect["width"]
    # the centre of the cell of class 3
    offset = round(side * 3.5 / 20 - side / 2)
    ActionChains(hd).move_to_element_with_offset(ground, offset, offset).perform()
    told = one(hd, "#hd tr.details.open .pointed").text
    found = re.fullmatch(r"class 3 taken for 3: (\d+) of 200", told)
    assert found, told
    assert 150 < int(found[1]) <= 200


@browser_needed
def test_copy_says_that_it_copied(hd):
    hd.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    one(hd, "#hd tr.row .entry button").click()
    button = one(hd, "#hd tr.details.open .copy")
    command = one(hd, "#hd tr.details.open .rerun pre").text
    button.click()
    eventually(hd, lambda: button.text in ("Copied", "Selected"))
    copied = hd.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], arguments[0])"
    )
    assert " ".join(copied.split()) == " ".join(command.split())


# ---------------------------------------------------------------- looks


@browser_needed
def test_theme_is_chosen_and_remembered(hd):
    def ground() -> str:
        return hd.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = ground()
    button = one(hd, "#theme")
    assert button.text == "Theme: system"
    button.click()
    assert (button.text, ground()) == ("Theme: light", light)
    button.click()
    assert button.text == "Theme: dark"
    assert ground() != light
    hd.refresh()
    assert one(hd, "#theme").text == "Theme: dark"
    assert ground() != light


@browser_needed
def test_system_theme_is_followed(hd):
    light = hd.execute_script("return getComputedStyle(document.body).backgroundColor")
    try:
        for value, same in (("dark", False), ("light", True)):
            hd.execute_cdp_cmd(
                "Emulation.setEmulatedMedia",
                {"features": [{"name": "prefers-color-scheme", "value": value}]},
            )
            now = hd.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (now == light) == same
    finally:
        hd.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@browser_needed
@pytest.mark.parametrize("width", [320, 360, 768, 1100])
def test_narrow_screens_never_scroll_sideways(hd, width):
    resize(hd, width, 740)
    one(hd, "#hd [name=published]").click()
    for tab in ("digits-synthetic", "shd", "hd"):
        one(hd, f"#tab-{tab}").click()
        for button in hd.find_elements("css selector", f"[id='{tab}'] tr.row .entry button"):
            button.click()
        assert hd.execute_script("return document.documentElement.scrollWidth") <= width
    assert seen(one(hd, "#hd [name=sort]")) == (width < 1000)


@browser_needed
def test_rows_are_sorted_by_a_list_where_columns_are_hidden(hd):
    from selenium.webdriver.support.select import Select

    resize(hd, 360, 740)
    assert not seen(one(hd, "#hd th.epoch"))
    Select(one(hd, "#hd [name=sort]")).select_by_value("epoch")
    assert names(hd)[:2] == ["once", "half"]


@browser_needed
@pytest.mark.skipif(not AXE, reason="SNNBENCH_AXE does not name axe-core's axe.min.js")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(hd, theme):
    """axe-core's rules for WCAG 2.2 AA and best practice, with published results and details open."""
    one(hd, "#theme").click()
    if theme == "dark":
        one(hd, "#theme").click()
    one(hd, "#hd [name=published]").click()
    one(hd, "#hd tr.row .entry button").click()
    hd.execute_script(Path(AXE).read_text("utf-8"))
    result = hd.execute_async_script("axe.run().then(arguments[0])")
    assert len(result["passes"]) > 20
    assert [(v["id"], [n["html"][:300] for n in v["nodes"]]) for v in result["violations"]] == []


# ---------------------------------------------------------------- colours


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one_colour: str, other: str) -> float:
    """Contrast ratio, 1 to 21."""
    dark, light = sorted(map(_luminance, (one_colour, other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_aa_on_every_ground(theme):
    macro = re.search(rf"macro {theme}\(\) %}}(.*?){{% endmacro", CSS.read_text("utf-8"), re.DOTALL)
    assert macro
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", macro[1]))
    pairs = [
        *(
            (text, ground)
            for text in ("ink", "soft", "accent", "good", "bad")
            for ground in ("ground", "card")
        ),
        *((text, "accent-soft") for text in ("ink", "accent", "soft")),
        ("amber", "amber-soft"),
        ("ground", "ink"),  # the tip
    ]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
