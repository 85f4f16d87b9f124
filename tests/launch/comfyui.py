#!/usr/bin/env python3
"""The node pack for ComfyUI: loaded by its conventions, and each example workflow run against wan_serve.

Usage: comfyui.py WAN_SERVE_PROGRAM PACK_FOLDER CHECKPOINT_FOLDER
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import comfyui_stub
from processes import check, environment, finish

program, pack, checkpoint = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3]).resolve()
folder = pathlib.Path(tempfile.mkdtemp(prefix="comfyui_test."))
os.environ.pop("WANPAR_SERVER", None)
stub = comfyui_stub.install(str(folder))
module = comfyui_stub.load(str(pack))
nodes = module.NODE_CLASS_MAPPINGS
refused = sys.modules[module.__name__ + ".refused"].Refused

# Of the seeds of this project, and of workflows that people have: titles, classes and fields.
FIELDS = {
    "Wan2.1 Distributed Config": "world_size rank backend use_fsdp use_context_parallel ulysses_size ring_size t5_fsdp dit_fsdp use_usp t5_cpu param_dtype "
                                 "reduce_dtype buffer_dtype sharding_strategy sync_module_states",
    "Wan2.1 Distributed Model Loader": "model base_precision wan_distributed_config attention_mode",
    "WanVideo Multi-GPU Loader": "model base_precision load_device parallelism_type gpu_ids enable_block_distribution",
    "DistriFusion WanVideo Model Loader": "model base_precision quantization load_device enable_distrifusion num_gpus split_mode patch_overlap warmup_steps "
                                          "process_rank temporal_chunk_size",
    "DistriFusion WanVideo Sampler": "distrifusion_model positive negative latent_image seed steps cfg sync_frequency enable_async_comm",
    "DistriFusion Status": "distrifusion_model",
}
titles = {title: nodes[name] for name, title in module.NODE_DISPLAY_NAME_MAPPINGS.items()}
check("the nodes are those that were promised", sorted(titles) == sorted(FIELDS), sorted(titles))
for title, fields in FIELDS.items():
    missing = set(fields.split()) - {name for name, *_ in comfyui_stub.fields_of(titles[title])}
    check("{} has its fields".format(title), not missing, missing)
    check("{} is as ComfyUI wants a node".format(title), not comfyui_stub.faults_of(titles[title]), comfyui_stub.faults_of(titles[title]))

nodes = {**nodes, **comfyui_stub.NODES}
workflows = {}
for file in sorted((pack / "api_workflows").glob("*.json")):
    graph = json.loads(file.read_text(encoding="utf8"))
    workflows[file.stem] = graph
    faults = list(comfyui_stub.faults_of_graph(graph, nodes))
    check("{} is a graph that ComfyUI takes".format(file.name), not faults, faults)
    drawn = comfyui_stub.api_of(json.loads((pack / "example_workflows" / file.name).read_text(encoding="utf8")), nodes)
    plain = {number: {key: one[key] for key in ("class_type", "inputs")} for number, one in graph.items()}
    check("{} says the same in both formats".format(file.name), drawn == plain, drawn, plain)
check("there are workflows, one for 8 GPUs", len(workflows) >= 4 and any("8gpu" in name for name in workflows))


def is_refused(claim, call, *parts):
    try:
        said = repr(call())
    except refused as error:
        said = str(error)
        check("refused: " + claim, all(part in said for part in parts) and "\n" not in said, said)
    else:
        check("refused: " + claim, False, said)


def config(**changes):
    fields = {name: options["default"] for name, _, options, _ in comfyui_stub.fields_of(nodes["WanDistributedConfig"])}
    return nodes["WanDistributedConfig"]().create_config(**{**fields, **changes})[0]


def distributed(base_precision="bf16", attention_mode="sdpa", **changes):
    return lambda: nodes["WanDistributedModelLoader"]().loadmodel("", base_precision, config(**changes), attention_mode)


def of_gpus(kind, gpus, blocks=False):
    return lambda: nodes["WanVideoMultiGPULoader"]().loadmodel("", "bf16", "main_device", kind, gpus, blocks)


def patches(**changes):
    return lambda: nodes["DistriFusionWanVideoModelLoader"]().load_distrifusion_model("", **changes)


os.environ["WANPAR_SERVER"] = "http://127.0.0.1:9"  # nothing of this list gets as far as to ask it
is_refused("a rank other than 0", distributed(rank=1), "rank 1", "take 0")
is_refused("degrees that do not multiply", distributed(world_size=4, use_context_parallel=True, ulysses_size=2), "2 x ring_size 1 = 2", "world_size is 4")
is_refused("degrees without context parallel", distributed(ulysses_size=2), "use_context_parallel")
is_refused("the text encoder on the CPU and on all ranks", distributed(t5_cpu=True, t5_fsdp=True), "t5_cpu", "t5_fsdp")
is_refused("half precision", distributed("fp16"), "fp16", "bf16")
is_refused("two dtypes", distributed("fp32"), "fp32", "bfloat16")
is_refused("an attention that is not there", distributed(attention_mode="flash_attn_3"), "flash_attn_3", "sdpa")
is_refused("no list of GPUs", of_gpus("distributed", "0,zero"), "0,zero", "0,1,2,3")
is_refused("blocks that are not dealt out", of_gpus("block_distribution", "0,1"), "enable_block_distribution is off")
is_refused("a batch of four", of_gpus("data_parallel", "0,1,2,3"), "2 gpu_ids, not 4")
is_refused("quantization", patches(quantization="fp8_e4m3fn"), "fp8_e4m3fn", "disabled")
is_refused("a rank of patches", patches(process_rank=1), "process_rank 1")
os.environ["WANPAR_SERVER"] = "localhost:7860"
is_refused("an address without http", patches(), "localhost:7860", "neither an address")
os.environ["WANPAR_SERVER"] = program
is_refused("no model to start with", patches(), "model is empty")
is_refused("one file", lambda: nodes["DistriFusionWanVideoModelLoader"]().load_distrifusion_model("wan2.1_14b.safetensors"), "wan2.1_14b.safetensors", "folder")
is_refused("a checkpoint that is not there", lambda: nodes["DistriFusionWanVideoModelLoader"]().load_distrifusion_model("Wan9"), "Wan9", "diffusion_models")
os.environ["WANPAR_SERVER"] = "http://127.0.0.1:9"
try:
    patches()()
    said = "nothing"
except ConnectionError as error:
    said = str(error)
check("a server that is not there is named", "http://127.0.0.1:9 does not answer" in said, said)


class Latent:
    """A tensor, as far as the sampler looks at one."""

    def __init__(self, *shape, filled=False):
        self.shape, self.filled = shape, filled

    def dim(self):
        return len(self.shape)

    def any(self):
        return self.filled


size_of = sys.modules[module.__name__ + ".sampler"].size_of
check("an empty latent says the size of the video", size_of({"samples": Latent(1, 16, 21, 60, 104)}) == {"width": 832, "height": 480, "num_frames": 81})
is_refused("a latent of a picture", lambda: size_of({"samples": Latent(1, 4, 60, 104)}), "[1, 4, 60, 104]", "Empty Hunyuan Latent Video")
is_refused("two videos at once", lambda: size_of({"samples": Latent(2, 16, 21, 60, 104)}), "batch size 1")
is_refused("a latent to go on from", lambda: size_of({"samples": Latent(1, 16, 21, 60, 104, filled=True)}), "not empty")


class Serving:
    """A wan_serve, ended in the end."""

    def __init__(self, *flags):
        words = [program, "--ckpt_dir", str(checkpoint), "--server_port", "0", "--data_dir", str(folder / "data"), "--device", "cpu", *flags]
        self.process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=open(folder / "serve.log", "w"), text=True)
        self.url = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


SMALL = {"width": 64, "height": 64, "num_frames": 5, "steps": 3}


def small(graph, **changes):
    """The same graph, of a video that takes a second, and of the model that the server has."""
    graph = json.loads(json.dumps(graph))
    for one in graph.values():
        for name, value in {"model": "", **SMALL, **changes}.items():
            if name in one["inputs"]:
                one["inputs"][name] = value
    return graph


def job_of(url, file):
    """The job whose video lies in a file: the server's newest."""
    return next(job for job in client.ask("GET", "/v1/videos?limit=1")["data"])


