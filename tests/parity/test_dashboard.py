"""The dashboard in Debian's Chromium: what it shows is what the server said, as text, and it goes nowhere else.

BITMILL_SERVER_URL (and BITMILL_SERVER_TOKEN) names a running `bitmill serve`: what needs no broken server is then asked
of that one, everything else of the stand-in.
"""

import json
import os
import re
import shutil
import time
import urllib.request
from decimal import ROUND_HALF_UP, Decimal

import pytest

from browser import HIDE, Visit, assert_contrast, assert_no_sideways_scroll, chromium, until
from dashboard_server import API, StandIn, busy_quarter, cache_of, policy_of, status_of
from dashboard_server import job, model, shelved, switch
from service import Service

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
REAL = os.environ.get("BITMILL_SERVER_URL", "").rstrip("/")
REAL = REAL and REAL + "/"
LOGIN = f"""if (location.href.startsWith({json.dumps(REAL)}))
    sessionStorage.setItem("bitmill-token", {json.dumps(os.environ.get("BITMILL_SERVER_TOKEN", ""))});"""

HOSTILE = [
    "<img src=x onerror='window.hit=1'>",
    '"><script>window.hit=1</script>',
    "</bdi></td></table><svg onload=window.hit=1>",
    "\u202etxet\u202c &amp; &lt;b&gt; \u0000\u0007",
    "javascript:window.hit=1//" + "W" * 2000,
    "{{constructor.constructor('window.hit=1')()}}",
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def stand_in():
    server = StandIn(*busy_quarter(int(time.time() * 1000)))
    yield server
    server.stop()


@pytest.fixture
def url(request):
    return REAL if REAL else request.getfixturevalue("stand_in").url


@pytest.fixture
def visit(browser):
    """visit(**options of the context) -> Visit. Closed at the end of the test."""
    contexts = []

    def make(**options):
        context = browser.new_context(**{"viewport": DESKTOP, "timezone_id": "UTC", "locale": "en-GB", **options})
        contexts.append(context)
        if REAL:
            context.add_init_script(LOGIN)
        return Visit(context)

    yield make
    for context in contexts:
        context.close()


def text(page, selector):
    return page.locator(selector).inner_text().strip()


def fixed(value):
    return "–" if value is None else str(Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_UP))


def percent(share):
    return fixed(100 * share) + " %"


def latency(value):
    return fixed(value or None)


def captions(page):
    """Title -> what is read there, for each figure."""
    pairs = [one.split("\n") for one in page.locator("#curves figcaption").all_inner_texts()]
    return {title.strip(): re.sub(r"\s+", " ", value).strip() for title, value in pairs}


# ---- of any server ----


def test_nothing_leaves_the_origin_and_nothing_is_complained_about(visit, url):
    there = visit()
    page = there.open(url)
    page.mouse.move(400, 700)
    page.locator("#curves").press("ArrowLeft") if page.locator("#curves").is_visible() else None
    page.set_viewport_size(PHONE)
    until(page, lambda: there.polls() > 2)
    assert all(one.startswith((url, "data:")) for one in there.requests), there.requests
    assert not there.complaints


def test_the_policy_admits_this_page_and_nothing_else(url):
    with urllib.request.urlopen(url) as answer:
        policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
    rules = {one.split()[0]: one.split()[1:] for one in policy.split(";") if one.strip()}
    assert rules["default-src"] == ["'none'"] and rules["connect-src"] == ["'self'"]
    for name in ("script-src", "style-src"):
        assert f"{name} {' '.join(rules[name])};" in policy_of(page) and len(rules[name]) == 1
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert rules[name] == ["'none'"]
    # What a tag or an attribute would bring in.
    assert not re.search(r"""(src|href)=(?!["']?data:)|@import|url\(|<iframe|<form[^>]*action""", page)
    assert not re.search(r"\son\w+=|\sstyle=", page), "these the policy refuses"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page)


def freeze(page):
    """The page is told the same again and again; path -> what."""
    told = {}

    def answer(route):
        name = route.request.url.rsplit("/", 1)[1]
        if name not in told:
            told[name] = route.fetch().json()
        route.fulfill(json=told[name])

    page.route("**" + API + "*", answer)
    return told


