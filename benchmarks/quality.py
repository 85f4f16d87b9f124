"""What each approximate setting of PatchParallel does to the videos of the trained model, beside those of one rank.

    scripts/setup --full && cmake --build --preset release --target wan_t2v wan_judge
    .venv/bin/python benchmarks/quality.py

One factor is changed at a time; every run begins with the same noise. Each clip is a line of FOLDER/clips.jsonl: a run that was
stopped goes on behind the last one when it is started again. A sheet of each clip's frames is left in FOLDER/sheets; table, plot and
a picture are written to benchmarks/results.
"""

import argparse
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import struct
import subprocess
import sys
import warnings
import zlib

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch's own, and nothing here needs it
import torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples/train/model"
COMMON = dict(size="128*128", frame_num=17, sample_steps=30, sample_guide_scale=4, base_seed=1, device="cpu", timeout=600)
SIDE, TOKEN, TOKEN_FRAMES = 128, 16, 5  # pixels of a side and of a token, frames of tokens
WORLD = 2  # of the captions: the one that the model's card counts
AT_ONCE = 3  # prompts of a setting that are made before it is the next one's turn


def patches(ranks=2, **flags):
    return dict(local_ranks=ranks, patch_parallel_size=ranks, **flags)


EXACT = {}
DEFAULT = patches()
NOISE = [
    ("one rank, 2 threads", dict(threads=2)),
    ("2 ranks, all steps exact", patches(warmup_steps=COMMON["sample_steps"])),
    ("one rank, bfloat16", dict(dtype="bfloat16")),
]
FACTORS = {
    "split": [
        ("rows, 2 ranks (the default)", DEFAULT),
        ("rows, 4 ranks", patches(4)),
        ("frames, 2 ranks", patches(split_mode="temporal")),
        ("frames, 4 ranks", patches(4, split_mode="temporal")),
        ("rows and frames, 4 ranks", patches(4, split_mode="spatiotemporal")),
    ],
    "warm-up": [
        ("no step exact", patches(warmup_steps=0, sync_first_step="false")),
        ("1 step", patches(warmup_steps=1)),
        ("2 steps", patches(warmup_steps=2)),
        ("6 steps", patches(warmup_steps=6)),
        ("8 steps", patches(warmup_steps=8)),
    ],
    "exact in between": [
        ("every 10th step", patches(sync_frequency=10)),
        ("every 5th step", patches(sync_frequency=5)),
        ("every 2nd step", patches(sync_frequency=2)),
        ("after a change above 0.2", patches(max_staleness=0.2)),
        ("after a change above 0.1", patches(max_staleness=0.1)),
    ],
    "keys and values travel as": [
        ("bfloat16", patches(kv_dtype="bfloat16")),
        ("float8", patches(kv_dtype="float8_e4m3fn")),
    ],
    "sees beyond its patch": [
        ("64 pixels, which is all", patches(patch_overlap=64)),
        ("48 pixels", patches(patch_overlap=48)),
        ("32 pixels", patches(patch_overlap=32)),
        ("32 pixels, waited for", patches(patch_overlap=32, async_boundary_update="false")),
        ("16 pixels", patches(patch_overlap=16)),
        ("of frames, 4 frames", patches(split_mode="temporal", patch_overlap=4)),
        ("of frames, chunks of 8", patches(split_mode="temporal", temporal_chunk_size=8)),
    ],
    "together": [("rows, 4 ranks, 8 steps, float8", patches(4, warmup_steps=8, kv_dtype="float8_e4m3fn"))],
}
SETTINGS = [flags for settings in FACTORS.values() for _, flags in settings]
SHOWN = 2  # the prompt of the picture, and its rows: something moves from the upper patch to the lower
SHOWN_SETTINGS = [EXACT, DEFAULT, patches(warmup_steps=1), patches(patch_overlap=32), patches(patch_overlap=16)]
SHOWN_FRAMES = range(0, COMMON["frame_num"], 4)