WANTED = {
    "8gpu_distributed_workflow": {"ranks": 8, "ulysses_size": 2, "ring_size": 4, "dit_fsdp": True, "t5_fsdp": True},
    "4gpu_distributed_workflow": {"ranks": 4, "ulysses_size": 2, "ring_size": 2, "dit_fsdp": True},
    "4gpu_distrifusion_workflow": {"ranks": 4, "patch_parallel_size": 4, "split_mode": "spatial", "warmup_steps": 1, "sync_frequency": 10},
    "2gpu_block_distribution_workflow": {"ranks": 2, "pipeline_size": 2},
}
client_module = sys.modules[module.__name__ + ".client"]
with Serving("--local_ranks", "8") as serving:
    check("the server says its address", re.fullmatch(r"http://127\.0\.0\.1:\d+/?", serving.url), serving.url)
    os.environ["WANPAR_SERVER"] = serving.url
    client = client_module.Server(serving.url)
    for name, graph in workflows.items():
        stub.shown.clear()
        changes = {"warmup_steps": 1, "steps": 9, "height": 128} if "distrifusion" in name else {}
        try:
            done, shown = comfyui_stub.execute(small(graph, **changes), nodes)
        except Exception as error:  # whatever it is, it is this workflow's
            check("{} runs".format(name), False, repr(error), (folder / "serve.log").read_text()[-2000:])
            continue
        sampler = next(number for number, one in graph.items() if "Sampler" in one["class_type"])
        (video, file), job = done[sampler], job_of(serving.url, None)
        made = pathlib.Path(file).read_bytes()
        check("{}: an mp4 in the output folder, and shown".format(name), made[4:8] == b"ftyp" and video.path == file and
              shown[sampler]["images"][0]["filename"] == os.path.basename(file), shown, made[:16])
        kept = {key: job["settings"].get(key) for key in WANTED[name]}
        check("{}: made in the way that it says".format(name), kept == WANTED[name] and job["settings"]["seed"] == 42, kept)
        steps = changes.get("steps", SMALL["steps"])
        bars = [(step, total, picture) for step, total, picture in stub.shown if total == steps]
        check("{}: progress goes up to the end, with pictures".format(name), bars and bars == sorted(bars, key=lambda one: one[0]) and bars[-1][0] == steps and
              any(picture for *_, picture in bars), bars)
        status = next(given[0] for number, given in done.items() if "Status" in graph[number]["class_type"])
        check("{}: the status has a line for each rank".format(name), len(re.findall(r"^rank \d", status, re.M)) == 8 and "ready" in status, status)
    check("no part is left beside the videos", not list(folder.rglob("*.part")))

    long = small(workflows["2gpu_block_distribution_workflow"], steps=500)
    stub.interrupt = lambda: any(step >= 2 for step, total, _ in stub.shown if total == 500)
    stub.shown.clear()
    started = time.monotonic()
    try:
        comfyui_stub.execute(long, nodes)
        interrupted = "it went on to the end"
    except comfyui_stub.InterruptProcessingException:
        interrupted = ""
    stub.interrupt = lambda: False
    while job_of(serving.url, None)["status"] == "in_progress" and time.monotonic() < started + 30:
        time.sleep(0.1)
    check("who interrupts in ComfyUI cancels at the server", not interrupted and job_of(serving.url, None)["status"] == "cancelled", interrupted,
          job_of(serving.url, None)["status"])
    is_refused("more ranks than there are", distributed(world_size=9), "8 ranks", "9 are asked for")
    is_refused("another model", lambda: nodes["DistriFusionWanVideoModelLoader"]().load_distrifusion_model("Wan9"), "Wan9", "loaded")
    wrong = small(workflows["4gpu_distributed_workflow"], num_frames=6)
    is_refused("what the server refuses, in its words", lambda: comfyui_stub.execute(wrong, nodes), "num_frames", serving.url.rstrip("/"))

