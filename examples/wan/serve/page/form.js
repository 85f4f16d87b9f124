// The form: what to make, kept between visits, looked at by the server's planner while it is filled in.

import { api } from "./api.js";
import { $, make, write } from "./dom.js";
import { degrees, elsewhere, labels, main, sizes, spread } from "./settings.js";
import { about, bytes, plural } from "./words.js";

const kept = "wanpar.form";
const is_exact = (digits) => !/^-?\d+$/.test(digits) || Number.isSafeInteger(Number(digits));
const pause = 300;  // milliseconds of quiet before the planner is asked

/** Asks for settings, and calls `submitted(job)` when the server has taken them. */
export class Form {
  constructor(submitted) {
    this.form = $("form");
    this.submitted = submitted;
    this.asked = 0;
    this.form.addEventListener("input", (event) => this.changed(event.target));
    this.form.addEventListener("reset", () => setTimeout(() => this.fill(this.shown_defaults(), true)));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    $("size_preset").addEventListener("change", () => this.take_preset());
  }

  /** Shapes itself after what the server can do, and takes up what was filled in last time. */
  build({ defaults, fields }) {
    this.fields = fields;
    this.defaults = { ...spread(defaults), seed: "" };  // drawn anew each time
    const own = `${this.defaults.width}x${this.defaults.height}`;
    const choices = [own, ...sizes.filter((size) => size !== own)];
    $("size_preset").replaceChildren(
      ...choices.map((size) => make("option", { value: size }, size.replace("x", " × "))), make("option", { value: "" }, "other"));
    $("sample_solver").replaceChildren(...(fields.sample_solver?.choices ?? []).map((name) => make("option", {}, name)));
    const shown = [...main, ...degrees, ...elsewhere];
    $("more-fields").replaceChildren(...Object.keys(fields).filter((name) => !shown.includes(name)).map((name) => this.field(name)));
    $("more-settings").hidden = !$("more-fields").childElementCount;
    for (const name of [...main, ...degrees]) this.limit(name);
    this.fill(this.shown_defaults(), true);
    try {
      this.fill(JSON.parse(localStorage.getItem(kept)) ?? {}, false);
    } catch {
      localStorage.removeItem(kept);
    }
  }

  field(name) {
    const { type, choices } = this.fields[name];
    const options = choices ?? (type === "boolean" ? ["true", "false"] : null);
    const input = options
      ? make("select", { name }, make("option", { value: "" }, "default"), ...options.map((one) => make("option", {}, String(one))))
      : make("input", { name, type: type === "string" ? "text" : "number", step: type === "integer" ? 1 : "any", placeholder: "default" });
    return make("label", { className: "field" }, make("span", {}, labels[name] ?? name.replaceAll("_", " ")), input);
  }

  // Why: the same video again wants every setting of it, also one that the form has had no place for.
  make_room(name, value) {
    if (this.form.elements[name] || elsewhere.includes(name) || value === null) return;
    this.fields[name] ??= { type: { boolean: "boolean", number: "number" }[typeof value] ?? "string" };
    $("more-fields").append(this.field(name));
    $("more-settings").hidden = false;
  }

  limit(name) {
    const input = this.form.elements[name];
    const { minimum, maximum } = this.fields[name] ?? {};
    if (input?.type !== "number") return;
    if (minimum !== undefined && name !== "num_frames") input.min = minimum;
    if (maximum !== undefined) input.max = maximum;
  }

  /** The defaults that are worth a number in the form; what is shared how, is chosen where it is left open. */
  shown_defaults() {
    return Object.fromEntries(main.filter((name) => name !== "negative_prompt").map((name) => [name, this.defaults[name]]));
  }

  /** Shows these settings; with `all` what they do not name is emptied, too. */
  fill(settings, all) {
    if (!settings) return;
    for (const input of this.form.elements) {
      if (!input.name || (!all && !(input.name in settings))) continue;
      const value = settings[input.name];
      input.value = value === null || value === undefined || (input.name === "negative_prompt" && value === this.defaults.negative_prompt) ? "" : String(value);
    }
    this.changed();
  }

  /** The settings of a job, to make it again or to change them first. */
  reuse(settings) {
    const all = spread(settings);
    for (const [name, value] of Object.entries(all)) this.make_room(name, value);
    this.fill(all, true);
    $("prompt").focus();
  }

