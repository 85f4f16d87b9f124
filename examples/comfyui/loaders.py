"""Nodes that say how a model is dealt out over ranks, and find or start the server that has it."""

from dataclasses import dataclass

from . import wish as wishes
from .running import server_for

CATEGORY = "WanVideoWrapper/Distributed"
PRECISIONS = (["fp32", "bf16", "fp16"], {"default": "bf16"})
ATTENTION = (["sdpa", "flash_attn_2", "flash_attn_3"], {"default": "sdpa"})
DEVICES = (["main_device", "offload_device"], {"default": "main_device", "tooltip": "offload_device: weights wait in main memory while another part works"})


def model_field():
    return ("STRING", {"default": "", "tooltip": "A checkpoint's folder, by its path or by its name in models/diffusion_models; empty: what the server has"})


def switch(default, tooltip):
    return ("BOOLEAN", {"default": default, "tooltip": tooltip})


def number(default, least, most, tooltip):
    return ("INT", {"default": default, "min": least, "max": most, "tooltip": tooltip})


@dataclass
class Model:
    """A checkpoint, and how the ranks of a server are to share it."""

    wish: wishes.Wish
    checkpoint: str

    def server(self):
        """The server that has it, started again where it has ended since."""
        return server_for(self.wish, self.checkpoint)


def loaded(wish, model):
    """What a loader gives; the server is ready by then."""
    one = Model(wish, model)
    one.server()
    return (one,)


class WanDistributedConfig:
    """Settings of distributed inference, in the words of Wan2.1's own."""

    RETURN_TYPES = ("WANDISTRIBUTEDCONFIG",)
    RETURN_NAMES = ("wan_distributed_config",)
    FUNCTION = "create_config"
    CATEGORY = CATEGORY
    DESCRIPTION = "How many ranks there are, and how they share a model."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "world_size": number(2, 1, 64, "Ranks: GPUs, or threads on a CPU"),
                "rank": number(0, 0, 63, "0: the server starts the others"),
                "backend": (["nccl", "gloo"], {"default": "nccl", "tooltip": "nccl: on CUDA; gloo: on the CPU"}),
                "use_fsdp": switch(True, "The transformer's weights are sharded over all ranks"),
                "use_context_parallel": switch(False, "The ranks share the tokens as ulysses_size and ring_size say; else the server chooses"),
                "ulysses_size": number(1, 1, 64, "Ranks that share the attention heads"),
                "ring_size": number(1, 1, 64, "Ranks that share the tokens in a ring"),
                "t5_fsdp": switch(False, "The text encoder's weights are sharded"),
                "dit_fsdp": switch(False, "As use_fsdp"),
                "use_usp": switch(False, "All ranks share the tokens, in the way that the server chooses"),
                "t5_cpu": switch(False, "A server that is started encodes text on the CPU"),
            },
            "optional": {
                "param_dtype": (["bfloat16", "float16", "float32"], {"default": "bfloat16", "tooltip": "As base_precision of the loader"}),
                "reduce_dtype": (["float32", "bfloat16", "float16"], {"default": "float32", "tooltip": "Without effect: inference reduces no gradients"}),
                "buffer_dtype": (["float32", "bfloat16", "float16"], {"default": "float32", "tooltip": "Without effect: the model has no such buffers"}),
                "sharding_strategy": (["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD"],
                                      {"default": "FULL_SHARD", "tooltip": "The other two leave weights whole, for inference has no gradients"}),
                "sync_module_states": switch(True, "Without effect: all ranks read the same checkpoint"),
            },
        }

    def create_config(self, world_size, rank, backend, use_fsdp, use_context_parallel, ulysses_size, ring_size, t5_fsdp, dit_fsdp, use_usp, t5_cpu,
                      param_dtype="bfloat16", reduce_dtype="float32", buffer_dtype="float32", sharding_strategy="FULL_SHARD", sync_module_states=True):
        return (dict(world_size=world_size, rank=rank, backend=backend, use_fsdp=use_fsdp, use_context_parallel=use_context_parallel,
                     ulysses_size=ulysses_size, ring_size=ring_size, t5_fsdp=t5_fsdp, dit_fsdp=dit_fsdp, use_usp=use_usp, t5_cpu=t5_cpu,
                     param_dtype=param_dtype, reduce_dtype=reduce_dtype, buffer_dtype=buffer_dtype, sharding_strategy=sharding_strategy,
                     sync_module_states=sync_module_states),)


