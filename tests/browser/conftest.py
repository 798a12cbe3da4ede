"""A headless Chromium that meets nothing but the test's own server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import Select, WebDriverWait

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[Callable[[str], Chrome]]:
    """Starts a browser that asks for pages in the given language."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("chromium and chromedriver are not installed")
    opened: list[Chrome] = []

    def start(language: str) -> Chrome:
        options = ChromeOptions()
        options.binary_location = binary
        for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path / f'profile-{len(opened)}'}", f"--lang={language}"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        opened.append(Chrome(options=options, service=ChromeService(driver)))
        return opened[-1]

    yield start
    for browser in opened:
        browser.quit()


@pytest.fixture
def log_in(open_browser: Callable[[str], Chrome], live_server: Any) -> Callable[..., Site]:
    """Opens a browser and logs the user in through the form."""

    def enter(user: User, password: str, language: str = "en") -> Site:
        site = Site(open_browser(language), live_server.url)
        site.open("/admin/login/?next=/admin/")
        site.type("username", user.get_username())
        site.type("password", password)
        site.press("[type=submit]")
        return site

    return enter


class Site:
    """The site as a person in front of the browser uses it."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, path: str) -> None:
        self.browser.get(self.url + path)

    def type(self, name: str, text: str) -> None:
        field = self.browser.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def press(self, selector: str) -> None:
        """Click what leads to another page, and wait until that is there."""
        page = self.browser.find_element(By.TAG_NAME, "html")
        self.browser.find_element(By.CSS_SELECTOR, selector).click()
        WebDriverWait(self.browser, 20).until(staleness_of(page))
        WebDriverWait(self.browser, 20).until(
            lambda browser: browser.execute_script("return document.readyState") == "complete"
        )

    def act(self, action: str, *rows: Any) -> None:
        """Tick rows of a list and run an action on them."""
        for row in rows:
            self.browser.find_element(By.CSS_SELECTOR, f"input[name=_selected_action][value='{row.pk}']").click()
        Select(self.browser.find_element(By.NAME, "action")).select_by_value(action)
        self.press("button[name=index]")

    @property
    def messages(self) -> list[str]:
        return [message.text for message in self.browser.find_elements(By.CSS_SELECTOR, ".messagelist li")]

    @property
    def text(self) -> str:
        return self.browser.find_element(By.TAG_NAME, "body").text

    def overflows(self) -> bool:
        """Whether the page is wider than its window."""
        script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
        return bool(self.browser.execute_script(script))

    def photograph(self, path: Path) -> None:
        """A picture of the whole page."""
        script = "return Math.max(document.body.scrollHeight, document.documentElement.scrollHeight)"
        self.browser.set_window_size(1400, max(1000, min(4000, self.browser.execute_script(script) + 150)))
        assert self.browser.save_screenshot(str(path))
