#!/usr/bin/env python3
"""Spoils files of the demo's checkpoint in some hundred ways and looks at what wan_t2v makes of each.

    scripts/check_files.py [PROGRAM] [--count 300] [--seed 1]

No run may crash, wait, or write a video from a file that is not right; each failure is one sentence. Of safetensors
files, what the library `safetensors` from PyPI refuses must be refused, and what it reads must be read: the program's
own reader is asked through --noise, whose file may hold anything beside 'latents'.

Schedule: before a release, and after a change to src/files or examples/wan/io; five minutes on 2 cores. scripts/test has its cases as
unit tests. Wants `pip install safetensors` in the Python that runs it.
"""

import argparse
import copy
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors

ROOT = Path(__file__).resolve().parent.parent
VALUES = [None, True, False, 0, 1, -1, 2, 2.5, 3, 7, 64, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 1e300, -1e-300, "", "16", "x" * 200, [], [1], [1, 2, 2],
          [-1, 2, 4, 4], [1, 2, 4, 4, 8], ["a"], [[1]], {}, {"a": 1}, [None, None], [0] * 16, [1e39] * 16, "WanModel"]


def parts_of(raw):
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def spoil_safetensors(raw, dice):
    """One of many ways to be wrong, or nearly: its name, and the bytes."""
    header, body = parts_of(raw)
    names = [name for name in header if name != "__metadata__"]
    one, other = dice.choice(names), dice.choice(names)
    entry = header[one]

    def changed(**values):
        entry.update(values)
        return joined(header, body)

    def offsets(begin, end):
        first, last = entry["data_offsets"]
        return changed(data_offsets=[first + begin, last + end])

    def twice():
        text = json.dumps(header)
        return joined(("{" + json.dumps(one) + ":" + json.dumps(entry) + "," + text[1:]).encode(), body)

    def key_twice():
        text = json.dumps(header).replace('"dtype"', '"dtype":"F32","dtype"', 1)
        return joined(text.encode(), body)

    def flipped():
        text = bytearray(json.dumps(header).encode())
        text[dice.randrange(len(text))] ^= 1 << dice.randrange(8)
        return joined(bytes(text), body)

    def extra(key, value):
        entry[key] = value
        return joined(header, body)

    def metadata(value):
        return joined({"__metadata__": value, **{n: header[n] for n in names}}, body)

    def appended(shape, dtype, size):
        return joined({**header, "more": {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + size]}}, body + bytes(size))

    text = json.dumps(header).encode()
    ways = {
        "cut": lambda: raw[: dice.randrange(len(raw))],
        "cut header": lambda: raw[: dice.randrange(len(text) + 8)],
        "longer": lambda: raw + bytes(dice.randrange(1, 64)),
        "header length": lambda: joined(text, body, dice.choice([0, 1, len(text) - 1, len(text) + 1, len(raw), 1 << 32, 1 << 63, (1 << 64) - 1, 100_000_001])),
        "bit of the header": flipped,
        "byte of the file": lambda: (lambda b: (b.__setitem__(dice.randrange(len(text) + 8), dice.randrange(256)), bytes(b))[1])(bytearray(raw)),
        "dtype": lambda: changed(dtype=dice.choice(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "f32", "", "U16", "C64", "F64", None, 3, []])),
        "shape": lambda: changed(shape=dice.choice([[], [0], [1], [-1], [1.0], [2**62, 8], [2**64], "3", None, entry["shape"] + [1], entry["shape"][::-1], [[1]], entry["shape"] + [0], {"0": 1}])),
        "offsets": lambda: offsets(dice.choice([-4, -1, 0, 1, 4]), dice.choice([-4, -1, 0, 1, 4])),
        "odd offsets": lambda: changed(data_offsets=dice.choice([[], [0], [0, 4, 8], [-4, 0], [8, 4], [0.0, 4.0], "0", None, [0, 2**63], [2**64 - 4, 2**64], [[0, 4]]])),
        "offsets of another": lambda: changed(data_offsets=header[other]["data_offsets"]),
        "missing key": lambda: (entry.pop(dice.choice(["dtype", "shape", "data_offsets"])), joined(header, body))[1],
        "unknown key": lambda: extra("more", 1),
        "name twice": twice,
        "key twice": key_twice,
        "no object": lambda: joined({**header, one: dice.choice([1, [], "x", None, True])}, body),
        "metadata": lambda: metadata(dice.choice([{}, {"a": "b"}, {"a": 1}, [], "x", 3, {"a": None}, {"a": {"b": "c"}}, None])),
        "spaces before": lambda: joined(b" " + text, body),
        "spaces behind": lambda: joined(text + b" " * dice.randrange(1, 99), body),
        "line breaks behind": lambda: joined(text + b"\n\t", body),
        "zeros behind": lambda: joined(text + b"\0\0", body),
        "mark of byte order": lambda: joined(b"\xef\xbb\xbf" + text, body),
        "not UTF-8": lambda: joined(text.replace(b'"', b'"\xff', 1), body),
        "comment": lambda: joined(text + b"//", body),
        "list": lambda: joined(b"[]", body),
        "nothing": lambda: joined({}, b""),
        "nothing, with bytes": lambda: joined({}, b"abc"),
        "deep": lambda: joined(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", body),
        "surrogate": lambda: joined(text.replace(b'"', b'"\\ud800', 1), body),
        "escape": lambda: joined(text.replace(b'"', b'"\\u0000', 1), body),
        "hole": lambda: joined(header, bytes(8) + body),
        "empty tensor": lambda: appended([0, 7], "F32", 0),
        "scalar": lambda: appended([], "F32", 4),
        "misaligned": lambda: appended([3], "U8", 3),
        "of no size that fits": lambda: appended([2**33, 2**33], "U8", 0),
        "empty of no size that fits": lambda: appended([0, 2**33, 2**33], "U8", 0),
        "NaN in JSON": lambda: joined(text.replace(b"[", b"[NaN,", 1), body),
        "number with a plus": lambda: joined(text.replace(b"[", b"[+", 1), body),
        "number with zeros": lambda: joined(text.replace(b'"shape": [', b'"shape": [0', 1), body),
        "number with an exponent": lambda: joined(text.replace(b"0]", b"0e0]", 1), body),
        "minus nought": lambda: joined(text.replace(b"[0,", b"[-0,", 1), body),
        "unchanged": lambda: raw,
    }
    name = dice.choice(list(ways))
    return name, ways[name]()


