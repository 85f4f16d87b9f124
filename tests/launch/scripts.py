#!/usr/bin/env python3
"""Scripts that start runs: those made of workflows and configurations, those in examples/launch, and what shells complete.

Usage: scripts.py FOLDER_OF_PROGRAMS PROJECT_ROOT
"""

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile

from processes import check, environment, finish, run

programs, root = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
wanrun, wan_t2v = str(programs / "wanrun"), str(programs / "wan_t2v")
workflows, launch, model = root / "tests/data/workflows", root / "examples/launch", root / "tests/data/diffusers"
folder = pathlib.Path(tempfile.mkdtemp(prefix="scripts_test."))
tiny = ["--size", "32*32", "--frame_num", "1", "--sample_steps", "2", "--save_file", str(folder / "made.mp4")]

# In the place of programs: they say how they were started.
stubs = folder / "stubs"
stubs.mkdir()
for name in ("wanrun", "srun"):
    (stubs / name).write_text('#!/bin/sh\necho "{} $*"\n'.format(name))
    (stubs / name).chmod(stat.S_IRWXU)


def dry(words, **values):
    """What a script would start, a line each."""
    done = run([str(w) for w in words], 20, PATH="{}:{}".format(stubs, os.environ["PATH"]), **values)
    return done.out.splitlines(), done


def create(file, kind="--workflow"):
    done = run([wanrun, "--create-script", kind, str(file)], 20)
    script = folder / "created.sh"
    script.write_text(done.out)
    return script, done


def edited(change):
    """The workflow of the API, changed."""
    graph = json.loads((workflows / "text_to_video_wan_api.json").read_text(encoding="utf8"))
    change(graph)
    (folder / "edited.json").write_text(json.dumps(graph))
    return folder / "edited.json"


lines = {}
for name in ("text_to_video_wan.json", "text_to_video_wan_api.json"):
    script, done = create(workflows / name)
    lines[name], ran = dry(["bash", script, "DIR", "2", "--stats"])
    fine = done.status == 0 and len(lines[name]) == 2 and lines[name][0] == "wanrun -n 2 -- wan_check --ckpt_dir DIR"
    check("{}: checks, then makes".format(name), fine, done, ran)
    wanted = ("wanrun -n 2 -- wan_t2v --ckpt_dir DIR", "--prompt=a fox moving quickly in", "--negative_prompt=色调艳丽", "--size=832*480", "--frame_num=33",
              "--base_seed=82628696717253", "--sample_steps=30", "--sample_guide_scale=6", "--sample_solver=unipc", "--sample_shift=8", "--fps=16", "--stats")
    check("{}: says what the workflow says".format(name), all(w in lines[name][-1] for w in wanted), ran)
split = [sorted(line[-1].split(" --")) for line in lines.values()]
check("both formats say the same", split[0] == split[1], *split)

latent = {"class_type": "WanImageToVideo", "inputs": {"width": 32}}
for change, sentence in (
    (lambda g: g.update({"4": dict(g["3"])}), "is a second sampler beside node 3"),
    (lambda g: g["3"]["inputs"].update(sampler_name="heun"), "takes the solver 'heun'"),
    (lambda g: g["3"]["inputs"].update(denoise=0.5), "begins with a video that is there"),
    (lambda g: g["40"].update(latent), "only text to video is built here"),
    (lambda g: g["40"]["inputs"].update(width=833), "multiples of 16"),
    (lambda g: g["40"]["inputs"].update(batch_size=2), "several videos"),
    (lambda g: g["48"].update(class_type="LoraLoaderModelOnly"), "adds a LoRA"),
    (lambda g: g["48"].update(class_type="TeaCache"), "changes the model in a way that is not known"),
    (lambda g: g["37"]["inputs"].update(unet_name="wan2.2_t2v_high_noise.safetensors"), "Wan2.1's models of text to video"),
    (lambda g: g.pop("3"), "has no sampler"),
):
    done = run([wanrun, "--create-script", "--workflow", str(edited(change))], 20)
    check("refused: " + sentence, done.status == 2 and sentence in done.error and len(done.error.splitlines()) == 1 and not done.out, done)
