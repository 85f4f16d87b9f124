#!/usr/bin/env python3
"""Makes a tiny random Wan text-to-video checkpoint and what diffusers computes with it, in float32 on the CPU.

    OUT/diffusers               the checkpoint, as diffusers saves it
    OUT/reference.safetensors   inputs and outputs of every stage
    OUT/manifest.json           prompts, cleaned prompts, settings
    OFFICIAL                    the same weights as an official Wan2.1 folder (with --official)
"""

import argparse
import html
import io
import json
import math
import re
import tempfile
from pathlib import Path

import ftfy
import sentencepiece
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from official import write_official
from solvers import diffusers_unipc, make_solver

NEGATIVE = ("色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
            "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
            "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走")
PROMPTS = [
    "Two anthropomorphic cats in comfy boxing gear fight on a spotlighted stage.",
    NEGATIVE,
    "",
    "  A \t red\u00a0fox &amp;amp; a &lt;blue&gt; bird,\n\n ｆｕｌｌｗｉｄｔｈ “quotes” … it doesnâ€™t 🦊  ",
    "cat " * 700,
]
CORPUS = [
    NEGATIVE, PROMPTS[0],
    "a red fox runs through fresh snow at night while a bird sings over the quiet river",
    "the camera follows a small boat on the sea and the sun sets behind the green hills of the old town",
    "一个朴素端庄的美人 在雪地里奔跑的狐狸 镜头跟随小鸟向上移动 背景是蓝天白云 阳光明媚 近景 仰视视角",
]
MAX_TOKENS = 512
PIPELINE = dict(steps=6, shift=3.0, guidance=5.0, seed=7, frames=9, height=32, width=48, prompt=0, negative_prompt=1)

reference = {}
generator = torch.Generator()