def spoil_json(config, dice):
    """Some value of a JSON object, at any depth, becomes another; or a key goes, or comes."""
    config = copy.deepcopy(config)
    place = config
    while True:
        if isinstance(place, dict) and place and dice.random() < 0.1:
            key = dice.choice(list(place))
            if dice.random() < 0.5:
                place.pop(key)
                return "no {}".format(key), config
            place[key + "_"] = dice.choice(VALUES)
            return "more than {}".format(key), config
        key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
        if isinstance(place[key], (dict, list)) and place[key] and dice.random() < 0.5:
            place = place[key]
            continue
        place[key] = dice.choice(VALUES)
        return "{} = {}".format(key, str(place[key])[:30]), config


class Trial:
    def __init__(self, program, checkpoint, work):
        self.program, self.checkpoint, self.work = program, checkpoint, work
        self.faults = 0

    def run(self, folder, *more):
        words = [self.program, "--ckpt_dir", folder, "--prompt", "x", "--size", "16*16", "--frame_num", "1", "--sample_steps", "1", "--base_seed", "1",
                 "--save_file", self.work / "out.mp4", *more]
        try:
            done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
            return done.returncode, done.stderr
        except subprocess.TimeoutExpired:
            return "waited", ""

    def fault(self, what, said):
        self.faults += 1
        print("FAULT {}: {}".format(what, said), flush=True)

    def judge(self, what, status, error, may_run):
        """One sentence and 1, or a video and 0."""
        lines = [line for line in error.splitlines() if line.startswith("wan_t2v")]
        video = self.work / "out.mp4"
        if status == 0 and not (may_run and video.exists()):
            self.fault(what, "accepted")
        elif status != 0 and (status not in (1, 2) or len(lines) != 1 or video.exists() or "xception" in error):
            self.fault(what, "status {}: {}".format(status, error[-500:]))
        video.unlink(missing_ok=True)
        leftovers = [file for file in self.work.iterdir() if file.name.startswith(".wan_t2v")]
        if leftovers:
            self.fault(what, "left {}".format(leftovers))

    def copy(self):
        folder = self.work / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.checkpoint, folder)
        return folder