for text, sentence in (("{", "is not valid JSON"), ('{"stps": 3}', "did you mean steps?"), ('{"nodes": [{"id": 1}], "links": []}', "is no ComfyUI workflow"),
                       ('{"1": {"class_type": "KSampler", "inputs": ' + '{"a": ' * 100000 + "1" + "}" * 100002, "is nested too deeply")):
    (folder / "wrong.json").write_text(text)
    done = run([wanrun, "--create-script", "--workflow", str(folder / "wrong.json")], 20)
    check("refused: " + sentence, done.status == 2 and sentence in done.error and len(done.error.splitlines()) == 1, done)

nodes = {
    "1": {"class_type": "WanDistributedConfig", "inputs": {"world_size": 4, "rank": 0, "use_fsdp": True, "use_context_parallel": True, "ulysses_size": 2, "ring_size": 2}},
    "2": {"class_type": "WanDistributedModelLoader", "inputs": {"model": "wan2.1_14b", "base_precision": "bf16", "wan_distributed_config": ["1", 0]}},
    "3": {"class_type": "DistriFusionWanVideoSampler", "inputs": {"distrifusion_model": ["2", 0], "positive": "it's a fox", "negative": "", "seed": 1, "steps": 9, "cfg": 5.0,
                                                                 "sampler_name": "euler", "width": 32, "height": 32, "num_frames": 1, "fps": 16, "shift": 0.0}},
}
(folder / "nodes.json").write_text(json.dumps(nodes))
script, done = create(folder / "nodes.json")
said, ran = dry(["bash", script, "DIR"])
check("nodes for several GPUs say how they share", done.status == 0 and all(w in said[-1] for w in ("-n 4 --", "--ulysses_size=2", "--ring_size=2", "--dit_fsdp=true", "--dtype=bfloat16", "it's a fox")), done, ran)

(folder / "odd.json").write_text(json.dumps({"world_size": 2, "gpu_ids": [1, 3], "steps": 2, "prompt": "$(touch x) `a` \"b\" 'c'\n", "model": "my folder"}))
script, done = create(folder / "odd.json", "--config")
said, ran = dry(["bash", script])
check("a configuration makes a script, whatever its texts hold", done.status == 0 and "-n 2 --gpus 1,3 -- wan_check --ckpt_dir my folder" in said[0] and "$(touch x) `a` \"b\" 'c'" in said[1], done, ran)

# Programs that are there, once: a script that was made, and one of the examples.
script, done = create(edited(lambda g: (g["40"]["inputs"].update(width=32, height=32, length=1), g["3"]["inputs"].update(steps=2))))
done = run(["bash", str(script), str(model), "2", "--device=cpu", "--save_file", str(folder / "created.mp4")], 120)
check("a script that was made makes a video on two ranks", done.status == 0 and (folder / "created.mp4").exists() and "OK" in done.out, done)
done = run(["bash", str(launch / "run_multiGPU_example.sh"), str(model), "2", *tiny], 120, PATH="{}:{}".format(programs, os.environ["PATH"]), WANPAR_DEVICE="cpu")
check("so does an example", done.status == 0 and (folder / "made.mp4").exists(), done)
done = run(["bash", str(launch / "run_multiGPU_example.sh"), str(folder / "nowhere"), "1"], 60, PATH="{}:{}".format(programs, os.environ["PATH"]))
check("where the check fails, nothing is started", done.status == 1 and "FAIL" in done.out and "wan_t2v" not in done.error, done)
done = run([wan_t2v, "--config", str(launch / "8gpu.json"), "--local_ranks", "8", "--ckpt_dir", str(model), "--prompt", "a fox", *tiny], 120)
check("the set-up of eight GPUs works on eight threads", done.status == 0 and "8 ranks: 1 guidance group x 2 Ulysses x 4 ring, transformer sharded, text encoder sharded" in done.error, done)
done = run([wan_t2v, "--config", str(launch / "8gpu.json"), "--ckpt_dir", str(model), "--prompt", "a fox", *tiny], 60)
check("and says how many ranks it wants", done.status == 2 and "wanrun -n 8 -- wan_t2v" in done.error and "8gpu.json: world_size" in done.error, done)

