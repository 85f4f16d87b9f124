#!/usr/bin/env python3
"""wan_serve's page in a real Chromium: each thing that people do with it is a story of its own.

Usage: page.py WAN_SERVE_PROGRAM CHECKPOINT_FOLDER [--shots FOLDER] [STORY ...]

Wants Playwright from PyPI, and Debian's chromium; exits with 77, which ctest counts as skipped, where one of them is missing.
scripts/check_page installs both.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from processes import check, environment, finish, free_port

try:
    from playwright.sync_api import Error, expect, sync_playwright
except ImportError:
    other = pathlib.Path(sys.argv[1]).resolve().parents[1] / "browser" / "bin" / "python"
    if other.exists() and str(other) != sys.executable:
        os.execv(other, [str(other), *sys.argv])
    print("skipped: Playwright is missing; scripts/check_page installs it")
    sys.exit(77)
CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    print("skipped: chromium is missing; scripts/check_page installs it")
    sys.exit(77)

arguments = sys.argv[1:]
shots = pathlib.Path(arguments.pop(arguments.index("--shots") + 1)) if "--shots" in arguments else None
program, checkpoint, *chosen = [word for word in arguments if word != "--shots"]
folder = pathlib.Path(tempfile.mkdtemp(prefix="page_test."))
SMALL = ["--size", "64*64", "--frame_num", "5", "--sample_steps", "4"]
stories = []
expect.set_options(timeout=60000)


class Serving:
    """A wan_serve; the same one again where it was killed."""

    def __init__(self, *flags, port=None):
        self.port = port or free_port()
        self.words = [program, "--ckpt_dir", checkpoint, "--local_ranks", "2", "--device", "cpu", "--server_port", str(self.port),
                      "--data_dir", str(folder / "data{}".format(self.port)), "--queue", "3", *SMALL, *flags]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=open(folder / "serve{}.log".format(self.port), "a"), text=True)
        self.url = self.process.stdout.readline().strip()

    def ask(self, path, body=None, method=None):
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def wait(self, until, limit=30):
        end = time.monotonic() + limit
        while not until():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def is_idle(self):
        return all(not self.ask("v1/videos?status=" + status)["data"] for status in ("queued", "in_progress"))

    def rest(self):
        """Ends what a story has left running, so that the next one begins on a quiet server."""
        for status in ("queued", "in_progress"):
            for job in self.ask("v1/videos?limit=100&status=" + status)["data"]:
                with contextlib.suppress(OSError):
                    self.ask("v1/videos/{}/cancel".format(job["id"]), {})
        self.wait(self.is_idle)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)


def story(tell):
    stories.append(tell)
    return tell


def shot(page, name):
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=shots / (name + ".png"))


def generate(page, prompt, **fields):
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.fill("#" + name, str(value))
    page.click("#generate")


def bar(page):
    return page.eval_on_selector("#stage progress", "bar => bar.value") if page.locator("#stage progress").count() else None


LONG = dict(num_inference_steps=300)  # is still running when it is looked at


@story
def first_load(serving, new_page):
    asked, sizes = [], []
    page = new_page(goto=False)
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda answer: sizes.append(len(answer.body())) if "/v1/" not in answer.url else None)
    began = time.monotonic()
    page.goto(serving.url)
    expect(page.locator("#state")).to_have_attribute("data-state", "ready")
    took = time.monotonic() - began
    for _ in range(4):  # on a machine that is busy with something else
        if took < 1:
            break
        other, began = new_page(goto=False), time.monotonic()
        other.goto(serving.url)
        expect(other.locator("#state")).to_have_attribute("data-state", "ready")
        took = min(took, time.monotonic() - began)
    limit = 1 if os.getloadavg()[0] <= os.cpu_count() else 5  # seconds; where others keep the machine busy it says little
    check("the page is there and has heard the server within {} s ({:.2f} s)".format(limit, took), took < limit)
    page.wait_for_timeout(300)
    strangers = [url for url in asked if not url.startswith((serving.url, "data:"))]
    check("nothing is asked of anybody else", asked and not strangers, strangers)
    check("it is less than 150 KiB ({} bytes)".format(sum(sizes)), 0 < sum(sizes) < 150 * 1024)
    header = urllib.request.urlopen(serving.url, timeout=10).headers["Content-Security-Policy"]
    check("scripts of others, and those written into a page, are forbidden", header and "default-src 'self'" in header and "unsafe" not in header, header)
    defaults = serving.ask("v1/capabilities")["defaults"]
    check("the form has the server's defaults", page.input_value("#width") == "64" and page.input_value("#num_frames") == str(defaults["num_frames"]), defaults)
    expect(page.locator("#plan")).to_contain_text("2 ranks")
    expect(page.locator("#stage")).to_contain_text("Your video appears here")
    shot(page, "empty")


@story
def generates(serving, new_page):
    page = new_page()
    generate(page, "a red ball moves left on a dark blue background", num_inference_steps=40)
    seen, texts, pictures = [], set(), False
    end = time.monotonic() + 60
    while not page.locator("#stage video").count() and time.monotonic() < end:
        with contextlib.suppress(Error):  # it may be replaced while it is asked
            now = bar(page)
            seen += [now] if now is not None else []
            texts.add(page.inner_text("#stage .progress"))
            pictures = pictures or page.locator("#stage img.rough:not([hidden])").count() > 0
        page.wait_for_timeout(30)
    check("progress goes up, and nowhere down", seen == sorted(seen) and len(set(seen)) > 3, seen)
    check("steps are counted, with time a step and time left", any(re.search(r"Step \d+ of 40 · .* s a step[\s\S]*left", text) for text in texts), texts)
    check("a preview is shown meanwhile", pictures)
    video = page.locator("#stage video")
    expect(video).to_be_visible()
    ready = serving.wait(lambda: video.evaluate("one => one.readyState >= 3 && one.currentTime > 0"), 10)
    check("the video plays", ready, video.evaluate("one => [one.readyState, one.error && one.error.message]"))
    with page.expect_download() as download:
        page.click("text=Download")
    job = page.url.split("#")[1]
    made = urllib.request.urlopen(serving.url + "v1/videos/{}/content".format(job), timeout=10).read()
    check("what is downloaded is the file", pathlib.Path(download.value.path()).read_bytes() == made and made[4:8] == b"ftyp" and
          download.value.suggested_filename.endswith(".mp4"), download.value.suggested_filename)
    expect(page.locator("#cards li")).to_have_count(len(serving.ask("v1/videos?status=completed&limit=100")["data"]))
    expect(page.locator("#cards [aria-current=true] .line").first).to_have_text("a red ball moves left on a dark blue background")
    check("its thumbnail is a picture", serving.wait(lambda: page.locator("#cards [aria-current=true] img").evaluate("one => one.naturalWidth > 0"), 5))
    shot(page, "done")
    page.emulate_media(color_scheme="dark")
    shot(page, "done_dark")


@story
def reload_goes_on(serving, new_page):
    page = new_page()
    generate(page, "a blue ball moves up", **LONG)
    expect(page.locator("#stage .progress")).to_contain_text("Step ")
    page.reload()
    expect(page.locator("#stage .progress")).to_contain_text("Step ")
    expect(page.locator("#stage .prompt").first).to_have_text("a blue ball moves up")
    expect(page.locator("#stage img.rough")).to_be_visible()
    other = new_page(page.url)
    expect(other.locator("#stage .progress")).to_contain_text("Step ")
    before = bar(other)
    check("a second tab sees it go on", serving.wait(lambda: bar(other) > before, 10), before)


@story
def queues_and_cancels(serving, new_page):
    page = new_page()
    for prompt in ("first", "second", "third"):
        generate(page, prompt, **LONG)
        expect(page.locator("#queue li", has_text=prompt)).to_be_visible()
    expect(page.locator("#queue li").nth(0)).to_contain_text(re.compile(r"step \d+ of 300 · [\d a-z]+ left"))
    expect(page.locator("#queue li").nth(1)).to_contain_text(re.compile(r"number 1 · [\d a-z]+left"))
    expect(page.locator("#queue li").nth(2)).to_contain_text(re.compile(r"number 2 · [\d a-z]+left"))
    expect(page.locator("#stage")).to_contain_text("Number 2 in the queue")
    expect(page.locator("#queue-count")).to_have_text("2 of 3 waiting")
    shot(page, "queue")
    page.emulate_media(color_scheme="dark")
    shot(page, "queue_dark")
    page.click("[aria-label='Cancel: second']")
    expect(page.locator("#queue li")).to_have_count(2)
    expect(page.locator("#queue li").nth(1)).to_contain_text("number 1")
    page.click("[aria-label='Cancel: first']")
    expect(page.locator("#stage .progress")).to_contain_text("Step ")
    page.locator("#stage").get_by_role("button", name="Cancel").click()
    expect(page.locator("#stage")).to_contain_text("Cancelled.")
    expect(page.locator("#queue li")).to_have_count(0)
    page.select_option("#show", "cancelled")
    expect(page.locator("#cards li", has_text="second")).to_be_visible()


@story
def full_queue(serving, new_page):
    page = new_page()
    for prompt in ("one", "two", "three", "four"):
        generate(page, prompt, **LONG)
        expect(page.locator("#queue li", has_text=prompt)).to_be_visible()
    generate(page, "one too many", **LONG)
    expect(page.locator("#form-error")).to_contain_text(re.compile(r"queue.*Try again in \d+ second"))
    check("and the prompt is still there", page.input_value("#prompt") == "one too many")
    shot(page, "full")


@story
def refusals_beside_their_field(serving, new_page):
    page = new_page()
    page.click("#generate")
    expect(page.locator(".field:has(#prompt) .wrong")).to_have_text("Write what the video shows.")
    page.fill("#prompt", "x")
    expect(page.locator(".wrong")).to_have_count(0)
    for field, value, told in (("num_frames", 6, "4n+1"), ("width", 100, "multiples of 16"), ("num_inference_steps", 5000, "1000")):
        page.fill("#prompt", "x")
        page.fill("#" + field, str(value))
        expect(page.locator("#plan")).to_contain_text(told)
        page.click("#generate")
        expect(page.locator("div:has(> .field #{}) > .wrong".format(field))).to_contain_text(told)
        check("the field {} is marked, and has the focus".format(field), page.get_attribute("#" + field, "aria-invalid") == "true" and
              page.evaluate("document.activeElement.id") == field)
        if field == "width":
            shot(page, "refused")
        page.click("#reset")
    page.click("#degrees summary")
    page.fill("#ulysses_size", "3")
    page.fill("#prompt", "x")
    expect(page.locator("#plan[data-fits=false]")).to_contain_text("3")
    page.click("#generate")
    expect(page.locator(".wrong, #form-error:not([hidden])").first).to_contain_text("3")


@story
def settings_again(serving, new_page):
    page = new_page()
    page.click("#degrees summary")
    generate(page, "a green square", num_inference_steps=3, guidance_scale=2.5, negative_prompt="blue", ulysses_size=2, fps=8)
    expect(page.locator("#stage video")).to_be_visible()
    first = serving.ask("v1/videos/" + page.url.split("#")[1])
    page.reload()
    page.click("#reset")
    expect(page.locator("#prompt")).to_have_value("")
    page.click("text=Use settings")
    expect(page.locator("#seed")).to_have_value(str(first["seed"]))
    before = page.url
    page.click("#generate")
    expect(page).not_to_have_url(before)
    second = serving.ask("v1/videos/" + page.url.split("#")[1])
    check("settings used again are the same", second["settings"] == first["settings"], first["settings"], second["settings"])
    patches = serving.ask("v1/videos", {"prompt": "x", "patch_parallel_size": 2, "warmup_steps": 3, "num_inference_steps": 8, "split_mode": "temporal", "num_frames": 9,
                                        "seed": 2**62 + 1})
    serving.wait(serving.is_idle)
    page.goto(serving.url + "#" + patches["id"])
    page.click("text=Use settings")
    expect(page.locator("[name=warmup_steps]")).to_have_value("3")
    before = page.url
    page.click("#generate")
    expect(page).not_to_have_url(before)
    again = serving.ask("v1/videos/" + page.url.split("#")[1])
    check("those of which the form knew nothing, too, and all digits of a seed", again["settings"] == patches["settings"], patches["settings"], again["settings"])


@story
def a_prompt_stays_text(serving, new_page):
    page = new_page()
    evil = "<img src=x onerror=\"document.title='taken'\"> & <script>document.title='taken'</script>"
    generate(page, evil, num_inference_steps=30)
    expect(page.locator("#queue .line").first).to_have_text(evil)
    expect(page.locator("#stage video")).to_be_visible()
    expect(page.locator("#stage .prompt").first).to_have_text(evil)
    expect(page.locator("#cards .line").first).to_have_text(evil)
    page.click("text=Delete")
    expect(page.locator("#ask-text")).to_contain_text("<img src=x")
    check("and made nothing of itself", page.locator("img[src=x], #stage script, #cards script").count() == 0 and "taken" not in page.title())
    page.keyboard.press("Escape")
    expect(page.locator("#stage video")).to_be_visible()


@story
def gallery(serving, new_page):
    page = new_page()
    for prompt in ("a heron by the lake", "a tram at night"):
        generate(page, prompt, num_inference_steps=2)
        expect(page.locator("#stage video[aria-label='{}']".format(prompt))).to_be_visible()
    page.fill("#filter", "heron")
    expect(page.locator("#cards li")).to_have_count(1)
    page.click("#cards button")
    expect(page.locator("#stage .prompt").first).to_have_text("a heron by the lake")
    with page.expect_download() as download:
        page.click("text=Export CSV")
    table = pathlib.Path(download.value.path()).read_text(encoding="utf8")
    check("what is shown goes into a table", "heron" in table and "tram" not in table and len(table.splitlines()) == 2, table)
    page.locator("#stage").get_by_role("button", name="Delete").click()
    page.locator("#ask").get_by_role("button", name="Delete").click()
    expect(page.locator("#no-cards")).to_have_text("No prompt has these words.")
    page.fill("#filter", "")
    expect(page.locator("#cards li", has_text="tram")).to_be_visible()
    check("a deleted video is gone at the server", not any("heron" in job["prompt"] for job in serving.ask("v1/videos?limit=100")["data"]))


@story
def machine(serving, new_page):
    page = new_page()
    generate(page, "x", **LONG)
    expect(page.locator("#machine tbody tr")).to_have_count(2)
    for row in range(2):
        expect(page.locator("#machine tbody tr").nth(row)).to_contain_text(re.compile(r"[\d.]+ [MG]iB[\s\S]*[\d.]+ [MG]iB[\s\S]*[\d.]+ s"))
    expect(page.locator("#machine-count")).to_have_text("2 ranks, cpu")


@story
def keyboard_alone(serving, new_page):
    page = new_page()
    page.keyboard.press("Tab")
    check("the first stop skips to the prompt", page.evaluate("document.activeElement.className") == "skip")
    page.keyboard.press("Enter")
    check("which has the focus then", page.evaluate("document.activeElement.id") == "prompt")
    page.keyboard.type("a purple triangle")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#stage video")).to_be_visible()
    stops, outlines = [], True
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate("""() => { const one = document.activeElement; const style = getComputedStyle(one);
          return [one.id || one.textContent.slice(0, 30) || one.tagName, style.outlineStyle !== 'none' || one.matches('body, video')] }""")
        stops.append(stop[0])
        outlines = outlines and stop[1]
        if "a purple triangle" in stop[0]:
            page.keyboard.press("Enter")
            break
    wanted = ("negative_prompt", "size_preset", "width", "height", "num_frames", "num_inference_steps", "guidance_scale", "seed", "sample_solver", "generate", "Download",
              "Use settings", "Delete", "filter", "show", "export")
    check("all can be reached by Tab, in the order of reading", [one for one in stops if one in wanted] == list(wanted), stops)
    check("the focus can be seen wherever it is", outlines)


@story
def narrow_and_dark(serving, new_page):
    from axe_playwright_python.sync_playwright import Axe

    page = new_page()
    generate(page, "a very long prompt " + "without_any_place_to_break_it" * 6, num_inference_steps=2)
    expect(page.locator("#stage video")).to_be_visible()
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (360, 800, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(100)
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            check("nothing hangs over at {} pixels, {}".format(width, scheme), over <= 0, over)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.set_viewport_size({"width": 360, "height": 800})
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        check("axe finds no barrier, {}".format(scheme), not found, [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found])
        shot(page, "narrow_" + scheme)
    check("dark is another ground", len(grounds) == 2, grounds)
    page.click("#theme")
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    check("the switch goes before the system", page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 23)")


@story
def loading(serving, new_page):
    page = new_page(goto=False)
    status = {**serving.ask("v1/status"), "state": "loading", "loading": {"percent": 37, "what": "transformer"}}
    page.route("**/v1/status", lambda route: route.fulfill(json=status))
    page.route("**/v1/events", lambda route: route.fulfill(content_type="text/event-stream", body="event: status\ndata: {}\n\n".format(json.dumps(status))))
    page.goto(serving.url)
    expect(page.locator("#state")).to_have_text("Loading 37 %, transformer")
    expect(page.locator("#generate")).to_be_enabled()


@story
def a_failure_says_why(serving, new_page):
    page = new_page(goto=False)
    generated = serving.ask("v1/videos", {"prompt": "x"})
    serving.wait(serving.is_idle)
    failed = {**serving.ask("v1/videos/" + generated["id"]), "status": "failed", "variants": [],
              "error": {"code": "rank_failed", "message": "rank 1 on host b was killed in step 2 of 4"}}
    page.route("**/v1/videos/" + generated["id"], lambda route: route.fulfill(json=failed))
    page.goto(serving.url + "#" + generated["id"])
    expect(page.locator("#stage [role=alert]")).to_have_text("rank 1 on host b was killed in step 2 of 4")
    expect(page.locator("#stage").get_by_role("button", name="Use settings")).to_be_visible()


@story
def a_key(_, new_page):
    keys = folder / "keys"
    keys.write_text("correct-horse-battery\n")
    serving = Serving("--api_key_file", str(keys))
    try:
        page = new_page(goto=False)
        page.goto("http://127.0.0.1:{}/".format(serving.port))
        expect(page.locator("#key")).to_be_visible()
        page.fill("#key-value", "wrong-horse")
        page.keyboard.press("Enter")
        expect(page.locator("#key-fault")).to_have_text("This is not the key.")
        page.fill("#key-value", "correct-horse-battery")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_attribute("data-state", "ready")
        generate(page, "behind a key", num_inference_steps=2)
        video = page.locator("#stage video")
        expect(video).to_be_visible()
        check("the video plays behind a key", serving.wait(lambda: video.evaluate("one => one.readyState >= 3"), 10))
    finally:
        serving.stop()


@story
def server_gone(serving, new_page):  # the last, for it ends the server
    page = new_page()
    generate(page, "to be lost", **LONG)
    expect(page.locator("#stage .progress")).to_contain_text("Step ")
    for how, name in ((signal.SIGSTOP, "stopped"), (signal.SIGKILL, "killed")):
        began = time.monotonic()
        serving.process.send_signal(how)
        expect(page.locator("#banner")).to_contain_text("Is wan_serve still running?")
        took = time.monotonic() - began
        check("a server that is {} is missed within 5 seconds ({:.1f})".format(name, took), took < 5)
        shot(page, "gone")
        if how == signal.SIGSTOP:
            serving.process.send_signal(signal.SIGCONT)
            expect(page.locator("#banner")).to_be_hidden()
            expect(page.locator("#stage .progress")).to_contain_text("Step ")
    serving.process.wait(10)
    page.fill("#prompt", "sent to nobody")
    page.click("#generate")
    expect(page.locator("#form-error")).to_have_text("The server does not answer.")
    serving.start()
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#stage")).to_contain_text("This video failed.")
    expect(page.locator("#prompt")).to_have_value("sent to nobody")


def main():
    serving = Serving()
    if not serving.url.startswith("http"):
        check("the server starts", False, (folder / "serve{}.log".format(serving.port)).read_text())
        return
    ready = serving.wait(lambda: serving.ask("v1/status")["state"] == "ready", 60)
    check("the server is ready", ready)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"] + ["--no-sandbox"] * (os.geteuid() == 0))
        for tell in stories:
            if chosen and tell.__name__ not in chosen:
                continue
            context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light", accept_downloads=True)
            faults = []

            def new_page(url=None, goto=True):
                page = context.new_page()
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
                if goto:
                    page.goto(url or serving.url)
                    expect(page.locator("#state")).to_have_attribute("data-state", "ready")
                return page

            began = time.monotonic()
            try:
                tell(serving, new_page)
                check("{} ({:.1f} s)".format(tell.__name__.replace("_", " "), time.monotonic() - began), True)
            except (AssertionError, Error, OSError) as error:
                check(tell.__name__.replace("_", " "), False, str(error))
            check("no script has failed", not faults, faults)
            context.close()
            serving.rest()
        browser.close()
    serving.stop()


try:
    main()
finally:
    shutil.rmtree(folder, ignore_errors=True)
finish()
