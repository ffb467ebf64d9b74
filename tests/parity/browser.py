"""Debian's Chromium: a page with what it asked for, and what people with other eyes and hands need of it."""

import contextlib
import shutil
import time

# No update, no sync, no background traffic of Chromium's own; as root it needs --no-sandbox.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def until(page, happened):
    """Waits for it. Not wait_for_function: the page's policy lets nobody evaluate."""
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(50)


class Visit:
    """A page with all that it asked for and complained about."""

    def __init__(self, context):
        self.context, self.page = context, context.new_page()
        self.requests, self.answered, self.complaints = [], [], []
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("requestfinished", lambda one: self.answered.append(one.url))
        self.page.on("requestfailed", lambda one: self.answered.append(one.url))
        self.page.on("console", lambda one: self.complaints.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda one: self.complaints.append(f"thrown: {one}"))
        self.page.on("dialog", lambda one: (self.complaints.append(f"dialog: {one.message}"), one.dismiss()))

    def open(self, url):
        self.page.goto(url)
        self.page.wait_for_selector("#main:not([hidden])")
        return self.page

    def polls(self):
        return sum(one.endswith("/quantization/status") for one in self.requests)

    def stop_time(self):
        """From here on the page's clock stands, but for run_for()."""
        self.page.clock.install()
        self.page.clock.pause_at(time.time() + 60)

    def run_for(self, ms):
        """Moves the page's clock, a second at a time: an answer takes real time, and the next poll waits for it."""
        for _ in range(0, ms, 1000):
            self.page.clock.run_for(1000)
            until(self.page, lambda: len(self.requests) == len(self.answered))
            self.page.wait_for_timeout(20)


HIDE = """hidden => { Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
                      document.dispatchEvent(new Event("visibilitychange")); }"""


# Text against what is behind it, the worst on the page; and lines that carry meaning against the paper.
CONTRAST = """() => {
    const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return text.startsWith("color(srgb")
        ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
    const over = (top, low) => [0, 1, 2].map(i => top[i] * top[3] + low[i] * (1 - top[3])).concat(1);
    const light = colour => colour.slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05); };
    const behind = node => { const colours = [];
        for (let at = node; at; at = at.parentElement) colours.push(parse(getComputedStyle(at).backgroundColor));
        return colours.reverse().reduce((low, top) => over(top, low), [255, 255, 255, 1]); };
    const found = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!node.checkVisibility() || node.closest(".said")) continue;
        const style = getComputedStyle(node), svg = node instanceof SVGElement;
        const own = node.localName === "input" ||
            [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim());
        const paper = behind(svg ? node.closest("svg").parentElement : node);
        const area = svg && node.closest("svg").querySelector(".area");
        const papers = area ? [paper, over(parse(getComputedStyle(area).fill), paper)] : [paper];
        const ink = () => parse(svg ? style.fill : style.color);
        if (own && node.localName !== "script") for (const one of papers)
            found.push({least: 4.5, what: node.textContent.slice(0, 40), ratio: ratio(over(ink(), one), one)});
        if (svg && /^(is|was|step|cross|cursor)$/.test(node.getAttribute("class")))
            found.push({least: 3, what: node.getAttribute("class"), ratio: ratio(parse(style.stroke), paper)});
        if (svg && /^(mine|rest)$/.test(node.getAttribute("class")))
            found.push({least: 3, what: node.getAttribute("class"), ratio: ratio(parse(style.fill), paper)});
        if (/^(button|input)$/.test(node.localName) && !node.disabled)
            found.push({least: 3, what: "edge of " + node.id,
                        ratio: ratio(parse(style.borderColor), behind(node.parentElement))});
    }
    return found;
}"""


def assert_contrast(page, least=1):
    found = page.evaluate(CONTRAST)
    assert len(found) >= least
    assert not [one for one in found if one["ratio"] < one["least"]]


WIDER_THAN_THE_WINDOW = """() => [...document.querySelectorAll("body *")]
    .filter(one => one.checkVisibility() && !one.closest(".said"))
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""


def assert_no_sideways_scroll(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(WIDER_THAN_THE_WINDOW) == []
