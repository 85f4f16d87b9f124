#include "wan/cli/foreign.hpp"

namespace wan {

const std::map<std::string, std::string>& renamed_fields() {
  static const std::map<std::string, std::string> names = {
      {"num_gpus", "world_size"},
      {"num_devices", "world_size"},
      {"model", "ckpt_dir"},
      {"base_precision", "dtype"},
      {"param_dtype", "dtype"},
      {"async_communication", "async_boundary_update"},
      {"enable_async_comm", "async_boundary_update"},
      {"steps", "sample_steps"},
      {"cfg", "sample_guide_scale"},
      {"shift", "sample_shift"},
      {"seed", "base_seed"},
      {"positive", "prompt"},
      {"negative", "negative_prompt"},
  };
  return names;
}

const std::map<std::string, NotBuilt>& fields_not_built() {
  static const std::vector<std::string> halves = {"float32", "fp32", "bfloat16", "bf16", "float16", "fp16"};
  static const std::map<std::string, NotBuilt> fields = {
      {"quantization",
       {{"disabled", "none"}, "weights that a checkpoint stores as fp8 are read as they are"}},
      {"load_device", {{"main_device"}, "dit_fsdp and pipeline_size make a rank hold less"}},
      {"offload_model", {{"false"}, "dit_fsdp and pipeline_size make a rank hold less"}},
      {"blocks_to_swap", {{"0"}, "dit_fsdp and pipeline_size make a rank hold less"}},
      {"offload_percent", {{"0", "0.0"}, "dit_fsdp and pipeline_size make a rank hold less"}},
      {"attention_mode",
       {{"sdpa"}, "sdpa, LibTorch's own attention, takes FlashAttention on CUDA where that can be"}},
      {"buffer_dtype", {{"float32", "fp32"}, "buffers (positions) stay in float32"}},
      {"reduce_dtype", {halves, "nothing is reduced where no gradients are"}},
      {"sync_module_states", {{"true", "false"}, "every rank reads its part of the same checkpoint"}},
      {"torch_compile", {{"false"}, "the pipeline is compiled C++"}},
      {"compile_args", {{}, "the pipeline is compiled C++"}},
      {"cache_device",
       {{}, "all steps are computed; patch_parallel_size reuses what ranks have of each other"}},
      {"teacache_args", {{}, "all steps are computed"}},
      {"lora", {{}, "a checkpoint with the LoRA merged into it"}},
      {"prompt_extend_method", {{"none"}, "prompts are used as they are"}},
      {"prompt_extend_model", {{}, "prompts are used as they are"}},
  };
  return fields;
}

const std::vector<std::string>& joint_fields() {
  static const std::vector<std::string> names = {"rank",
                                                 "process_rank",
                                                 "use_fsdp",
                                                 "sharding_strategy",
                                                 "use_context_parallel",
                                                 "use_usp",
                                                 "enable_distrifusion",
                                                 "parallelism_type",
                                                 "enable_block_distribution"};
  return names;
}

}  // namespace wan
