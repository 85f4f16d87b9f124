// What runs and what waits, each with its place and the time it will take.

import { $, Rows, make, write } from "./dom.js";
import { duration } from "./words.js";

export class Queue {
  constructor(jobs, on) {
    this.jobs = jobs;
    this.rows = new Rows($("queue"), (job) => this.row(job, on));
  }

  row(job, on) {
    const place = make("span", { className: "line quiet small" });
    const bar = make("progress", { max: 100, ariaLabel: "Progress" });
    const element = make("li", {},
      make("button", { type: "button", className: "open", onclick: () => on.choose(job.id) }, make("span", { className: "line" }, job.prompt), place),
      make("button", { type: "button", className: "ghost", ariaLabel: `Cancel: ${job.prompt}`, onclick: () => on.cancel(job) }, "Cancel"), bar);
    const update = (now) => {
      const left = this.jobs.left(now);
      const runs = now.status === "in_progress";
      const where = runs ? (now.phase === "denoise" && now.steps ? `step ${now.step} of ${now.steps}` : "running") : `number ${now.queue_position}`;
      write(place, left === null ? where : `${where} · ${duration(Math.max(1, Math.round(left)))} left`);
      bar.hidden = !runs;
      bar.value = now.progress;
      element.setAttribute("aria-current", String(now.id === on.chosen()));
    };
    return { element, update };
  }

  show(status) {
    const active = this.jobs.active();
    this.rows.show(active);
    $("no-queue").hidden = active.length > 0;
    const waiting = active.filter((job) => job.status === "queued").length;
    write($("queue-count"), status ? `${waiting} of ${status.queue.capacity} waiting` : "");
  }
}
