"""Nodes that make a video on a server, and tell how it is."""

from . import host
from .loaders import Model, number
from .refused import Refused

CATEGORY = "WanVideoWrapper/DistriFusion"
MODELS = "DISTRIFUSION_WANVIDEOMODEL,WANVIDEOMODEL"  # what any of the loaders gives
TEXT = ("STRING", {"default": "", "multiline": True, "dynamicPrompts": True})


def check_model(model):
    if not isinstance(model, Model):
        raise Refused("the model is of another node pack; take it from one of the loaders beside this node")


def size_of(latent_image):
    """Width, height and frames of the video that an empty latent, [1, 16, frames/4+1, height/8, width/8], is for."""
    samples = latent_image["samples"]
    if samples.dim() != 5 or samples.shape[0] != 1:
        raise Refused("latent_image has the shape {}, and a video's is [1, 16, frames, height, width]; take Empty Hunyuan Latent Video, batch size 1".format(
            list(samples.shape)))
    if bool(samples.any()):
        raise Refused("latent_image is not empty, and a text alone makes this video; take an empty latent, or none")
    _, _, frames, height, width = samples.shape
    return {"width": width * 8, "height": height * 8, "num_frames": (frames - 1) * 4 + 1}


class DistriFusionWanVideoSampler:
    """A video of a text, made by all ranks of a server."""

    RETURN_TYPES = ("VIDEO", "STRING")
    RETURN_NAMES = ("video", "file")
    FUNCTION = "sample_distrifusion"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = "Makes a video with the ranks of a server, saves it to the output folder, and shows it."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "distrifusion_model": (MODELS,),
                "positive": TEXT,
                "negative": ("STRING", {"default": "", "multiline": True, "tooltip": "Empty: Wan's own"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
                "steps": number(50, 1, 1000, "Denoising steps"),
                "cfg": ("FLOAT", {"default": 5.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Guidance; 1 or less: none"}),
                "sampler_name": (["unipc", "dpm++", "euler", "diffusers_unipc"], {"default": "unipc"}),
                "width": ("INT", {"default": 832, "min": 16, "max": 16384, "step": 16}),
                "height": ("INT", {"default": 480, "min": 16, "max": 16384, "step": 16}),
                "num_frames": ("INT", {"default": 81, "min": 1, "max": 4093, "step": 4}),
                "fps": number(16, 1, 1000, "Frames a second"),
                "filename_prefix": ("STRING", {"default": "wanpar/video"}),
            },
            "optional": {
                "latent_image": ("LATENT", {"tooltip": "An empty one, whose size takes the place of width, height and num_frames"}),
                "shift": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.1, "tooltip": "Flow shift; 0: the checkpoint's"}),
                "sync_frequency": number(0, 0, 1000, "Of displaced patches: every N-th step is exact; 0: after warm-up none"),
                "enable_async_comm": ("BOOLEAN", {"default": True, "tooltip": "Of displaced patches: boundaries are not waited for"}),
            },
        }

    def sample_distrifusion(self, distrifusion_model, positive, negative="", latent_image=None, seed=0, steps=50, cfg=5.0, sampler_name="unipc", width=832,
                            height=480, num_frames=81, fps=16, filename_prefix="wanpar/video", shift=0.0, sync_frequency=0, enable_async_comm=True):
        check_model(distrifusion_model)
        size = size_of(latent_image) if latent_image is not None else {"width": width, "height": height, "num_frames": num_frames}
        settings = {"prompt": positive, **size, "fps": fps, "num_inference_steps": steps, "guidance_scale": cfg, "seed": seed, "sample_solver": sampler_name,
                    **distrifusion_model.wish.job}
        if negative:
            settings["negative_prompt"] = negative
        if shift:
            settings["flow_shift"] = shift
        if settings.get("patch_parallel_size", 1) > 1:
            settings["sync_frequency"] = sync_frequency
            settings["async_boundary_update"] = settings["async_boundary_update"] and enable_async_comm
        server = distrifusion_model.server()
        job = made(server, settings)
        path, shown = host.new_file(filename_prefix, size["width"], size["height"])
        server.save(job["id"], path)
        return {"ui": {"images": [shown], "animated": (True,)}, "result": (host.video_of(path), path)}


def made(server, settings):
    """The job that has made this video. One that is interrupted, or fails here, is cancelled there."""
    job = server.create(settings)
    try:
        return _wait(server, job)
    except BaseException:
        server.cancel(job["id"])
        raise


def _wait(server, job):
    progress = host.Progress(settings_steps(job))
    step = 0
    for kind, told in server.events(job["id"]):
        host.stop_where_interrupted()
        if kind == "job":
            job = told
            if job["phase"] == "denoise":
                step = job["step"]
                progress.show(step, job["steps"])
        elif kind == "preview":
            progress.show(told["step"], settings_steps(job), told["image"])
    job = server.job(job["id"])
    if job["status"] == "completed":
        progress.show(settings_steps(job), settings_steps(job))
        return job
    if job["status"] == "cancelled":
        raise Refused("the video was cancelled at the server")
    if job["status"] == "failed":
        raise RuntimeError("wan_serve at {}: {}".format(server.url, (job["error"] or {}).get("message", "the video failed")))
    raise ConnectionError("wan_serve at {} broke off its events after step {}".format(server.url, step))


def settings_steps(job):
    return job["settings"]["num_inference_steps"]


class DistriFusionStatus:
    """What a server and its ranks are at."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("status",)
    FUNCTION = "get_status"
    CATEGORY = CATEGORY
    DESCRIPTION = "For Preview as Text: the server's state, its ranks with memory and step time, and how they share a video."

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"distrifusion_model": (MODELS,)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # asked anew in each run

    def get_status(self, distrifusion_model):
        check_model(distrifusion_model)
        server = distrifusion_model.server()
        text = describe(server.url, server.status(), server.plan({"prompt": "-", **distrifusion_model.wish.job}))
        return (text,)


def describe(url, status, plan):
    lines = ["{} at {}: {}".format(status["model"], url, status["state"]),
             plan["describe"] if plan["possible"] else "not possible: " + plan["reason"]]
    for rank in status["ranks"]:
        lines.append("rank {} on {} ({}): {:.2f} GiB, peak {:.2f} GiB{}".format(
            rank["rank"], rank["host"], rank["device"], rank["memory_bytes"] / 2**30, rank["memory_peak_bytes"] / 2**30,
            ", {:.2f} s a step".format(rank["step_seconds"]) if rank["step_seconds"] else ""))
    lines.append("queue: {} of {} waiting".format(status["queue"]["waiting"], status["queue"]["capacity"]))
    return "\n".join(lines)