# --- What is made -----------------------------------------------------------------------------------------


class Bench:
    """Makes clips and measures them; knows those that an earlier run has measured."""

    def __init__(self, folder, programs):
        self.folder, self.programs = folder, programs
        folder.mkdir(parents=True, exist_ok=True)
        captions = self.call("wan_judge", "captions", "60", str(WORLD)).stdout
        self.prompts = captions.splitlines()
        self.clips = {}
        self.file = folder / "clips.jsonl"
        self.go_on()

    def go_on(self):
        """Reads what is there already; refuses what other programs have made."""
        head = json.dumps({"made_by": fingerprint([self.programs / "wan_t2v", self.programs / "wan_judge", *MODEL.rglob("*")]), **COMMON})
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # without a line that was being written
        lines = whole.splitlines()
        if lines and lines[0] != head:
            sys.exit(f"{self.file} is of another build, checkpoint or sampler: remove {self.folder}, or give another --folder")
        if not whole or whole != text:
            self.file.write_text(whole or head + "\n", encoding="utf-8")
        for line in lines[1:]:
            clip = json.loads(line)
            self.clips[key(clip["flags"], clip["prompt"])] = clip

    def call(self, program, *words, **environment):
        done = subprocess.run(
            [self.programs / program, *words], text=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
        )
        if done.returncode != 0:
            sys.exit(f"{program} {' '.join(map(str, words))}\n{done.stderr}")
        return done

    def exact_frames(self, prompt):
        return self.folder / f"exact/{prompt:02}.safetensors"

    def shown_frames(self, flags):
        return self.folder / f"shown/{name_of(flags)}.safetensors"

    def is_there(self, flags, prompt):
        return key(flags, prompt) in self.clips and (flags != EXACT or self.exact_frames(prompt).exists())

    def make(self, flags, prompts):
        """Clips of the prompts of these numbers, as far as they are not there."""
        prompts = [prompt for prompt in prompts if not self.is_there(flags, prompt)]
        for first in range(0, len(prompts), AT_ONCE):
            self.make_at_once(flags, prompts[first : first + AT_ONCE])

    def make_at_once(self, flags, prompts):
        made, sheets = self.folder / "made", self.folder / "sheets" / (name_of(flags))
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        sheets.mkdir(parents=True, exist_ok=True)
        captions = made / "captions.txt"
        captions.write_text("".join(self.prompts[prompt] + "\n" for prompt in prompts), encoding="utf-8")
        words = dict(COMMON, ckpt_dir=MODEL, prompt_file=captions, save_file=made / "clip.mp4", save_tensors=made / "clip.safetensors",
                     contact_sheet=made / "clip.png", **flags)  # fmt: skip
        threads = words.pop("threads", 1)
        spoken = [str(word) for flag, value in words.items() for word in ("--" + flag, value)]
        done = self.call("wan_t2v", *spoken, *(["--stats"] if "patch_parallel_size" in flags else []), OMP_NUM_THREADS=str(threads))
        files = sorted(made.glob("clip_*.safetensors"))
        wrong = self.call("wan_judge", "clips", captions, *files).stdout
        bytes_of = [tuple(map(int, found)) for found in re.findall(r"PatchParallel: .* (\d+) bytes sent, (\d+) bytes held", done.stderr)]
        lines = []
        for i, (prompt, file) in enumerate(zip(prompts, files, strict=True)):
            clip = dict(flags=flags, prompt=prompt, caption=self.prompts[prompt], right=f"{file}: " not in wrong)
            if prompt == SHOWN and flags in SHOWN_SETTINGS:
                self.shown_frames(flags).parent.mkdir(exist_ok=True)
                shutil.copy(file, self.shown_frames(flags))
            if flags == EXACT:
                self.exact_frames(prompt).parent.mkdir(exist_ok=True)
                file.replace(self.exact_frames(prompt))
            else:
                clip |= measured(frames_in(file), frames_in(self.exact_frames(prompt)), joints_of(flags))
            if bytes_of:
                clip["sent"], clip["held"] = bytes_of[i]
            (made / file.with_suffix(".png").name).replace(sheets / f"{prompt:02}.png")
            self.clips[key(flags, prompt)] = clip
            lines.append(json.dumps(clip) + "\n")
        with open(self.file, "a", encoding="utf-8") as out:
            out.write("".join(lines))
        shutil.rmtree(made)
        print(f"{name_of(flags)}: {', '.join(map(str, prompts))}", flush=True)

    def of(self, flags, prompts):
        return [self.clips[key(flags, prompt)] for prompt in prompts if key(flags, prompt) in self.clips]