# Where none runs one is started, and it ends with whoever started it.
os.environ["WANPAR_SERVER"] = program
(folder / "models" / "diffusion_models").mkdir(parents=True)
(folder / "models" / "diffusion_models" / "demo").symlink_to(checkpoint)
script = """
import json, os, signal, sys
sys.path.insert(0, {tests!r})
import comfyui_stub
comfyui_stub.install({folder!r})
nodes = {{**comfyui_stub.load({pack!r}).NODE_CLASS_MAPPINGS, **comfyui_stub.NODES}}
done, _ = comfyui_stub.execute(json.loads(sys.argv[1]), nodes)
print(json.dumps([given[0] for given in done.values() if isinstance(given[0], str)]), flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
"""
graph = small(workflows["4gpu_distributed_workflow"], model="demo", t5_cpu=True, backend="gloo", base_precision="fp32", param_dtype="float32")
for how, number in (("killed", 9), ("asked to end", 2)):
    text = script.format(tests=os.path.dirname(os.path.abspath(__file__)), folder=str(folder), pack=str(pack))
    run = subprocess.run([sys.executable, "-c", text, json.dumps(graph), str(number)], env=environment(WANPAR_SERVER=program), capture_output=True, text=True, timeout=120)
    told = (json.loads(run.stdout) if run.stdout.startswith("[") else [""])[0]
    check("a server is started where none runs", "ready" in told and len(re.findall(r"^rank \d", told, re.M)) == 4, told, run.stderr[-2000:])
    port = re.search(r"http://127\.0\.0\.1:\d+", told)
    until, gone = time.monotonic() + 15, False
    while port and not gone and time.monotonic() < until:
        try:
            client_module.Server(port[0]).status()
            time.sleep(0.2)
        except ConnectionError:
            gone = True
    check("and ends with ComfyUI, which was {}".format(how), gone, told)

shutil.rmtree(folder, ignore_errors=True)
finish()