  /** What is filled in, as the API has it: numbers as numbers, and nothing for what is left open. */
  settings() {
    const settings = {};
    for (const { name, value } of this.form.elements) {
      if (!name || value.trim() === "") continue;
      const type = this.fields?.[name]?.type ?? "string";
      if (type === "boolean") settings[name] = value === "true";
      else settings[name] = type === "string" || !is_exact(value) ? value : Number(value);
    }
    return settings;
  }

  take_preset() {
    const [width, height] = $("size_preset").value.split("x");
    if (!height) return $("width").focus();
    $("width").value = width;
    $("height").value = height;
    this.changed();
  }

  changed(input) {
    this.clear_faults(input);
    const size = `${$("width").value}x${$("height").value}`;
    $("size_preset").value = [...$("size_preset").options].some((option) => option.value === size) ? size : "";
    const chosen = degrees.filter((name) => this.form.elements[name].value !== "");
    write($("degrees-summary"), chosen.length ? chosen.map((name) => `${labels[name]} ${this.form.elements[name].value}`).join(", ") : "chosen by the server");
    const [frames, fps] = [Number($("num_frames").value), Number($("fps").value)];
    write($("length"), frames > 0 && fps > 0 ? `(${(frames / fps).toFixed(1)} s)` : "");
    const settings = this.settings();
    try {
      localStorage.setItem(kept, JSON.stringify(settings));
    } catch {}  // a browser that keeps nothing
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.plan(), pause);
  }

  async plan() {
    if (!this.fields) return;
    const asked = ++this.asked;
    const show = (text, fits) => {
      if (asked !== this.asked) return;  // an answer to an older question
      $("plan").dataset.fits = fits;
      write($("plan"), text);
    };
    try {
      const plan = await api.plan({ ...this.settings(), prompt: this.settings().prompt ?? "-" });
      if (!plan.possible) return show(plan.reason, false);
      const most = plan.memory?.reduce((a, b) => (b.needed_bytes > a.needed_bytes ? b : a), { needed_bytes: 0 });
      show([plan.describe, most?.needed_bytes ? `${bytes(most.needed_bytes)} a rank while ${most.phase}` : "",
        plan.eta_s > 0 ? about(plan.eta_s).replace(" left", "") : "", ...(plan.notes ?? [])].filter(Boolean).join(" · "), true);
    } catch (error) {
      if (error.param && error.status === 400) show(error.message, false);
      else show("", true);  // the server's absence is told elsewhere
    }
  }

  async submit() {
    this.clear_faults();
    if ($("prompt").value.trim() === "") return this.fault("prompt", "Write what the video shows.");
    const unread = [...this.form.elements].find((input) => input.validity?.badInput);
    if (unread) return this.fault(unread.name, "This is not a number.");
    $("generate").disabled = true;
    write($("generate"), "Sending");
    try {
      this.submitted(await api.create(this.settings()));
    } catch (error) {
      if (error.code === "queue_full")
        this.fault(null, `${error.message}${error.retryAfter ? ` Try again in ${plural(error.retryAfter, "second")}.` : ""}`);
      else this.fault(error.param, error.message);
    } finally {
      $("generate").disabled = false;
      write($("generate"), "Generate");
    }
  }

  /** One sentence about a field, beside it and read out; about the whole where it has none here. */
  fault(name, sentence) {
    const input = this.form.elements[name === "size" || name === "seconds" ? "width" : name];
    if (!input?.name) {
      $("form-error").hidden = false;
      return write($("form-error"), sentence);
    }
    const id = `wrong-${input.name}`;
    input.closest("details")?.setAttribute("open", "");
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", id);
    if ($("plan").textContent === sentence) write($("plan"), "");  // once is enough
    (input.closest(".pair, .degrees, .more") ?? input.closest(".field")).append(make("span", { id, className: "wrong small", role: "alert" }, sentence));
    input.focus();
  }

  clear_faults(input) {
    $("form-error").hidden = true;
    for (const wrong of this.form.querySelectorAll(".wrong"))
      if (!input || wrong.parentElement.contains(input)) wrong.remove();
    for (const invalid of this.form.querySelectorAll("[aria-invalid]"))
      if (!input || invalid === input) {
        invalid.removeAttribute("aria-invalid");
        invalid.removeAttribute("aria-describedby");
      }
  }
}