def test_the_values_are_those_of_the_json(visit, url):
    there = visit()
    told = freeze(there.page)
    page = there.open(url)
    status, cache = told["status"], told["cache"]
    memory, last = status["memory"], (status["history"] or [{}])[-1]
    others = memory["total_gb"] - memory["available_gb"] - memory["process_gb"]
    assert text(page, "#device") == status["device"]
    assert text(page, "#used") == percent(memory["used_share"]) == memory["used_percent"].replace("%", " %")
    assert text(page, "#of") == f"of {fixed(memory['total_gb'])} GB"
    assert text(page, "#process") == f"{fixed(memory['process_gb'])} GB"
    assert text(page, "#available") == f"{fixed(memory['available_gb'])} GB"
    assert text(page, "#others") == f"{fixed(others)} GB"
    assert text(page, "#active") == str(status["active_requests"])
    assert text(page, "#rate") == fixed(last.get("requests_per_s"))
    assert text(page, "#p50") == latency(last.get("p50_ms")) and text(page, "#p99") == latency(last.get("p99_ms"))

    marks = page.locator("#gauge text").all_text_contents()
    for edge in ("comfortable", "moderate", "tight", "critical"):
        assert f"{100 * status['thresholds'][edge]:g}" in marks
    assert text(page, "#band").startswith(memory["status"] + ": ")
    assert memory["limit"] in text(page, "#limit")
    rungs = [one.split("\n") for one in page.locator("#ladder li").all_inner_texts()]
    for level, able in status["capabilities"].items():
        assert dict(rungs)[level] == "not here" or able
        assert dict(rungs)[level] != "not here" or not able
    assert text(page, "#ladder [aria-current] b") == status["recommended_level"]
    assert text(page, "#reason") == status["recommended_reason"]

    models = sorted(status["current_models"], key=lambda one: one["name"])
    assert text(page, "#room").startswith(f"{fixed(cache['current_size_mb'])} of {cache['max_size_mb']:.0f} MB")
    rows = page.locator("#models tbody tr").all()
    assert len(rows) == 2 * len(models)
    for one, row, why in zip(models, rows[::2], rows[1::2]):
        cells = [one["name"], one["level"], fixed(one["size_mb"]), str(one["access_count"])]
        assert row.locator("th, td").all_inner_texts()[:4] == cells
        state = row.locator("td").last.inner_text()
        assert ("pinned" in state) == one["pinned"] and ("in use" in state) == one["in_use"]
        assert why.inner_text().startswith(one["decision"]["explanation"])
        assert why.inner_text().endswith("space " + one["space_id"][:12])

    shelf = [one.split("\n")[:2] for one in page.locator("#disk li").all_inner_texts()]
    expected = sorted((one["name"], ", ".join(one["level_sizes_mb"]) or "none") for one in status["models"])
    assert shelf == [list(one) for one in expected]

    if page.locator("#more").is_visible():
        page.click("#more")
    newest = sorted(status["switches"], key=lambda one: -one["number"])
    items = page.locator("#changes li").all()
    assert len(items) == len(newest)
    for one, item in zip(newest, items):
        shown = re.sub(r"\s+", " ", item.inner_text())
        clock = time.strftime("%H:%M:%S", time.gmtime(one["unix_ms"] / 1000))
        freed = f"{'took' if one['freed_mb'] < 0 else 'freed'} {fixed(abs(one['freed_mb']))} MB"
        moved = f"{one['from'] or 'none'} → to {one['to']}"
        took = f"in {fixed(one['load_ms'])} ms"
        for part in (clock, one["model"], moved, one["explanation"], freed, took, one["fault"]):
            assert re.sub(r"\s+", " ", part) in shown, (part, shown)
    assert page.locator("#warnings li").all_inner_texts() == status["warnings"]
    assert not there.complaints


def test_the_curves_read_back_as_the_history(visit, url):
    there = visit()
    told = freeze(there.page)
    page = there.open(url)
    history = told["status"]["history"]
    if len(history) < 3:
        pytest.skip("that server has no history yet")
    page.focus("#curves")
    for back, one in enumerate(reversed(history)):
        if back:
            page.keyboard.press("ArrowLeft")
        if back % 12:
            continue
        assert text(page, "#when").endswith(time.strftime("%H:%M:%S", time.gmtime(one["unix_ms"] / 1000)))
        shown = captions(page)
        assert shown["Memory in use"] == percent(one["used_share"])
        assert shown["Requests a second"] == fixed(one["requests_per_s"])
        assert shown["Active requests"] == str(one["active_requests"])
        assert shown["Latency, ms"] == f"p50 {latency(one['p50_ms'])} p99 {latency(one['p99_ms'])}"
        for model_name in {entry["model"] for entry in told["status"]["switches"]} & shown.keys():
            entries = [entry for entry in told["status"]["switches"] if entry["model"] == model_name]
            before = [entry["to"] for entry in entries if entry["unix_ms"] <= one["unix_ms"]]
            assert shown[model_name] == (before[-1] if before else entries[0]["from"] or "–")
        # What is heard is what is seen.
        assert not back or f"Memory in use {percent(one['used_share'])}" in text(page, "#point")
    page.keyboard.press("Escape")
    assert text(page, "#when").startswith("latest")


