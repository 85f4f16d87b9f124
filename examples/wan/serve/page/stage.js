// The chosen video: its picture while it is made, the player when it is done, and what one can do with it.

import { address } from "./api.js";
import { $, make, write } from "./dom.js";
import { is_over } from "./jobs.js";
import { command, spread } from "./settings.js";
import { about, bytes, duration, plural } from "./words.js";

const phases = { text: "Reading the prompt", load: "Loading weights", denoise: "Denoising", decode: "Decoding", write: "Writing the file" };

export function facts_of({ settings, seed, size, started_at, completed_at, bytes: count }) {
  const { width, height, num_frames, fps, num_inference_steps, guidance_scale, sample_solver, ranks } = spread(settings ?? { size });
  const degrees = Object.entries(settings ?? {}).filter(([name, value]) => name.endsWith("_size") && value > 1)
    .map(([name, value]) => `${name.replace("_size", "").replace("_parallel", "")} ${value}`).join(" × ");
  return [
    ["Size", `${width} × ${height}`],
    ["Frames", num_frames && `${num_frames} at ${fps}/s`],
    ["Steps", num_inference_steps],
    ["Guidance", guidance_scale],
    ["Seed", seed],
    ["Solver", sample_solver],
    ["Ranks", ranks && `${ranks}${degrees ? ` (${degrees})` : ""}`],
    ["Took", started_at && completed_at && duration(completed_at - started_at)],
    ["File", count && bytes(count)],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== 0);
}

export class Stage {
  constructor(jobs, on) {
    Object.assign(this, { jobs, on, id: null, shown: "" });
    this.stage = $("stage");
    this.show(null);
  }

  /** Shows a job; what stays the same stays in place, so that a video plays on. */
  show(job) {
    this.id = job?.id ?? null;
    const kind = job ? `${job.id} ${job.status} ${job.variants?.length ?? 0}` : "";
    if (kind !== this.shown || !this.stage.firstChild) {
      this.shown = kind;
      const parts = job ? this.parts(job) : [make("div", { className: "screen" }, this.words("Your video appears here.", "Write a prompt and press Generate."))];
      const had_focus = this.stage.contains(document.activeElement);
      this.stage.replaceChildren(...parts);
      if (had_focus) this.stage.focus({ preventScroll: true });
    }
    this.tick();
  }

  words(first, second) {
    return make("div", { className: "empty" }, make("p", {}, first), second ? make("p", { className: "quiet small" }, second) : null);
  }

  parts(job) {
    this.preview = this.note = this.bar = this.left = null;
    const screen = make("div", { className: "screen" });
    const under = make("div", { className: "under" });
    if (!is_over(job)) {
      const waiting = (this.waiting = this.words("", ""));
      const show = (hidden) => {
        preview.hidden = hidden;
        waiting.hidden = !hidden;
      };
      const preview = (this.preview = make("img", { className: "rough", alt: "Preview of the video as it is now", hidden: true, onload: () => show(false), onerror: () => show(true) }));
      if (job.phase === "denoise" && job.step > 0) this.preview.src = address.preview(job.id);
      screen.append(this.waiting, this.preview);
      this.note = make("span");
      this.left = make("span", { className: "quiet" });
      this.bar = make("progress", { max: 100, ariaLabel: "Progress" });
      under.append(make("div", { className: "progress" }, make("p", {}, this.note, this.left), this.bar));
    } else if (job.status === "completed" && job.variants.length) {
      screen.append(make("video", {
        src: address.content(job.id, "video"), controls: true, loop: true, muted: true, autoplay: !matchMedia("(prefers-reduced-motion: reduce)").matches,
        playsInline: true, poster: address.content(job.id, "thumbnail"), ariaLabel: job.prompt,
      }));
    } else if (job.status === "completed") {
      screen.append(this.words("The file of this video is gone.", "It was removed to keep the quota; its settings make it again."));
    } else if (job.status === "cancelled") {
      screen.append(this.words("Cancelled.", "Its settings are kept."));
    } else {
      screen.append(this.words("This video failed.", null));
      under.append(make("p", { className: "failed", role: "alert" }, job.error?.message ?? "No reason was given."));
    }
    under.append(make("p", { className: "prompt" }, job.prompt));
    if (job.settings?.negative_prompt && job.settings.negative_prompt !== this.on.default_negative())
      under.append(make("p", { className: "prompt quiet small" }, `Not: ${job.settings.negative_prompt}`));
    under.append(make("p", { className: "facts" }, ...facts_of(job).map(([name, value]) => make("span", {}, `${name} `, make("b", {}, String(value))))));
    under.append(make("div", { className: "send" }, ...this.buttons(job)));
    return [screen, under];
  }

  buttons(job) {
    const button = (text, onclick, className = "") => make("button", { type: "button", className, onclick }, text);
    const copy = navigator.clipboard && button("Copy command", async (event) => {
      const pressed = event.currentTarget;
      await navigator.clipboard.writeText(command(job.settings));
      write(pressed, "Copied");
      setTimeout(() => write(pressed, "Copy command"), 1500);
    });
    if (!is_over(job)) return [button("Cancel", () => this.on.cancel(job)), button("Use settings", () => this.on.reuse(job))];
    return [
      job.variants?.length ? make("a", { className: "button", href: address.content(job.id, "video", "&download=1"), download: `${job.id}.mp4` }, "Download") : null,
      button("Use settings", () => this.on.reuse(job)), copy || null,
      button("Delete", () => this.on.remove(job), "ghost"),
    ];
  }

  /** What changes by the second. */
  tick() {
    const job = this.jobs.get(this.id);
    if (!job || !this.note || is_over(job)) return;
    const { status, queue_position, phase, step, steps, seconds_per_step } = job;
    const text = status === "queued"
      ? `Waiting for ${plural(this.jobs.active().indexOf(job), "job")} before it`
      : phase === "denoise" && steps
        ? `Step ${step} of ${steps}${seconds_per_step ? ` · ${duration(seconds_per_step)} a step` : ""}`
        : phases[phase] ?? "Starting";
    write(this.note, text);
    write(this.left, about(this.jobs.left(job) ?? -1));
    write(this.waiting.firstChild, status === "queued" ? `Number ${queue_position} in the queue` : phases[phase] ?? "Starting");
    if (status === "queued") this.bar.value = 0;
    else this.bar.value = job.progress;
    const image = this.jobs.previews.get(job.id);
    if (image && this.preview.src !== image) this.preview.src = image;
  }
}
