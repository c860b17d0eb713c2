"""The page in a real browser, from a file: Debian's chromium and chromium-driver, without a window."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.html import to_html
from advdpnp.eval.report.leaderboard import tabulate_rows
from advdpnp.eval.store.reader import find_results

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
HOSTILE = "</script><img src=x onerror=alert(2)>"

pytestmark = pytest.mark.slow
Browser = Any


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    out = tmp_path_factory.mktemp("browser") / "results"
    cells = {("fog", 1): 0.8, ("fog", 2): 0.6}
    write_results(
        out, "best", {"clean": 0.8, "fgsm": 0.6, "pgd-20": 0.5}, n=40, method="trades", images=True, cells=cells
    )
    write_results(
        out, "second", {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.3}, n=40, method="pgd-at", images=True, cells=cells
    )
    write_results(out, "flagged", {"clean": 0.7, "fgsm": 0.1, "pgd-20": 0.6}, n=40, method="pgd-at")
    write_results(out, HOSTILE, {"clean": 0.75, "fgsm": 0.2, "pgd-20": 0.1}, n=40, method=HOSTILE)
    rows = make_rows(find_results([out]))
    path = out / "leaderboard.html"
    path.write_text(to_html(tabulate_rows(rows), rows, [out]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium with a chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly loaded; what it complained of or asked for from elsewhere fails the test."""
    chromium.get("about:blank")
    chromium.get_log("browser"), chromium.get_log("performance")
    chromium.get(page.as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.get(page.as_uri())
    yield chromium
    assert chromium.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    pages = [each["request"]["url"] for each in asked if each["type"] == "Document"]
    assert page.as_uri() in pages
    assert all(url.startswith("file:") or url == "about:blank" for url in pages)
    others = [each["request"]["url"] for each in asked if each["type"] != "Document"]
    assert [url for url in others if not url.startswith("data:")] == []


def names(browser: Browser) -> list[str]:
    """Models of the first table as they are seen, from top to bottom."""
    found = browser.find_elements("css selector", ".board tbody[data-m] .more")
    return [element.text for element in found if element.is_displayed()]


def click(browser: Browser, selector: str) -> None:
    browser.execute_script("arguments[0].click()", browser.find_element("css selector", selector))


def choose(browser: Browser, selector: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", selector)).select_by_visible_text(text)


def test_names_are_shown_as_they_are(browser: Browser) -> None:
    assert names(browser) == ["best", "second", HOSTILE, "flagged"]
    assert browser.find_elements("css selector", "img[src='x']") == []


def test_a_click_on_a_head_sorts_and_says_so(browser: Browser) -> None:
    heads = browser.find_elements("css selector", ".board thead th")
    clean = next(head for head in heads if head.text == "clean")
    clean.find_element("css selector", "button").click()
    assert names(browser) == ["second", "best", HOSTILE, "flagged"]
    assert clean.get_attribute("aria-sort") == "descending"
    assert len(browser.find_elements("css selector", ".board th[aria-sort]")) == 1
    clean.find_element("css selector", "button").click()
    assert names(browser) == ["flagged", HOSTILE, "best", "second"]
    assert clean.get_attribute("aria-sort") == "ascending"


def test_heads_are_reached_and_pressed_by_keyboard(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    button = browser.find_element("css selector", ".board thead th button")
    button.send_keys(Keys.ENTER)
    assert names(browser) == [HOSTILE, "best", "flagged", "second"]


def test_the_filter_holds_for_tables_charts_and_pictures(browser: Browser) -> None:
    def marks() -> int:
        return len(browser.find_elements("css selector", "#tradeoff svg .model"))

    assert marks() == 4
    browser.find_element("id", "search").send_keys("pgd-at")
    assert names(browser) == ["second", "flagged"]
    assert browser.find_element("id", "count").text == "2 of 4"
    assert marks() == 2
    click(browser, "#unflagged")
    assert names(browser) == ["second"]
    shown = [each.text for each in browser.find_elements("css selector", "#examples .caption") if each.is_displayed()]
    assert [text.split()[0] for text in shown] == ["second"]
    browser.find_element("id", "search").send_keys(" nothing")
    assert names(browser) == []
    assert browser.find_element("css selector", ".board .nobody").is_displayed()
    click(browser, ".board .nobody button")
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(names(browser)) == 4
    choose(browser, "#method", "trades")
    assert names(browser) == ["best"]


def test_a_row_opens_to_flags_and_provenance(browser: Browser) -> None:
    row = browser.find_element("css selector", ".board .detail")
    assert not row.is_displayed()
    click(browser, ".board .more")
    assert row.is_displayed()
    assert "SHA-256" in row.text
    assert browser.find_element("css selector", ".board .more").get_attribute("aria-expanded") == "true"
    click(browser, ".board button.flag")
    opened = [each.text for each in browser.find_elements("css selector", ".board .detail") if each.is_displayed()]
    assert any("Remedy: use the number of the weaker attack" in text for text in opened)


def test_the_address_of_a_filtered_and_sorted_page_shows_the_same_again(browser: Browser, page: Path) -> None:
    browser.find_element("id", "search").send_keys("pgd-at")
    click(browser, "#bounds")
    heads = browser.find_elements("css selector", ".board thead th")
    next(head for head in heads if head.text == "clean").find_element("css selector", "button").click()
    heads[0].find_element("css selector", "button").click()
    seen, address = names(browser), browser.current_url
    assert seen == ["flagged", "second"]
    assert "search=pgd-at" in address
    browser.get("about:blank")
    browser.get(address)
    assert names(browser) == seen
    assert browser.find_element("css selector", ".board th[aria-sort]").text.startswith("Model")
    assert not browser.find_element("id", "bounds").is_selected()
    assert browser.find_element("id", "count").text == "2 of 4"
    click(browser, "#filter button[type=reset]")
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert "search" not in browser.current_url
    browser.execute_script("location.hash = 'sort=0.99.up&sort=nonsense&method=none&search=best'")  # a stranger's link
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert names(browser) == ["best"]
    browser.execute_script("location.hash = 'tradeoff'")
    assert names(browser) == ["best"]


def test_names_at_the_ends_of_curves_are_told_apart(
    browser: Browser, tmp_path: Path, write_results: Callable[..., None]
) -> None:
    for seed in range(3):
        for eps in ("2/255", "4/255", "8/255"):
            shares = {"clean": 0.9, "fgsm": 0.3 + 0.1 * seed}
            write_results(tmp_path, f"cifar10-resnet18-adv-dpnp-s{seed}", shares, n=20, eps=eps)
    rows = make_rows(find_results([tmp_path]))
    path = tmp_path / "curves.html"
    path.write_text(to_html(tabulate_rows(rows), rows), encoding="utf-8")
    browser.get(path.as_uri())
    ends = [each.text for each in browser.find_elements("css selector", "#radius .end")]
    assert [text.split()[0][-3:] for text in ends] == ["-s0", "-s1", "-s2"]


def test_no_table_runs_out_of_its_card(browser: Browser, tmp_path: Path, write_results: Callable[..., None]) -> None:
    attacks = ("fgsm", "pgd-20", "pgd-40", "cw", "apgd-ce", "apgd-t", "square", "autoattack")
    for method in ("adv-dpnp", "pgd-at"):
        for seed in range(2):
            shares = {"clean": 0.9} | dict.fromkeys(attacks, 0.5 - 0.1 * seed - 0.1 * (method == "pgd-at"))
            write_results(tmp_path, f"{method}-s{seed}", shares, n=20, method=method, recipe=method, training_seed=seed)
    rows = make_rows(find_results([tmp_path]))
    path = tmp_path / "seeds.html"
    path.write_text(to_html(tabulate_rows(rows), rows), encoding="utf-8")
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    wide = "return [...document.querySelectorAll('#seeds .scroll')].map((each) => each.scrollWidth - each.clientWidth)"
    assert browser.execute_script(wide) == [0, 0]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_change_places_and_are_remembered(browser: Browser) -> None:
    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    media = "Emulation.setEmulatedMedia"
    browser.execute_cdp_cmd(media, {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    light = paper()
    browser.execute_cdp_cmd(media, {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = paper()
    assert light != dark
    click(browser, "#theme")
    assert paper() == light
    browser.refresh()
    assert paper() == light
    click(browser, "#theme")
    assert paper() == dark
    browser.execute_cdp_cmd(media, {"features": []})


def test_another_panel_takes_the_place_of_the_first(browser: Browser) -> None:
    def shown() -> list[str]:
        captions = browser.find_elements("css selector", "#classes table caption")
        panels = [caption.find_element("xpath", "ancestor::*[@data-panel]") for caption in captions]
        return [c.get_attribute("textContent") for c, p in zip(captions, panels, strict=True) if p.is_displayed()]

    assert shown() == ["Accuracy per class in percent, worst case"]
    choose(browser, "#classes [data-choice]", "fgsm")
    assert shown() == ["Accuracy per class in percent, fgsm"]


def test_a_choice_of_data_leaves_out_the_others(
    browser: Browser, tmp_path: Path, write_results: Callable[..., None]
) -> None:
    write_results(tmp_path, "one", {"clean": 0.8, "fgsm": 0.6}, n=20, dataset="digits")
    write_results(tmp_path, "two", {"clean": 0.8, "fgsm": 0.6}, n=20, dataset="toy")
    rows = make_rows(find_results([tmp_path]))
    path = tmp_path / "both.html"
    path.write_text(to_html(tabulate_rows(rows), rows), encoding="utf-8")
    browser.get(path.as_uri())
    assert names(browser) == ["one", "two"]
    choose(browser, "#dataset", "toy")
    assert names(browser) == ["two"]
    plots = browser.find_elements("css selector", ".plot")
    assert [plot.is_displayed() for plot in plots] == [False, True, False, True]


def test_nothing_is_wider_than_a_phone(browser: Browser) -> None:
    size = {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    browser.execute_script("document.querySelectorAll('.more').forEach((button) => button.click())")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375
    plots = browser.find_elements("css selector", ".plot svg")
    assert plots
    assert all(0 < plot.size["width"] <= 375 for plot in plots)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_worst_case_is_on_the_screen_of_a_phone(browser: Browser) -> None:
    size = {"width": 400, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    for cell in browser.find_elements("css selector", ".board .line .key"):
        assert 0 <= cell.rect["x"] < cell.rect["x"] + cell.rect["width"] <= 400
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_gets_tables_without_controls(browser: Browser) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = [browser.find_element("css selector", selector) for selector in (".bar", ".filter", ".tools")]
    assert not any(element.is_displayed() for element in hidden)
    assert len(names(browser)) == 4
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_everything_is_there(chromium: Browser, page: Path) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(page.as_uri())
        assert len(names(chromium)) == 4
        assert all(each.is_displayed() for each in chromium.find_elements("css selector", ".detail"))
        assert not chromium.find_element("id", "filter").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    """A page of 121 models, of which the last one is the weakest."""
    out = tmp_path_factory.mktemp("long") / "results"
    for number in range(120):
        write_results(out, f"net-{number:03d}", {"clean": 0.9, "fgsm": 0.5}, n=10)
    write_results(out, "weakest", {"clean": 0.9, "fgsm": 0.1}, n=10)
    rows = make_rows(find_results([out]))
    path = out / "leaderboard.html"
    path.write_text(to_html(tabulate_rows(rows), rows, [out]), encoding="utf-8")
    return path


def test_rows_beyond_the_first_hundred_come_when_they_are_asked_for(chromium: Browser, long_page: Path) -> None:
    buttons = "[...document.querySelectorAll('.board tbody[data-m] .more')]"

    def shown() -> list[str]:
        """As ``names``, in one call."""
        script = f"return {buttons}.filter((each) => each.offsetParent).map((each) => each.innerText.trim())"
        return list(chromium.execute_script(script))

    def load() -> None:
        chromium.get("about:blank")
        chromium.get(long_page.as_uri())
        assert len(found := shown()) == 100
        assert "weakest" not in found

    load()
    assert chromium.find_element("css selector", "[data-later]").text == "Show 21 more"
    click(chromium, "[data-later]")
    assert len(found := shown()) == 121
    assert found[-1] == "weakest"
    assert chromium.find_elements("css selector", "[data-later]") == []
    chromium.execute_script(f"{buttons}.at(-1).click()")
    detail = chromium.execute_script(f"return {buttons}.at(-1).getAttribute('aria-controls')")
    assert chromium.find_element("id", detail).is_displayed()

    load()
    chromium.find_element("id", "search").send_keys("weakest")
    assert shown() == ["weakest"]

    load()
    heads = chromium.find_elements("css selector", ".board thead th")
    fgsm = next(head for head in heads if head.text.lower() == "fgsm").find_element("css selector", "button")
    for _ in range(2):  # the best first, then the worst
        chromium.execute_script("arguments[0].click()", fgsm)
    assert len(found := shown()) == 121
    assert found[0] == "weakest"