def crowded():
    """Every colour of the page at once: warnings, faults, an emergency."""
    now = int(time.time() * 1000)
    status, cache = busy_quarter(now)
    status.update(warnings=["memory in use 91.0 %: clear the cache"], recommended_level="int4")
    status["memory"].update(used_percent="91.0%", used_share=0.91, available_gb=1.4)
    return status, cache


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme, visit, stand_in):
    stand_in.status, stand_in.cache = crowded()
    page = visit(color_scheme=scheme).open(REAL or stand_in.url)
    page.mouse.move(400, 700)
    assert_contrast(page, 100 if not REAL else 20)
    stand_in.status["memory"]["used_share"] = 0.8
    page.click("#clear") if page.locator("#clear").is_enabled() else None
    assert_contrast(page)
    if REAL:
        return
    page.click("#keep")
    stand_in.stop()
    page.wait_for_selector("#notice:not([hidden])")
    page.locator("#retry").hover()
    assert_contrast(page)
    stand_in.start()
    stand_in.status, stand_in.cache, stand_in.token = status_of(), cache_of(), "secret"
    page.click("#retry")
    page.wait_for_selector("#ask[open]")
    assert_contrast(page)
    stand_in.token = None
    page.fill("#token", "any")
    page.keyboard.press("Enter")
    page.wait_for_selector("#no-models:not([hidden])")
    assert_contrast(page)


def test_light_and_dark_differ_and_follow_the_reader(visit, url):
    page = visit(color_scheme="light").open(url)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert max(map(int, re.findall(r"\d+", page.evaluate(paper)))) < 50


@pytest.mark.parametrize("width", [320, 360, 700, 1000])
def test_no_sideways_scroll(width, visit, url):
    assert_no_sideways_scroll(visit(viewport={"width": width, "height": 740}).open(url))


def test_a_screen_reader_finds_its_way(visit, url):
    page = visit().open(url)
    tree = page.locator("body").aria_snapshot()
    for part in ("banner:", "main:", 'heading "bitmill" [level=1]', 'meter "Memory in use"'):
        assert part in tree, tree
    parts = ("Recommended level", "Load", "Latency, ms", "Models in the cache", "Available levels", "Over time")
    for name in (*parts, "Switches of level"):
        assert f'region "{name}"' in tree, tree
    assert 'button "Clear…"' in tree
    # Drawings are spoken by what stands beside them.
    assert page.locator("svg:not([aria-hidden=true])").count() == 0
    assert page.locator("[aria-live=assertive]").count() == 0
    meter = page.locator("#gauge")
    assert meter.get_attribute("aria-valuetext").startswith(text(page, "#used"))
    assert float(meter.get_attribute("aria-valuenow")) == float(text(page, "#used").split()[0])


# ---- of a server that misbehaves ----