wanted = {
    "run_multiGPU_example.sh": (["DIR"], "wanrun -n 2 -- wan_t2v --ckpt_dir DIR --t5_fsdp --dit_fsdp"),
    "run_sequence_parallel_example.sh": (["DIR", "8", "--stats"], "wanrun -n 8 -- wan_t2v --ckpt_dir DIR --cfg_size 1 --stats"),
    "launch_8gpu.sh": (["DIR"], "wanrun -n 8 -- wan_t2v --ckpt_dir DIR --config {}/8gpu.json".format(launch)),
    "wan_t2v.sbatch": (["DIR", "a fox"], "srun wan_t2v --ckpt_dir DIR --prompt a fox --dit_fsdp --t5_fsdp"),
}
check("every script of examples/launch is tried", {p.name for p in launch.glob("*.s*")} == set(wanted))
for name, (words, last) in wanted.items():
    said, done = dry([launch / name, *words])
    check("{}: {}".format(name, said), done.status == 0 and len(said) == 2 and "wan_check --ckpt_dir DIR" in said[0] and said[1] == last, done)
    said, done = dry([launch / name])
    check("{} asks for a checkpoint".format(name), done.status != 0 and "CKPT" in done.error and not said, done)
manifest = (launch / "kubernetes.yaml").read_text()
command = " ".join(line.strip() for line in re.search(r"- >-\n((?: {14}.*\n)+)", manifest).group(1).splitlines())
said, done = dry(["/bin/sh", "-c", command], JOB_COMPLETION_INDEX=1)
check("a pod starts its ranks", said[0].startswith("wanrun -n 4 --nnodes 2 --node_rank 1 --master_addr wan-0.wan -- wan_t2v"), done)
accepted = run([wanrun, *said[0].split(" -- ")[0].split()[1:], "--", "true"], 20)
check("as the launcher takes it", accepted.status == 0, accepted)
for config in sorted((*launch.glob("*.json"), *launch.glob("*.toml"))):
    done = run([wan_t2v, "--config", str(config), "--print-config"], 20)
    check("{} is read".format(config.name), done.status == 0 and config.name in done.out, done)

for program in ("wan_t2v", "wan_check", "wan_train", "wanrun"):
    shown = run([str(programs / program), "--help"], 20)
    flags = set(re.findall(r"(--\w+)", "\n".join(line[:40] for line in shown.out.splitlines() if line.lstrip().startswith("-"))))
    page = run([str(programs / program), "--man"], 20)
    check("{}: the page has each flag".format(program), len(flags) > 8 and all(flag.replace("-", "\\-") in page.out for flag in flags), page.status, flags)
    (folder / "page.1").write_text(page.out)
    if shutil.which("groff"):
        read = run(["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-P-c", "-P-b", "-P-o", "-P-u", str(folder / "page.1")], 20)
        check("{}: the page is well-formed".format(program), read.status == 0 and not read.error and "OPTIONS" in read.out, read)
    for shell in ("bash", "zsh", "fish"):
        done = run([str(programs / program), "--completion", shell], 20)
        check("{}: {} completes each flag".format(program, shell), done.status == 0 and all(flag[2:] in done.out for flag in flags), done.status)
        (folder / (program + "." + shell)).write_text(done.out)
        if shutil.which(shell):
            read = run([shell, "-n", str(folder / (program + "." + shell))], 20)
            check("{}: {} reads it".format(program, shell), read.status == 0, read)

ask = 'source {}/wan_t2v.bash; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); compopt() {{ :; }}; _wan_t2v; echo "${{COMPREPLY[*]}}"'
for words, answer in (("wan_t2v --dev", "--device"), ("wan_t2v --device c", "cpu cuda"), ("wan_t2v --sample_solver d", "dpm++ diffusers_unipc"), ("wan_t2v --prompt x", "")):
    done = run(["bash", "-c", ask.format(folder, words)], 20)
    check("bash completes '{}' to '{}'".format(words, answer), done.out == answer + "\n", done)
if shutil.which("fish"):
    done = run(["fish", "-c", "source {}/wan_t2v.fish; complete -C 'wan_t2v --device c'".format(folder)], 20)
    check("fish does so", [line.split()[0] for line in done.out.splitlines()] == ["cpu", "cuda"], done)

shutil.rmtree(folder)
finish()
