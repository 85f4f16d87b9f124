// Memory and step time of each rank, and the disk.

import { $, make, write } from "./dom.js";
import { bytes, duration, plural } from "./words.js";

const quiet_for = 3;  // seconds after which a rank is said to be silent

export class Machine {
  constructor() {
    this.rows = [];
    this.body = make("tbody");
    this.disk = make("p", { className: "quiet small disk" });
    const head = ["Rank", "Memory", "Peak", "Step"].map((name) => make("th", { scope: "col" }, name));
    this.table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), this.body);
    $("machine").append(this.table, this.disk);
  }

  show({ ranks, disk }) {
    while (this.rows.length < ranks.length) this.add();
    while (this.rows.length > ranks.length) this.rows.pop().row.remove();
    const most = Math.max(1, ...ranks.map((rank) => rank.memory_peak_bytes));
    ranks.forEach((rank, index) => {
      const { row, name, memory, bar, peak, step } = this.rows[index];
      row.title = `${rank.host}, ${rank.device}`;
      write(name, String(rank.rank));
      write(memory, bytes(rank.memory_bytes));
      bar.value = rank.memory_bytes / most;
      write(peak, bytes(rank.memory_peak_bytes));
      const silent = rank.seconds_since_heard > quiet_for;
      step.classList.toggle("error", silent);
      write(step, silent ? `silent for ${duration(Math.round(rank.seconds_since_heard))}` : rank.step_seconds ? duration(rank.step_seconds) : "–");
    });
    const devices = [...new Set(ranks.map((rank) => rank.device.replace(/:\d+$/, "")))].join(", ");
    write($("machine-count"), ranks.length ? `${plural(ranks.length, "rank")}, ${devices}` : "");
    write(this.disk, disk ? `${plural(disk.videos, "video")} on disk, ${bytes(disk.used_bytes)} of ${bytes(disk.quota_bytes)}` : "");
  }

  add() {
    const [name, memory, peak, step] = ["span", "span", "td", "td"].map((tag) => make(tag));
    const bar = make("progress", { max: 1, ariaLabel: "Memory, of the largest peak" });
    const row = make("tr", {}, make("td", {}, name), make("td", {}, memory, bar), peak, step);
    this.body.append(row);
    this.rows.push({ row, name, memory, bar, peak, step });
  }
}
