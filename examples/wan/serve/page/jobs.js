// All jobs that the page knows of, each as the server told it last.

import { api } from "./api.js";

const running = ["in_progress", "queued"];
export const is_over = (job) => !running.includes(job.status);

// Why: an answer that was on its way while an event came is the older of the two.
const advance = (job) => (is_over(job) ? 1000 : job.status === "in_progress" ? 100 + job.progress : 0);

export class Jobs {
  constructor(changed) {
    this.known = new Map();
    this.previews = new Map();
    this.changed = changed;
  }

  get(id) {
    return this.known.get(id);
  }

  /** Those that run or wait, the running one first. */
  active() {
    return [...this.known.values()].filter((job) => !is_over(job))
      .sort((a, b) => a.queue_position - b.queue_position || a.created_at - b.created_at);
  }

  put(job) {
    const before = this.known.get(job.id);
    this.settle(job);
    // Why: those behind a job move up when it starts or ends, and only the server knows by how much.
    if (before?.status !== job.status) this.look_again();
  }

  picture({ id, image }) {
    this.previews.set(id, image);
    if (this.known.has(id)) this.changed(this.known.get(id), this.known.get(id));
  }

  forget(id) {
    const before = this.known.get(id);
    this.known.delete(id);
    this.previews.delete(id);
    this.changed(null, before ?? { id });
    this.look_again();
  }

  /** Seconds left by the server's estimate, less the time since it was made. */
  left(job) {
    return job.eta_s == null ? null : Math.max(0, job.eta_s - (performance.now() - job.told) / 1000);
  }

  look_again() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh().catch(() => {}), 200);  // its absence is told elsewhere
  }

  /** Asks for everything that runs or waits; what does not any more is asked for alone. */
  async refresh() {
    const lists = await Promise.all(running.map((status) => api.list({ status, limit: 100, order: "asc" })));
    const active = lists.flatMap((list) => list.data);
    const ids = new Set(active.map((job) => job.id));
    for (const job of this.active())
      if (!ids.has(job.id))
        await api.get(job.id).then((now) => this.settle(now), (error) => error.status === 404 && this.forget(job.id));
    active.forEach((job) => this.settle(job));
  }

  settle(job) {
    const before = this.known.get(job.id);
    if (before && advance(before) > advance(job)) return;
    job.told = performance.now();
    this.known.set(job.id, job);
    if (is_over(job)) this.previews.delete(job.id);
    this.changed(job, before);
  }
}