class WanDistributedModelLoader:
    """A model on the ranks that a Wan2.1 Distributed Config describes."""

    RETURN_TYPES = ("WANVIDEOMODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "loadmodel"
    CATEGORY = CATEGORY
    DESCRIPTION = "Finds or starts the server that has the model."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": model_field(), "base_precision": PRECISIONS, "wan_distributed_config": ("WANDISTRIBUTEDCONFIG",)},
            "optional": {"attention_mode": ATTENTION},
        }

    def loadmodel(self, model, base_precision, wan_distributed_config, attention_mode="sdpa"):
        wishes.check_attention(attention_mode)
        wish = wishes.of_distributed(wan_distributed_config, base_precision)
        return loaded(wish, model)


class WanVideoMultiGPULoader:
    """A model on several GPUs, by the kind of parallelism."""

    RETURN_TYPES = ("WANVIDEOMODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "loadmodel"
    CATEGORY = CATEGORY
    DESCRIPTION = "Finds or starts the server that has the model."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": model_field(),
                "base_precision": PRECISIONS,
                "load_device": DEVICES,
                "parallelism_type": (["none", "data_parallel", "block_distribution", "distributed"], {
                    "default": "distributed", "tooltip": "data_parallel: the two branches of guidance; block_distribution: each rank some of the blocks; "
                                                         "distributed: as the server chooses"}),
                "gpu_ids": ("STRING", {"default": "0,1", "tooltip": "As in 0,1,2,3; ranks on the CPU where there are no GPUs"}),
                "enable_block_distribution": switch(False, "On for block_distribution alone"),
            },
            "optional": {"attention_mode": ATTENTION},
        }

    def loadmodel(self, model, base_precision, load_device, parallelism_type, gpu_ids, enable_block_distribution, attention_mode="sdpa"):
        wishes.check_attention(attention_mode)
        wish = wishes.of_gpus(parallelism_type, gpu_ids, enable_block_distribution, base_precision, load_device)
        return loaded(wish, model)


class DistriFusionWanVideoModelLoader:
    """A model whose ranks each have a patch of the video, and see the others' as they were one step before."""

    RETURN_TYPES = ("DISTRIFUSION_WANVIDEOMODEL",)
    RETURN_NAMES = ("distrifusion_model",)
    FUNCTION = "load_distrifusion_model"
    CATEGORY = "WanVideoWrapper/DistriFusion"
    DESCRIPTION = "Finds or starts the server that has the model. Displaced patches are faster, and not exact."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": model_field(),
                "base_precision": PRECISIONS,
                "quantization": (["disabled", "fp8_e4m3fn"], {"default": "disabled", "tooltip": "Not there: disabled"}),
                "load_device": DEVICES,
                "enable_distrifusion": switch(True, "Off: one rank"),
                "num_gpus": number(2, 1, 64, "Ranks"),
                "split_mode": (["spatial", "temporal", "spatiotemporal"], {"default": "spatial", "tooltip": "By rows, by frames, by both"}),
                "patch_overlap": number(-1, -1, 16384, "Pixels (frames, where those are split) seen beyond a patch; -1: all"),
                "warmup_steps": number(4, 0, 1000, "Steps at the beginning that are exact"),
                "process_rank": number(0, 0, 63, "0: the server starts the others"),
            },
            "optional": {
                "attention_mode": ATTENTION,
                "async_boundary_update": switch(True, "Boundaries are not waited for"),
                "sync_first_step": switch(True, "The first step is exact without warm-up, too"),
                "temporal_chunk_size": number(0, 0, 4093, "Frames that see one another, for temporal; 0: all"),
            },
        }

    def load_distrifusion_model(self, model, base_precision="bf16", quantization="disabled", load_device="main_device", enable_distrifusion=True, num_gpus=2,
                                split_mode="spatial", patch_overlap=-1, warmup_steps=4, process_rank=0, attention_mode="sdpa",
                                async_boundary_update=True, sync_first_step=True, temporal_chunk_size=0):
        wishes.check_attention(attention_mode)
        wish = wishes.of_patches(enable_distrifusion, num_gpus, split_mode, patch_overlap, warmup_steps, process_rank, base_precision, quantization,
                                 load_device, async_boundary_update, sync_first_step, temporal_chunk_size)
        return loaded(wish, model)