def test_hostile_names_are_text(visit, stand_in):
    now = int(time.time() * 1000)
    other = {"space_id": HOSTILE[0], "status": HOSTILE[1]}
    models = [model(name, access_count=i, **other) for i, name in enumerate(HOSTILE)]
    for one in models:
        one["decision"]["explanation"] = one["decision"]["rule"] = one["name"]
    switches = [switch(i, now - 9000, name, HOSTILE[0], HOSTILE[1], fault=name) for i, name in enumerate(HOSTILE)]
    for one in switches:
        one["explanation"] = one["rule"] = one["model"]
    history = [{**busy_quarter(now)[0]["history"][i], "unix_ms": now - 20000 + i * 1000} for i in range(20)]
    shelf = [shelved(name, name) for name in HOSTILE]
    stand_in.jobs = [job(i, name, "failed", result={"message": name}) for i, name in enumerate(HOSTILE)]
    stand_in.status = status_of(models, switches, history, HOSTILE)
    stand_in.status.update(models=shelf, recommended_reason=HOSTILE[0])
    stand_in.status["memory"]["limit"] = HOSTILE[1]
    stand_in.status.update(device=HOSTILE[0], recommended_level=HOSTILE[1])
    stand_in.status["capabilities"][HOSTILE[2]] = HOSTILE[3]
    stand_in.cache = {**cache_of(models), "utilization": HOSTILE[0], "max_size_mb": HOSTILE[1]}
    there = visit(viewport=PHONE)
    page = there.open(stand_in.url)
    assert page.locator("#models tbody th").all_text_contents() == sorted(HOSTILE)
    assert page.locator("#changes b").all_text_contents() == HOSTILE[::-1]
    assert page.locator("#warnings li").all_text_contents() == HOSTILE
    assert page.locator("#disk b").all_text_contents() == sorted(HOSTILE)
    assert page.locator("#disk p").all_text_contents() == sorted(HOSTILE)
    assert page.locator("#curves figcaption > bdi").all_text_contents() == sorted(HOSTILE)
    assert page.locator("main img, main script, main [onload], main [onerror], main a").count() == 0
    assert_no_sideways_scroll(page)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert not there.complaints
    assert all(one.startswith((stand_in.url, "data:")) for one in there.requests)


def test_loss_is_said_and_recovery_too(visit, stand_in):
    there = visit()
    there.stop_time()
    page = there.open(stand_in.url)
    assert text(page, "#state") == "live" and page.locator("#notice").is_hidden()
    assert page.locator("#trouble").get_attribute("role") == "alert"
    used = text(page, "#used")
    stand_in.stop()
    there.run_for(2000)
    page.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in text(page, "#trouble") and text(page, "#state") == "no answer"
    assert text(page, "#used") == used, "what was known stays"
    # It asks less and less often: 4, 8, 16, then 30 seconds later.
    asked, pauses, waited = there.polls(), [], 0
    while len(pauses) < 5 and waited < 150:
        there.run_for(1000)
        waited += 1
        if there.polls() > asked:
            asked, waited = there.polls(), pauses.append(waited) or 0
    assert pauses == pytest.approx([4, 8, 16, 30, 30], abs=1), pauses
    assert re.search(r"Next try in \d+ s", text(page, "#again"))
    stand_in.start()
    there.run_for(31000)
    page.wait_for_selector("#notice", state="hidden")
    assert text(page, "#state") == "live"
    before = there.polls()
    there.run_for(6000)
    assert 2 <= there.polls() - before <= 4, "every two seconds again"


def test_a_hidden_tab_asks_nothing(visit, stand_in):
    there = visit()
    page = there.page
    there.stop_time()
    page.add_init_script(f"({HIDE})(true)")  # opened in the background
    page.goto(stand_in.url)
    there.run_for(5000)
    assert there.polls() == 0
    page.evaluate(HIDE, False)
    page.wait_for_selector("#main:not([hidden])")
    assert there.polls() == 1, "at once"
    there.run_for(4000)
    page.evaluate(HIDE, True)
    there.run_for(3000)
    before = there.polls()
    assert before > 1
    there.run_for(20000)
    assert there.polls() == before


@pytest.mark.parametrize(
    "answer, said",
    [
        ((503, "draining"), "The server answered 503: draining."),
        ((500, HOSTILE[0]), HOSTILE[0]),
    ],
)
def test_refusals_are_said(answer, said, visit, stand_in):
    page = visit().open(stand_in.url)
    stand_in.failure = answer
    page.wait_for_selector("#notice:not([hidden])")
    assert said in text(page, "#trouble")
    stand_in.failure = None
    page.click("#retry")
    page.wait_for_selector("#notice", state="hidden")


@pytest.mark.parametrize("damage", [{"current_models": [None]}, {"switches": [7], "history": [None]}])
def test_what_cannot_be_shown_is_said_and_asked_again(damage, visit, stand_in):
    page = visit().open(stand_in.url)
    right = stand_in.status
    stand_in.status = {**right, **damage}
    page.wait_for_selector("#notice:not([hidden])")
    assert "cannot show" in text(page, "#trouble")
    stand_in.status = right
    page.click("#retry")
    page.wait_for_selector("#notice", state="hidden")


