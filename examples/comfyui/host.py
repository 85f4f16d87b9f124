"""What these nodes use of ComfyUI."""

import base64
import io
import os

import comfy.model_management
import folder_paths
from comfy.utils import ProgressBar

from .refused import Refused


class Progress:
    """A node's bar, with a picture where there is one. Throws ComfyUI's own exception where the user has interrupted."""

    def __init__(self, total):
        self.bar = ProgressBar(total)

    def show(self, step, total, data_url=None):
        self.bar.update_absolute(step, total, _picture(data_url))


def _picture(data_url):
    if not data_url:
        return None
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("RGB")
    return "JPEG", image, 512


def is_interrupted():
    return comfy.model_management.processing_interrupted()


def stop_where_interrupted():
    comfy.model_management.throw_exception_if_processing_interrupted()


def new_file(prefix, width, height):
    """A name for a video in the output folder: its path, and what the user interface wants to know of it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    file = "{}_{:05}_.mp4".format(name, counter)
    return os.path.join(folder, file), {"filename": file, "subfolder": subfolder, "type": "output"}


def video_of(path):
    """ComfyUI's VIDEO of a file."""
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(path)


def scratch_folder():
    folder = os.path.join(folder_paths.get_temp_directory(), "wan_serve")
    os.makedirs(folder, exist_ok=True)
    return folder


def checkpoint_of(model):
    """The folder of a checkpoint: a path, or the name of a folder among ComfyUI's models."""
    if model.endswith((".safetensors", ".gguf", ".pth")):
        raise Refused("model '{}' is one file, and wan_serve reads a whole checkpoint; give its folder, in the diffusers or the official layout".format(model))
    if os.path.isabs(model):
        places = [model]
    else:
        places = [os.path.join(folder, model) for kind in ("diffusion_models", "checkpoints") for folder in folder_paths.get_folder_paths(kind)]
    for place in places:
        if os.path.isdir(place):
            return place
    raise Refused("there is no checkpoint '{}': looked for {}".format(model, ", ".join(places)))