def reads(file):
    try:
        with safetensors.safe_open(str(file), framework="np") as opened:
            return set(opened.keys())
    except Exception as error:  # whatever it is, it did not read the file
        return str(error)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program", nargs="?", default=ROOT / "build/bin/wan_t2v", type=Path)
    arguments.add_argument("--count", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        subprocess.run([options.program.parent / "wan_demo_checkpoint", work / "demo"], check=True)
        trial = Trial(options.program, work / "demo", work)
        status, error = trial.run(trial.checkpoint)
        trial.judge("the checkpoint itself", status, error, may_run=True)

        weights = sorted(trial.checkpoint.glob("*/*.safetensors"))
        configs = sorted(trial.checkpoint.rglob("*.json"))
        agreed = refused = 0
        for number in range(options.count):
            kind = number % 3
            if kind == 0:  # safetensors, and PyPI's reader beside ours
                source = dice.choice(weights)
                way, raw = spoil_safetensors(source.read_bytes(), dice)
                file = work / "spoilt.safetensors"
                file.write_bytes(raw)
                theirs = reads(file)
                status, error = trial.run(trial.checkpoint, "--noise", file)
                ours = "there is no tensor 'latents'" in error
                what = "{} {}: {}".format(number, source.relative_to(trial.checkpoint), way)
                trial.judge(what, status, error, may_run=False)
                if ours != isinstance(theirs, set):
                    trial.fault(what, "PyPI's safetensors says {}, ours {}".format(theirs if isinstance(theirs, str) else "good", error.strip()[-300:]))
                agreed += ours
                refused += not ours
                folder = trial.copy()
                shutil.copy(file, folder / source.relative_to(trial.checkpoint))
                status, error = trial.run(folder)
                trial.judge(what + ", in the checkpoint", status, error, may_run=isinstance(theirs, set))
            elif kind == 1:
                source = dice.choice(configs)
                way, config = spoil_json(json.loads(source.read_text()), dice)
                folder = trial.copy()
                (folder / source.relative_to(trial.checkpoint)).write_text(json.dumps(config))
                status, error = trial.run(folder)
                trial.judge("{} {}: {}".format(number, source.relative_to(trial.checkpoint), way), status, error, may_run=True)
            else:
                folder = trial.copy()
                source = dice.choice(weights)
                whole = folder / source.relative_to(trial.checkpoint)
                shard = whole.with_name("part.safetensors")
                whole.rename(shard)
                index = {"metadata": {"total_size": 1}, "weight_map": {name: shard.name for name in parts_of(shard.read_bytes())[0] if name != "__metadata__"}}
                way, index = spoil_json(index, dice)
                if dice.random() < 0.3:
                    names = dice.choice(["../part.safetensors", "/etc/passwd", "part", "", ".", "part.safetensors/", "PART.safetensors"])
                    index["weight_map"] = {**(index.get("weight_map") or {}), "more": names} if isinstance(index.get("weight_map"), dict) else names
                whole.with_name(whole.name + ".index.json").write_text(json.dumps(index))
                status, error = trial.run(folder)
                trial.judge("{} index of {}: {}".format(number, whole.name, way), status, error, may_run=True)
        print("{} files, {} faults; of the safetensors {} were read by both and {} refused by both".format(options.count, trial.faults, agreed, refused))
    return 1 if trial.faults else 0


if __name__ == "__main__":
    sys.exit(main())