def test_sparse_answers_are_shown(visit, stand_in):
    """A field that an older server has not is a dash."""
    stand_in.status, stand_in.cache = {"memory": {"total_gb": 8.0}}, {}
    there = visit()
    page = there.open(stand_in.url)
    assert text(page, "#of") == "of 8.0 GB"
    assert text(page, "#used") == "– %" and text(page, "#rate") == text(page, "#active") == "–"
    assert text(page, "#state") == "live" and not there.complaints


def test_nothing_yet_says_what_to_do(visit, stand_in):
    stand_in.status, stand_in.cache = status_of(), cache_of()
    page = visit().open(stand_in.url)
    assert f"curl {stand_in.url}v1/embeddings" in text(page, "#curl")
    for part in ("#no-history", "#no-changes", "#no-models"):
        assert page.locator(part).is_visible()
    for part in ("#curves", "#models", "#warnings", "#more"):
        assert page.locator(part).is_hidden()
    assert page.locator("#clear").is_disabled()


def test_clear_asks_first_and_posts_once(visit, stand_in):
    there = visit()
    page = there.open(stand_in.url)
    page.click("#clear")
    assert page.locator("#sure").is_visible()
    page.click("#keep")
    page.click("#clear")
    page.keyboard.press("Escape")
    assert page.locator("#sure").is_hidden() and stand_in.posts == []
    page.focus("#clear")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "keep", "what is pressed by mistake changes nothing"
    page.dblclick("#go")
    page.wait_for_selector("#no-models:not([hidden])")
    assert stand_in.posts == [(API + "cache/clear", None)]
    assert text(page, "#cleared") == "Cache cleared"
    assert text(page, "#room") == "0.0 of 8000 MB, 0.0 %"
    assert not there.complaints


def test_a_clear_that_fails_is_said(visit, stand_in):
    page = visit().open(stand_in.url)
    page.route("**" + API + "cache/clear", lambda route: route.fulfill(status=500, json={"message": "no"}))
    page.click("#clear")
    page.click("#go")
    until(page, lambda: text(page, "#cleared"))
    assert text(page, "#cleared") == "Not cleared. The server answered 500: no."
    assert page.locator("#clear").is_enabled()


def disk_row(page, name):
    return page.locator("#disk li", has_text=name)


def test_quantizing_is_begun_followed_and_failures_said(visit, stand_in):
    there = visit()
    page = there.open(stand_in.url)
    assert page.locator("#disk button").all_inner_texts() == ["Quantize"], "only what has no low level yet"
    page.click("#disk button")
    row = disk_row(page, "gte-large")
    row.get_by_text("waits its turn").wait_for()
    assert stand_in.posts == [("/models/quantize", None)] and page.locator("#disk button").count() == 0
    stand_in.jobs = [job(1, "gte-large", "running", 370)]
    row.get_by_text("quantizing, 37 %").wait_for()
    said = {"status": "error", "message": "Error during quantization: no space is left", "model_name": "gte-large"}
    stand_in.jobs = [job(1, "gte-large", "failed", 370, said)]
    row.get_by_text(said["message"]).wait_for()
    stand_in.jobs *= 2
    row.get_by_role("button").click()
    until(page, lambda: text(page, "#refused"))
    assert text(page, "#refused") == "gte-large is not quantized. The server answered 503: too many models wait."
    assert row.get_by_role("button").is_enabled()
    there.complaints = [one for one in there.complaints if "503" not in one]  # Chromium's own line
    stand_in.status["models"] = [{**stand_in.status["models"][-1], "name": "gte-large"}]
    stand_in.jobs = [job(1, "gte-large", "done", 1000, {"status": "success", "message": "done"})]
    row.get_by_text("fp16, int8, int4", exact=True).wait_for()
    assert page.locator("#disk button").count() == 0
    assert not there.complaints


def test_the_token_is_asked_for_once(visit, stand_in):
    stand_in.token = "secret"
    there = visit()
    page = there.page
    page.goto(stand_in.url)
    page.wait_for_selector("#ask[open]")
    assert page.evaluate("document.activeElement.id") == "token"
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    until(page, lambda: "not accepted" in text(page, "#ask-why"))
    page.fill("#token", "no such töken")
    before = stand_in.polls
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.locator("#ask").is_visible() and stand_in.polls == before, "not what a header may carry"
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#main:not([hidden])")
    assert page.locator("#ask").is_hidden() and page.locator("#token").input_value() == ""
    page.click("#clear")
    page.click("#go")
    page.wait_for_selector("#no-models:not([hidden])")
    assert stand_in.posts == [(API + "cache/clear", "Bearer secret")]
    assert "Authorization: Bearer $TOKEN" in text(page, "#curl") and "secret" not in page.content()
    page.reload()
    page.wait_for_selector("#main:not([hidden])")
    assert page.evaluate("[localStorage.length, document.cookie, location.href]") == [0, "", stand_in.url]
    assert page.evaluate("sessionStorage.getItem('bitmill-token')") == "secret"
    other = visit().page
    other.goto(stand_in.url)
    other.wait_for_selector("#ask[open]")


