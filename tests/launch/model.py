#!/usr/bin/env python3
"""The trained model shows what it is told: eight prompts through wan_t2v, two ranks making a video each, and the judge.

Usage: model.py WAN_T2V WAN_JUDGE MODEL
"""

import pathlib
import re
import sys
import tempfile

from processes import check, finish, run

wan_t2v, wan_judge, model = sys.argv[1:]
PROMPTS = """\
a red ball moves left on a dark blue background
a yellow square moves up on a black background
a purple triangle moves right on a grey background
a green ball moves down on a brown background
a large white square moves slowly right on a dark green background
a small blue triangle moves quickly up on a black background
a white ball moves left on a grey background
a red square moves down on a dark blue background
"""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

with tempfile.TemporaryDirectory(prefix="wan_model_test.") as folder:
    folder = pathlib.Path(folder)
    prompts, turned = folder / "prompts.txt", folder / "turned.txt"
    prompts.write_text(PROMPTS)
    turned.write_text(re.sub("|".join(OPPOSITE), lambda found: OPPOSITE[found[0]], PROMPTS))
    made = run([wan_t2v, "--ckpt_dir", model, "--prompt_file", prompts, "--size", "128*128", "--frame_num", "17", "--base_seed", "1",
                "--sample_steps", "10", "--sample_guide_scale", "4", "--local_ranks", "2", "--data_parallel_size", "2",
                "--save_file", folder / "clip.mp4", "--save_tensors", folder / "clip.safetensors"], limit=600)  # fmt: skip
    clips = sorted(folder.glob("clip_*.safetensors"))
    check("eight videos are made", made.status == 0 and len(clips) == 8, made)
    judged = run([wan_judge, "clips", prompts, *clips])
    check("they show what their prompts say", judged.out.endswith("8 of 8 clips are right, and 8 of 8 with one object\n"), judged)
    judged = run([wan_judge, "clips", turned, *clips])
    check("and not the opposite", judged.out.endswith("0 of 8 clips are right, and 0 of 8 with one object\n"), judged)
finish()
