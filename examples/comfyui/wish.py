"""What a loader asks for, in wan_serve's words: what a server is started with, and what each job says."""

from dataclasses import dataclass, field

from .refused import Refused

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass
class Wish:
    """`ranks` of the server, the `flags` (None: without a value) and `gpus` (comma-separated, or None for all) that one is
    started with, and the `job` fields of wan_serve's API that each video is made with."""

    ranks: int
    flags: dict = field(default_factory=dict)
    gpus: str = None
    job: dict = field(default_factory=dict)

    def __post_init__(self):
        self.job["ranks"] = self.ranks


def dtype_of(base_precision):
    if base_precision not in DTYPES:
        raise Refused("base_precision {}: wan_serve computes in float32 or bfloat16; take fp32 or bf16".format(base_precision))
    return DTYPES[base_precision]


def check_attention(attention_mode):
    if attention_mode not in ("sdpa", "flash_attn_2"):
        raise Refused("attention_mode {}: attention is LibTorch's own, which takes FlashAttention 2 where it can; take sdpa".format(attention_mode))


def check_rank(name, rank):
    if rank != 0:
        raise Refused("{} {}: ComfyUI speaks to rank 0, and the other ranks are wan_serve's to start; take 0".format(name, rank))


def of_distributed(config, base_precision):
    """Of the fields of Wan2.1 Distributed Config."""
    check_rank("rank", config["rank"])
    if config["t5_cpu"] and config["t5_fsdp"]:
        raise Refused("t5_cpu and t5_fsdp are both on; the first lets rank 0 encode alone, so leave one out")
    dtype = dtype_of(base_precision)
    if config["param_dtype"] != dtype:
        raise Refused("base_precision {} and param_dtype {} are two; take the same".format(base_precision, config["param_dtype"]))
    ranks, ulysses, ring = config["world_size"], config["ulysses_size"], config["ring_size"]
    job = {}
    if config["use_context_parallel"]:
        if ulysses * ring != ranks:
            raise Refused("ulysses_size {} x ring_size {} = {}, and world_size is {}; they must be equal".format(ulysses, ring, ulysses * ring, ranks))
        job = {"ulysses_size": ulysses, "ring_size": ring}
    elif ulysses * ring != 1:
        raise Refused("ulysses_size {} and ring_size {} are for use_context_parallel; switch it on, or take 1 for both".format(ulysses, ring))
    elif config["use_usp"] and ranks > 1:
        job = {"cfg_size": 1}  # all ranks share the tokens; which way is chosen
    is_sharded = config["sharding_strategy"] == "FULL_SHARD"  # the other strategies deal out gradients, of which there are none
    job["dit_fsdp"] = is_sharded and (config["use_fsdp"] or config["dit_fsdp"])
    job["t5_fsdp"] = is_sharded and config["t5_fsdp"]
    flags = {"device": "cuda" if config["backend"] == "nccl" else "cpu", "dtype": dtype}
    return Wish(ranks, {**flags, "t5_cpu": None} if config["t5_cpu"] else flags, job=job)


def of_gpus(parallelism_type, gpu_ids, enable_block_distribution, base_precision, load_device):
    """Of the fields of WanVideo Multi-GPU Loader."""
    gpus = [one.strip() for one in gpu_ids.split(",")]
    if not all(one.isdigit() for one in gpus) or len(set(gpus)) != len(gpus):
        raise Refused("gpu_ids '{}' is not a list of different numbers; write it as in 0,1,2,3".format(gpu_ids))
    if enable_block_distribution != (parallelism_type == "block_distribution"):
        raise Refused("enable_block_distribution is {}, and parallelism_type is {}; switch it on for block_distribution alone".format(
            "on" if enable_block_distribution else "off", parallelism_type))
    count = len(gpus)
    if parallelism_type == "data_parallel" and count != 2:
        raise Refused("parallelism_type data_parallel deals out a batch, and a video is one of two, for guidance: it takes 2 gpu_ids, not {}; "
                      "take distributed for more".format(count))
    if parallelism_type == "none":
        count, gpus = 1, gpus[:1]
    job = {"data_parallel": {"cfg_size": 2}, "block_distribution": {"pipeline_size": count}}.get(parallelism_type, {})
    return Wish(count, {"dtype": dtype_of(base_precision), **offload(load_device)}, ",".join(gpus), dict(job))


def of_patches(enable_distrifusion, num_gpus, split_mode, patch_overlap, warmup_steps, process_rank, base_precision, quantization, load_device,
               async_boundary_update, sync_first_step, temporal_chunk_size):
    """Of the fields of DistriFusion WanVideo Model Loader."""
    check_rank("process_rank", process_rank)
    if quantization != "disabled":
        raise Refused("quantization {}: wan_serve does not quantise; take disabled (weights that are fp8 in the checkpoint are read)".format(quantization))
    flags = {"dtype": dtype_of(base_precision), **offload(load_device)}
    if not enable_distrifusion or num_gpus == 1:
        return Wish(1, flags)
    job = {"patch_parallel_size": num_gpus, "split_mode": split_mode, "warmup_steps": warmup_steps, "async_boundary_update": async_boundary_update,
           "sync_first_step": sync_first_step}
    if patch_overlap >= 0:
        job["patch_overlap"] = patch_overlap
    if temporal_chunk_size > 0:
        job["temporal_chunk_size"] = temporal_chunk_size
    return Wish(num_gpus, flags, job=job)


def offload(load_device):
    return {"offload_model": "true"} if load_device == "offload_device" else {}
