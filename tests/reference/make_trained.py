#!/usr/bin/env python3
"""Makes a video by diffusers with the trained model in examples/train/model, in float32 on the CPU, from given embeddings,
noise and sigmas.

    OUT   sigmas [steps + 1], noise and latents [1, 16, T, h, w], frames [1, 3, F, H, W] in [-1, 1] as float16, every second
          pixel of every fourth frame, and the embeddings text and negative_text [tokens, dim]; in its metadata the settings
"""

import argparse
from pathlib import Path

import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red ball moves left on a dark blue background"
NEGATIVE = ""
SIDE, FRAMES, STEPS, GUIDANCE, SEED = 128, 17, 6, 4.0, 5


def embedding(pipeline, text):
    """[tokens, dim]; behind the tokens diffusers has zeros."""
    batch = pipeline.tokenizer([text], return_tensors="pt")
    return pipeline.text_encoder(batch.input_ids, batch.attention_mask).last_hidden_state[0]


def padded(rows):
    return torch.nn.functional.pad(rows, (0, 0, 0, 512 - rows.shape[0]))[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "examples/train/model")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/trained.safetensors")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)

    pipeline = WanPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    text, negative_text = (embedding(pipeline, words) for words in (PROMPT, NEGATIVE))
    noise = torch.randn(1, 16, (FRAMES - 1) // 4 + 1, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))
    words = dict(prompt_embeds=padded(text), negative_prompt_embeds=padded(negative_text))
    latents = pipeline(**words, height=SIDE, width=SIDE, num_frames=FRAMES, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                       latents=noise.clone(), output_type="latent").frames
    mean, std = (torch.tensor(getattr(pipeline.vae.config, key)).view(1, 16, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    frames = pipeline.vae.decode(latents * std + mean).sample[:, :, ::4, ::2, ::2]
    tensors = dict(sigmas=pipeline.scheduler.sigmas, noise=noise, latents=latents, frames=frames.half(), text=text, negative_text=negative_text)
    settings = dict(prompt=PROMPT, negative_prompt=NEGATIVE, steps=str(STEPS), guidance=str(GUIDANCE), diffusers=__import__("diffusers").__version__)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, arguments.out, metadata=settings)


if __name__ == "__main__":
    main()
