// What a job is made of: which settings the form shows where, and how they are written as a command.

export const main = ["prompt", "negative_prompt", "width", "height", "num_frames", "fps", "num_inference_steps",
  "guidance_scale", "seed", "sample_solver"];
export const degrees = ["ranks", "cfg_size", "ulysses_size", "ring_size", "pipeline_size", "patch_parallel_size"];
export const elsewhere = ["size", "seconds", "model", "extra_params", "save_tensors"];  // said by others, or not for people

export const labels = {
  ranks: "Ranks", cfg_size: "Guidance", ulysses_size: "Ulysses", ring_size: "Ring", pipeline_size: "Pipeline",
  patch_parallel_size: "Patches", flow_shift: "Flow shift", dit_fsdp: "Shard transformer", t5_fsdp: "Shard text encoder",
  vae_parallel: "Decode on all ranks", split_mode: "Patches: split", patch_overlap: "Patches: overlap",
  temporal_chunk_size: "Patches: frames at once", warmup_steps: "Patches: warm-up steps",
  sync_frequency: "Patches: synchronous every", sync_first_step: "Patches: first step synchronous",
  async_boundary_update: "Patches: boundaries not waited for", kv_dtype: "Patches: dtype of keys",
  max_staleness: "Patches: largest staleness", use_prompt_extend: "Extend the prompt",
};

export const sizes = ["832x480", "480x832", "624x624", "1280x720", "720x1280", "960x960"];

/** The settings of a job, with width and height in the place of size. */
export function spread(settings) {
  const { size, ...rest } = settings;
  const [width, height] = (size ?? "").split(/[x*]/).map(Number);
  return size ? { ...rest, width, height } : rest;
}

const flags = { num_frames: "frame_num", num_inference_steps: "sample_steps", guidance_scale: "sample_guide_scale",
  flow_shift: "sample_shift", seed: "base_seed", ranks: "local_ranks" };
const switches = ["dit_fsdp", "t5_fsdp"];
const unknown_there = ["model", "save_tensors", "seconds", "extra_params"];

const quoted = (text) => (/^[\w.,:/+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** The line that makes the same video in a shell. */
export function command(settings) {
  const words = ["wan_t2v", "--ckpt_dir", "DIR"];
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || unknown_there.includes(name) || (switches.includes(name) && !value)) continue;
    words.push(`--${flags[name] ?? name}`);
    if (!switches.includes(name)) words.push(quoted(name === "size" ? value.replace("x", "*") : String(value)));
  }
  return words.join(" ");
}