def keep(name, tensor):
    reference[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor


def randn(*shape):
    return torch.randn(*shape, generator=generator)


def fill(module, gain=1.0):
    """Gives every parameter values of a sensible size, so that no bias is zero and no gain is one."""
    for name, parameter in sorted(module.named_parameters()):
        values = randn(*parameter.shape)
        if "norm" in name or "gamma" in name:
            values = 0.1 * values + (0.0 if name.endswith("bias") else 1.0)
        elif name.endswith("bias") or parameter.dim() == 1:
            values = 0.1 * values
        elif "scale_shift_table" in name or "relative_attention_bias" in name:
            values = 0.3 * values
        elif "shared" not in name:
            values = gain * values / math.sqrt(parameter[0].numel())
        parameter.copy_(values)


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def make_tokenizer(spiece):
    """Trains a small SentencePiece model with umT5's special ids; returns it and its twin for transformers."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=360, model_type="unigram",
        normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>",
        character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    spiece.write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    twin = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    twin.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    twin.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    twin.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return pieces, PreTrainedTokenizerFast(tokenizer_object=twin, pad_token="<pad>", eos_token="</s>",
                                           bos_token="<s>", unk_token="<unk>")


def make_text_encoder(vocabulary):
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, d_model=64, d_kv=16, d_ff=96, num_layers=2,
                                          num_heads=4, feed_forward_proj="gated-gelu")).eval()
    fill(encoder)
    for name, parameter in encoder.named_parameters():
        if ".q.weight" in name:  # umT5 does not scale its scores, so a random q must be small
            parameter.mul_(0.25)
        parameter.copy_(parameter.bfloat16())  # float32 and bfloat16 files then hold the same values
    return encoder


def make_transformer():
    transformer = WanTransformer3DModel(num_attention_heads=4, attention_head_dim=32, text_dim=64, ffn_dim=288,
                                        num_layers=2).eval()
    fill(transformer)
    return transformer


def make_vae():
    vae = AutoencoderKLWan(base_dim=6).eval()
    fill(vae, gain=1.2)
    vae.decoder.conv_out.weight.mul_(0.25)  # most pixels then stay inside [-1, 1]
    return vae


def text_reference(pieces, tokenizer, encoder):
    """Keeps text.ids.N [tokens] and text.embeds.N [tokens, dim]; returns the embeddings padded with zeros."""
    batch = tokenizer([clean(prompt) for prompt in PROMPTS], padding="max_length", max_length=MAX_TOKENS,
                      truncation=True, return_tensors="pt")
    embeds = encoder(batch.input_ids, batch.attention_mask).last_hidden_state * batch.attention_mask[..., None]
    for i, prompt in enumerate(PROMPTS):
        tokens = int(batch.attention_mask[i].sum())
        ids = keep(f"text.ids.{i}", batch.input_ids[i, :tokens])
        assert pieces.encode(clean(prompt))[:MAX_TOKENS - 1] + [1] == ids.tolist(), "the tokenizers disagree"
        keep(f"text.embeds.{i}", embeds[i, :tokens])
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    keep("text.buckets", attention._relative_position_bucket(torch.arange(-200, 201)))  # of key minus query
    return embeds


def transformer_reference(transformer, embeds):
    """Keeps dit.CASE.{latents, timestep, prompts, velocity}; `prompts` index the text embeddings."""
    cases = {
        "a": ((1, 3, 6, 8), [999.0], [0]),
        "one_frame": ((1, 1, 4, 4), [0.0], [2]),
        "odd_grid": ((1, 5, 10, 14), [437.0], [3]),  # 175 tokens: divisible by neither 2, 3 nor 4
        "batch2": ((2, 2, 10, 6), [981.0, 12.5], [0, 1]),
    }
    for name, ((batch, *grid), timesteps, prompts) in cases.items():
        latents = keep(f"dit.{name}.latents", randn(batch, 16, *grid))
        timestep = keep(f"dit.{name}.timestep", torch.tensor(timesteps))
        keep(f"dit.{name}.prompts", torch.tensor(prompts))
        keep(f"dit.{name}.velocity", transformer(latents, timestep, embeds[prompts], return_dict=False)[0])
    for name, table in zip(("cos", "sin"), transformer.rope(reference["dit.a.latents"])):
        keep(f"dit.a.rope_{name}", table[0, :, 0, ::2])  # [tokens, head_dim / 2]


def vae_reference(vae):
    """Keeps vae.dec_CASE.{latents, frames}: latents as the decoder takes them, frames clamped to [-1, 1]."""
    for name, shape in {"long": (4, 4, 6), "one": (1, 3, 5), "odd": (3, 5, 3)}.items():
        latents = keep(f"vae.dec_{name}.latents", randn(1, 16, *shape))
        keep(f"vae.dec_{name}.frames", vae.decode(latents).sample)


def vae_encode_reference(vae):
    """Keeps vae.enc_CASE.{frames, latents}: frames in [-1, 1], latents the posterior's mean, not normalised."""
    for name, shape in {"long": (13, 16, 24), "one": (1, 24, 16), "odd": (8, 40, 24)}.items():
        frames = keep(f"vae.enc_{name}.frames", randn(1, 3, *shape).clamp(-1, 1))
        keep(f"vae.enc_{name}.latents", vae.encode(frames).latent_dist.mode())


def scheduler_reference():
    """Keeps sched.SOLVER.STEPS.SHIFT.{sigmas, timesteps, path} for the velocity 0.8 tanh(x) + timestep/1000 c."""
    start, c = keep("sched.start", randn(2, 8)), keep("sched.c", randn(2, 8))
    for name in ("unipc", "dpm++", "euler", "diffusers_unipc"):
        for steps, shift in ((1, 5.0), (2, 3.0), (5, 5.0), (20, 3.0), (50, 8.0)):
            solver, path = make_solver(name, steps, shift), [start]
            for t in solver.timesteps:
                sample = path[-1]
                path.append(solver.step(0.8 * torch.tanh(sample) + float(t) / 1000 * c, sample))
            run = f"sched.{name}.{steps}.{shift:g}"
            keep(f"{run}.sigmas", solver.sigmas)
            keep(f"{run}.timesteps", solver.timesteps.float())
            keep(f"{run}.path", torch.stack(path))


def pipeline_reference(pipeline, embeds):
    """Keeps pipe.noise and pipe.SOLVER.{latents, frames}: one guided video, frames [1, 3, F, H, W] in [-1, 1]."""
    p = PIPELINE
    shape = (16, (p["frames"] - 1) // 4 + 1, p["height"] // 8, p["width"] // 8)
    noise = keep("pipe.noise", torch.randn(shape, generator=torch.Generator().manual_seed(p["seed"])))[None]
    text = (embeds[p["prompt"]][None], embeds[p["negative_prompt"]][None])
    vae = pipeline.vae
    mean, std = (torch.tensor(getattr(vae.config, key)).view(1, 16, 1, 1, 1) for key in ("latents_mean", "latents_std"))

    def keep_video(solver, latents):
        keep(f"pipe.{solver}.latents", latents)
        keep(f"pipe.{solver}.frames", vae.decode(latents * std + mean).sample)

    for name in ("unipc", "dpm++", "euler"):
        solver, latents = make_solver(name, p["steps"], p["shift"]), noise
        for t in solver.timesteps:
            cond, uncond = (pipeline.transformer(latents, t.reshape(1), e, return_dict=False)[0] for e in text)
            latents = solver.step(uncond + p["guidance"] * (cond - uncond), latents)
        keep_video(name, latents)
    keep_video("diffusers_unipc", pipeline(
        PROMPTS[p["prompt"]], PROMPTS[p["negative_prompt"]], height=p["height"], width=p["width"], num_frames=p["frames"],
        num_inference_steps=p["steps"], guidance_scale=p["guidance"], latents=noise.clone(), output_type="latent").frames)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "data")
    parser.add_argument("--official", type=Path, help="also write the weights as an official Wan2.1 folder here")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    generator.manual_seed(arguments.seed)

    with tempfile.TemporaryDirectory() as scratch:
        spiece = Path(scratch) / "spiece.model"
        pieces, tokenizer = make_tokenizer(spiece)
        text_encoder = make_text_encoder(pieces.get_piece_size() + 24)  # rows beyond the pieces, as umT5 has
        transformer, vae = make_transformer(), make_vae()
        pipeline = WanPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer,
                               scheduler=diffusers_unipc(PIPELINE["shift"]))
        pipeline.set_progress_bar_config(disable=True)

        embeds = text_reference(pieces, tokenizer, text_encoder)
        transformer_reference(transformer, embeds)
        vae_reference(vae)
        scheduler_reference()
        pipeline_reference(pipeline, embeds)
        vae_encode_reference(vae)

        pipeline.save_pretrained(arguments.out / "diffusers")
        (arguments.out / "diffusers/tokenizer/spiece.model").write_bytes(spiece.read_bytes())
        if arguments.official:
            write_official(arguments.official, transformer, vae, text_encoder, spiece)
    save_file(reference, arguments.out / "reference.safetensors")
    manifest = {"seed": arguments.seed, "prompts": PROMPTS, "clean": [clean(p) for p in PROMPTS], "pipeline": PIPELINE}
    (arguments.out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
