"""ComfyUI nodes that make videos with wan_serve, on any number of ranks. See README.md."""

from .loaders import DistriFusionWanVideoModelLoader, WanDistributedConfig, WanDistributedModelLoader, WanVideoMultiGPULoader
from .sampler import DistriFusionStatus, DistriFusionWanVideoSampler

NODE_CLASS_MAPPINGS = {
    "WanDistributedConfig": WanDistributedConfig,
    "WanDistributedModelLoader": WanDistributedModelLoader,
    "WanVideoMultiGPULoader": WanVideoMultiGPULoader,
    "DistriFusionWanVideoModelLoader": DistriFusionWanVideoModelLoader,
    "DistriFusionWanVideoSampler": DistriFusionWanVideoSampler,
    "DistriFusionStatus": DistriFusionStatus,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "WanDistributedConfig": "Wan2.1 Distributed Config",
    "WanDistributedModelLoader": "Wan2.1 Distributed Model Loader",
    "WanVideoMultiGPULoader": "WanVideo Multi-GPU Loader",
    "DistriFusionWanVideoModelLoader": "DistriFusion WanVideo Model Loader",
    "DistriFusionWanVideoSampler": "DistriFusion WanVideo Sampler",
    "DistriFusionStatus": "DistriFusion Status",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
