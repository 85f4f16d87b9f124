// What has been made: cards with a picture, the newest first, found again by words of the prompt.

import { address, api } from "./api.js";
import { $, Rows, make, write } from "./dom.js";
import { ago } from "./words.js";

const page = 24;
const fates = { completed: "", failed: "Failed", cancelled: "Cancelled", queued: "Waiting", in_progress: "Running" };

export class Gallery {
  constructor(on) {
    this.on = on;
    this.jobs = [];
    this.asked = 0;
    this.rows = new Rows($("cards"), (job) => this.card(job));
    $("more").addEventListener("click", () => this.load(true));
    $("show").addEventListener("change", () => this.load());
    $("filter").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.load(), 250);
    });
  }

  /** Loads the first cards, or `more` of them. Words are looked for by the server, in all that was ever made. */
  async load(more = false) {
    const asked = ++this.asked;
    const [status, q] = [$("show").value, $("filter").value.trim()];
    $("export").href = address.csv({ status, q });
    try {
      const found = q
        ? await api.history({ status, q, limit: 100 })
        : await api.list({ status, limit: page, after: more ? this.jobs.at(-1)?.id : "" });
      if (asked !== this.asked) return;
      const kept = found.data.filter((job) => job.prompt);  // of what was deleted only the numbers are left
      this.jobs = more ? [...this.jobs, ...kept] : kept;
      $("more").hidden = !found.has_more;
      this.show();
    } catch {}  // its absence is told elsewhere
  }

  /** A job that is over now: on top, where it is one of those that are shown. */
  add(job) {
    if ($("filter").value.trim()) return this.load();
    if ($("show").value && $("show").value !== job.status) return;
    this.jobs = [job, ...this.jobs.filter((one) => one.id !== job.id)];
    this.show();
  }

  drop(id) {
    this.jobs = this.jobs.filter((one) => one.id !== id);
    this.show();
  }

  show() {
    this.rows.show(this.jobs);
    $("no-cards").hidden = this.jobs.length > 0;
    write($("no-cards"), $("filter").value ? "No prompt has these words." : "Nothing here yet.");
  }

  card(job) {
    const thumb = make("span", { className: "thumb" });
    const when = make("span", { className: "line quiet" });
    const button = make("button", { type: "button", onclick: () => this.on.choose(job.id) },
      thumb, make("span", { className: "text" }, make("span", { className: "line", title: job.prompt }, job.prompt), when));
    let shown = null;
    const update = (now) => {
      if (shown !== now.status) {
        shown = now.status;
        const image = make("img", { alt: "", loading: "lazy", src: address.content(now.id, "thumbnail"), onerror: () => thumb.replaceChildren("File removed") });
        thumb.replaceChildren(now.status === "completed" ? image : fates[now.status]);
      }
      write(when, `${now.size.replace("x", " × ")} · ${ago(now.created_at)}`);
      button.setAttribute("aria-current", String(now.id === this.on.chosen()));
    };
    return { element: make("li", {}, button), update };
  }
}