def test_who_has_no_token_is_left_alone(visit, stand_in):
    stand_in.token = "secret"
    there = visit()
    page = there.page
    page.goto(stand_in.url)
    page.click("#later")
    before = stand_in.polls
    page.evaluate(HIDE, True)
    page.evaluate(HIDE, False)
    page.wait_for_timeout(2500)
    assert stand_in.polls == before and page.locator("#ask").is_hidden()
    page.click("#retry")
    assert page.locator("#ask").is_visible()


def test_a_selection_outlives_the_polls(visit, stand_in):
    there = visit()
    page = there.open(stand_in.url)
    page.locator("#changes li p").first.select_text()
    chosen = page.evaluate("getSelection().toString()")
    until(page, lambda: there.polls() > 2)
    assert chosen and page.evaluate("getSelection().toString()") == chosen


# ---- of the server itself ----

TIGHT = {
    "QUANTIZE_MEMORY_COMFORTABLE": "0",
    "QUANTIZE_MEMORY_MODERATE": "0",
    "QUANTIZE_MEMORY_TIGHT": "0.999",
    "QUANTIZE_MEMORY_CRITICAL": "1",
}


def model_row(page, name):
    """What the table of the cache has: level, size, requests, state; [] where it has none."""
    row = page.locator("#models tbody tr", has=page.locator("th bdi", has_text=re.compile(f"^{re.escape(name)}$")))
    return row.locator("td").all_inner_texts()


def switched(page, name):
    """The switches of a model, as read: the newest first."""
    items = [re.sub(r"\s+", " ", one) for one in page.locator("#changes li").all_inner_texts()]
    return [re.search(r"(\w+) → to (\w+)", one).groups() for one in items if f" {name} " in one]


def test_a_model_is_quantized_from_the_page_and_its_level_changes(visit, bitmill_path, minilm, memory_folder):
    """Memory counts as tight: the policy wants int4, and the models have only what they came with."""
    root = memory_folder / "dashboard"
    for name in ("first", "second"):
        shutil.copytree(minilm, root / name)
    arguments = ["--models", root, "--embeddings", f"default={root / 'second'}", "--level", "auto", "--cold"]
    try:
        with Service(bitmill_path, *arguments, env=TIGHT) as server:
            there = visit()
            page = there.open(server.url + "/")
            assert page.locator("#no-models").is_visible() and page.locator("#no-changes").is_visible()
            assert text(page, "#ladder [aria-current] b") == "int4"

            def embed(name, texts=("a text", "and another")):
                code, body = server.post("/v1/embeddings", {"model": name, "input": list(texts)})
                assert code == 200 and len(body["data"]) == len(texts), body

            embed("first")
            until(page, lambda: model_row(page, "first")[:1] == ["fp16"])
            assert switched(page, "first") == [("none", "fp16")]
            assert page.locator("#no-changes").is_hidden()
            assert text(page, "#ladder li:has-text('fp16')").split("\n") == ["fp16", "1 model"]

            disk_row(page, "first").get_by_role("button", name="Quantize").click()
            disk_row(page, "first").get_by_text("fp16, int8, int4", exact=True).wait_for(timeout=120_000)
            embed("first")
            until(page, lambda: model_row(page, "first")[:1] == ["int4"])
            assert switched(page, "first")[0][1] == "int4" and len(switched(page, "first")) == 2
            row = page.locator("#models tbody tr.why").inner_text()
            assert row.startswith("int4 (required): memory in use ")
            embed("first")
            until(page, lambda: captions(page).get("first") == "int4" and captions(page)["Requests a second"] != "–")

            # The registry does not have it.
            assert disk_row(page, "default").get_by_role("button").count() == 0
            page.click("#clear")
            page.click("#go")
            page.wait_for_selector("#no-models:not([hidden])")
            assert text(page, "#cleared") == "Cache cleared"
            assert not there.complaints
        assert server.process.returncode == 0
    finally:
        shutil.rmtree(root)