def key(flags, prompt):
    return json.dumps(flags, sort_keys=True), prompt


def name_of(flags):
    return "_".join(f"{flag}_{value}" for flag, value in flags.items() if flag != "local_ranks") or "exact"


def fingerprint(files):
    hash = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            hash.update(file.read_bytes())
    return hash.hexdigest()[:16]


def frames_in(file):
    """[3, frames, height, width], in [-1, 1]."""
    raw = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    frames = json.loads(raw[8 : 8 + length])["frames"]
    begin, end = frames["data_offsets"]
    return torch.frombuffer(raw, dtype=torch.float32, offset=8 + length + begin, count=(end - begin) // 4).view(frames["shape"])


# --- What is measured -------------------------------------------------------------------------------------


def cuts(count, parts):
    """Where `count` rows or frames are cut, of which the first parts have one more."""
    return [part * (count // parts) + min(part, count % parts) for part in range(1, parts)]


def joints_of(flags):
    """Where patches meet: which rows of pixels, of which change from one frame to the next. [frames - 1, rows]"""
    ranks, mode = flags.get("patch_parallel_size", 2), flags.get("split_mode", "spatial")
    parts = {"spatial": (1, ranks), "temporal": (ranks, 1), "spatiotemporal": (2, ranks // 2)}[mode]
    joints = torch.zeros(COMMON["frame_num"] - 1, SIDE, dtype=torch.bool)
    for row in cuts(SIDE // TOKEN, parts[1]):
        joints[:, row * TOKEN - TOKEN // 4 : row * TOKEN + TOKEN // 4] = True
    for frame in cuts(TOKEN_FRAMES, parts[0]):
        joints[4 * frame - 4] = True  # the first frame stands alone, then four are one of tokens
    return joints


def measured(made, exact, joints):
    """`joints` and `elsewhere` are mean changes from frame to frame: of the clip, of the exact one, of their difference."""
    made, exact = 127.5 * (made + 1), 127.5 * (exact + 1)
    change = lambda x: (x[:, 1:] - x[:, :-1]).abs().mean((0, 3))
    changes = [change(x) for x in (made, exact, made - exact)]
    error = (made - exact).square().mean().item()
    return dict(
        psnr=10 * math.log10(255**2 / max(error, 1e-10)),
        ssim=ssim(made, exact),
        joints=[x[joints].mean().item() for x in changes],
        elsewhere=[x[~joints].mean().item() for x in changes],
    )


def ssim(a, b):
    """Of Wang et al. 2004, of 0 to 255: windows of 11 pixels, Gaussian of 1.5; mean over channels and frames."""
    window = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).view(1, 1, 1, 11)
    a, b = a.reshape(-1, 1, SIDE, SIDE).double(), b.reshape(-1, 1, SIDE, SIDE).double()
    blur = lambda x: torch.conv2d(torch.conv2d(x, window.double()), window.double().transpose(2, 3))
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return ((2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean().item()


# --- What is told -----------------------------------------------------------------------------------------


def flicker(clips):
    """Change from frame to frame at the joints, in parts of the exact clips', over the same elsewhere."""
    total = lambda where, which: sum(clip[where][which] for clip in clips)
    return total("joints", 0) / total("joints", 1) / (total("elsewhere", 0) / total("elsewhere", 1))


def exact_steps(flags):
    steps, warmup, every = COMMON["sample_steps"], flags.get("warmup_steps", 4), flags.get("sync_frequency", 0)
    if "patch_parallel_size" not in flags:
        return "all"
    first = 0 if "sync_first_step" in flags else 1
    count = sum(step < max(warmup, first) or (every > 0 and step % every == 0) for step in range(steps))
    return "all" if count == steps else f"{count}" if "max_staleness" not in flags else f"{count} or more"


def against(clips, default):
    """How many dB more than the default, on the same prompts, and the standard error of that."""
    of_prompt = {clip["prompt"]: clip["psnr"] for clip in default}
    more = [clip["psnr"] - of_prompt[clip["prompt"]] for clip in clips if clip["prompt"] in of_prompt]
    if len(more) < 2 or clips == default:
        return ""
    return f"{statistics.mean(more):+.1f} ± {statistics.stdev(more) / math.sqrt(len(more)):.1f}"


def row(bench, name, flags, prompts):
    clips = bench.of(flags, prompts)
    if not clips:
        return []
    exact = bench.of(EXACT, [clip["prompt"] for clip in clips])
    psnr = [clip["psnr"] for clip in clips]
    shown = lambda bytes: f"{bytes / 1e6:.1f}"
    return [
        "| {} | {} | {} | {:.1f} | {:.1f} | {} | {:.4f} | {} / {} | {:.3f} | {} | {} |".format(
            name, len(clips), exact_steps(flags), statistics.mean(psnr), min(psnr), against(clips, bench.of(DEFAULT, prompts)),
            statistics.mean(clip["ssim"] for clip in clips), sum(clip["right"] for clip in clips), sum(clip["right"] for clip in exact),
            flicker(clips), *(shown(clips[0][what]) if what in clips[0] else "" for what in ("sent", "held")),
        )  # fmt: skip
    ]


def report(bench, prompts, default_prompts):
    each = range(prompts)
    lines = [
        "# What displaced patches do to videos",
        "",
        "The trained model of examples/train/model, captions of world {}, {frame_num} frames of {size}, {sample_steps} steps of unipc, "
        "guidance {sample_guide_scale}, seed {base_seed}, float32, ranks as threads of one CPU thread each. Each clip beside the one that "
        "one rank with one thread makes of the same noise. What a line does not say is as in the default: rows, 2 ranks, 4 steps of "
        "warm-up.".format(WORLD, **COMMON),
        "",
        "Command: `.venv/bin/python benchmarks/quality.py`, on {} and torch {}.".format(processor(), torch.__version__),
        "",
        "| column | |",
        "|---|---|",
        "| exact | steps that are synchronous, of {} |".format(COMMON["sample_steps"]),
        "| PSNR, least, SSIM | of all frames, against the exact clips; the mean of the clips, and the worst of them |",
        "| more | PSNR above that of the default on the same prompts, and the standard error of it |",
        "| right | clips in which wan_judge finds what the caption says / the same of the exact clips of these prompts |",
        "| joints | change from frame to frame where patches meet (4 pixels on both sides, or the two frames), in parts of the exact "
        "clips', over the same elsewhere: 1 is no flicker |",
        "| sent, held | keys and values that rank 0 has sent in all steps, and holds between two, for both branches of guidance: MB |",
        "",
        "![PSNR of each setting](quality.svg)",
    ]
    columns = ("", "clips", "exact", "PSNR, dB", "least", "more", "SSIM", "right", "joints", "sent, MB", "held, MB")
    head = ["", "".join(f"| {column} " for column in columns) + "|", "|---" * len(columns) + "|"]
    lines += ["", "## The floor: what is not PatchParallel's", *head]
    for name, flags in NOISE:
        lines += row(bench, name, flags, each)
    lines += ["", "## The default", *head, *row(bench, "rows, 2 ranks", DEFAULT, range(default_prompts))]
    for factor, settings in FACTORS.items():
        lines += ["", f"## {factor[0].upper()}{factor[1:]}", *head]
        for name, flags in settings:
            lines += row(bench, name, flags, each)
    results = ROOT / "benchmarks/results"
    (results / "quality.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (results / "quality.svg").write_text(plot(bench, each), encoding="utf-8")
    shown = [bench.shown_frames(flags) for flags in SHOWN_SETTINGS]
    if all(file.exists() for file in shown):
        (results / "quality.png").write_bytes(picture(shown))


def processor():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{model}, {platform.system()} {platform.machine()}"


def plot(bench, prompts):
    """Each setting a line from its worst clip to its best, with a dot at the mean, as SVG."""
    left, width, height, low, high = 250, 860, 17, 10, 70
    place = lambda psnr: left + (min(max(psnr, low), high) - low) / (high - low) * (width - left - 90)
    text = lambda x, y, what, more="": f'<text x="{x:.1f}" y="{y:.1f}" {more}>{what}</text>'
    lines, y = [], 40
    for factor, settings in ({"the floor": NOISE} | FACTORS).items():
        lines.append(text(10, y + 4, factor, 'font-weight="bold"'))
        y += height
        for name, flags in settings:
            clips = bench.of(flags, prompts)
            if not clips:
                continue
            psnr = [clip["psnr"] for clip in clips]
            mean, colour = statistics.mean(psnr), "#777" if factor == "the floor" else "#c33" if flags == DEFAULT else "#1f5fa8"
            lines.append(text(24, y + 4, name))
            ends = f'x1="{place(min(psnr)):.1f}" x2="{place(max(psnr)):.1f}" y1="{y}" y2="{y}"'
            lines.append(f'<line {ends} stroke="{colour}" stroke-width="2" opacity="0.4"/>')
            lines.append(f'<circle cx="{place(mean):.1f}" cy="{y}" r="4" fill="{colour}"/>')
            lines.append(text(width - 80, y + 4, f"{mean:.1f} dB"))
            y += height
        y += 6
    axis = []
    for psnr in range(low, high + 1, 10):
        axis.append(f'<line x1="{place(psnr):.1f}" x2="{place(psnr):.1f}" y1="28" y2="{y}" stroke="#ddd"/>')
        axis.append(text(place(psnr) - 8, 20, f"{psnr}{'+' if psnr == high else ''}"))
    axis.append(text(10, 20, "PSNR, dB: worst clip, mean, best"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *axis, *lines, "</svg>"]) + "\n"


def picture(files):
    """A row of frames of each file, white lines between them, as PNG."""
    rows = []
    for file in files:
        frames = (127.5 * (frames_in(file) + 1)).round().clamp(0, 255).to(torch.uint8)
        row = torch.cat([torch.nn.functional.pad(frames[:, frame], (0, 2, 0, 2), value=255) for frame in SHOWN_FRAMES], 2)
        rows.append(row.permute(1, 2, 0))
    pixels = torch.cat(rows)
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + bytes(line.flatten().tolist()) for line in pixels)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/quality", help="what is made, to go on with")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/bin")
    parser.add_argument("--prompts", type=int, default=12, help="for each setting")
    parser.add_argument("--default_prompts", type=int, default=60, help="for the default")
    parser.add_argument("--report", action="store_true", help="only tell what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.folder, options.programs)
    if not 1 <= options.prompts <= options.default_prompts <= len(bench.prompts):
        sys.exit(
            f"--prompts {options.prompts} and --default_prompts {options.default_prompts}: give 1 or more, the default no fewer, and at "
            f"most {len(bench.prompts)}"
        )
    if not options.report:
        for first in range(0, options.prompts, AT_ONCE):  # so that a table of fewer prompts is there early
            for flags in (EXACT, *SETTINGS, *(flags for _, flags in NOISE)):
                bench.make(flags, range(first, min(first + AT_ONCE, options.prompts)))
        for flags in (EXACT, DEFAULT):
            bench.make(flags, range(options.default_prompts))
    report(bench, options.prompts, options.default_prompts)


if __name__ == "__main__":
    main()
