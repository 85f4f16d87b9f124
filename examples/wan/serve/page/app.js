// The page: what the server tells goes to the parts, what people do goes to the server.

import { api } from "./api.js";
import { $, say, write } from "./dom.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { Jobs, is_over } from "./jobs.js";
import { Live } from "./live.js";
import { Machine } from "./machine.js";
import { Queue } from "./queue.js";
import { Stage } from "./stage.js";
import { theme } from "./theme.js";
import { plural } from "./words.js";

let status = null;
let capabilities = null;

// --- The parts ----------------------------------------------------------------------------------------------

const chosen = () => location.hash.slice(1);
const on = {
  choose, cancel, remove, chosen,
  reuse: (job) => form.reuse(job.settings),
  default_negative: () => capabilities?.defaults.negative_prompt,
};
const jobs = new Jobs(changed);
const form = new Form((job) => {
  jobs.put(job);
  choose(job.id);
  say(job.queue_position ? `Waiting as number ${job.queue_position}` : "Started");
});
const stage = new Stage(jobs, on);
const queue = new Queue(jobs, on);
const gallery = new Gallery(on);
const machine = new Machine();
const live = new Live({ open: opened, job: (job) => jobs.put(job), preview: (one) => jobs.picture(one), deleted: ({ id }) => jobs.forget(id),
  status: told, gone, locked });

// --- What the server tells ----------------------------------------------------------------------------------

async function opened() {
  banner("");
  try {
    capabilities = await api.capabilities();
    if (!form.fields) form.build(capabilities);
    told(await api.status());
    await jobs.refresh();
    await gallery.load();
    await show_chosen();
  } catch (error) {
    if (error.status === 401) locked();
    else setTimeout(() => live.source && opened(), 1000);  // it has just started, or is just ending
  }
}

function told(now) {
  status = now;
  const { state, loading, reason, model, ranks } = now;
  write($("model"), model);
  const texts = {
    starting: "Starting", loading: `Loading ${loading?.percent ?? 0} %${loading?.what ? `, ${loading.what}` : ""}`,
    ready: now.queue.running ? "Generating" : `Ready, ${plural(ranks.length, "rank")}`, stopping: "Stopping", failed: "Failed",
  };
  chip(state === "ready" ? "ready" : state === "failed" ? "gone" : "loading", texts[state] ?? state);
  banner(state === "failed" ? `The server has failed: ${reason ?? "no reason was given"}` : state === "stopping" ? "The server is stopping and takes no more jobs." : "");
  machine.show(now);
  queue.show(now);
}

function changed(job, before) {
  if (job && is_over(job) && before && !is_over(before)) {
    gallery.add(job);
    if (job.id === stage.id) say({ completed: "The video is finished", failed: "The video has failed", cancelled: "Cancelled" }[job.status]);
  }
  if (!job) gallery.drop(before.id);
  const id = job?.id ?? before?.id;
  if (id === stage.id) job ? stage.show(job) : choose("");
  else if (!chosen() && job?.status === "in_progress") stage.show(job);
  queue.show(status);
  tick();
}

function gone(error) {
  chip("gone", "Not connected");
  banner(`${error.message} Is wan_serve still running? This page tries again by itself.`);
}

function locked() {
  live.close();
  chip("loading", "Locked");
  if (!$("key").open) $("key").showModal();
}

// --- What people do -----------------------------------------------------------------------------------------

function choose(id) {
  if (chosen() === id) return show_chosen();
  if (id) location.hash = id;
  else {
    history.replaceState(null, "", location.pathname);
    show_chosen();
  }
}

async function show_chosen() {
  const id = chosen();
  if (id && !jobs.get(id)?.settings) {
    try {
      jobs.settle(await api.get(id));
    } catch (error) {
      if (error.status === 404 && id === chosen()) return choose("");
    }
  }
  stage.show(jobs.get(id) ?? jobs.active()[0] ?? null);
  queue.show(status);
  gallery.show();
  if (id) $("stage").scrollIntoView({ block: matchMedia("(max-width: 800px)").matches ? "start" : "nearest" });
}

async function cancel(job) {
  try {
    jobs.put(await api.cancel(job.id));
  } catch (error) {
    if (error.code !== "already_finished") banner(error.message);
  }
}

async function remove(job) {
  write($("ask-text"), `Delete “${job.prompt.slice(0, 80)}” and its file? This cannot be undone.`);
  $("ask").returnValue = "no";
  $("ask").showModal();
  await new Promise((closed) => $("ask").addEventListener("close", closed, { once: true }));
  if ($("ask").returnValue !== "yes") return;
  try {
    await api.remove(job.id);
    jobs.forget(job.id);
  } catch (error) {
    error.status === 404 ? jobs.forget(job.id) : banner(error.message);
  }
}

$("key").addEventListener("cancel", (event) => event.preventDefault());
$("key").addEventListener("close", async () => {
  try {
    await api.signIn($("key-value").value);
    $("key-value").value = "";
    $("key-fault").hidden = true;
    live.open();
  } catch (error) {
    write($("key-fault"), error.status === 401 ? "This is not the key." : error.message);
    $("key-fault").hidden = false;
    $("key").showModal();
  }
});

// --- What is shown of the whole -----------------------------------------------------------------------------

function chip(state, text) {
  $("state").dataset.state = state;
  write($("state-text"), text);
}

function banner(text) {
  $("banner").hidden = !text;
  write($("banner"), text);
}

function tick() {
  stage.tick();
  const job = jobs.active()[0];
  document.title = job?.status === "in_progress" ? `${job.progress} % · wanpar` : "wanpar";
}

theme($("theme"));
window.addEventListener("hashchange", show_chosen);
setInterval(() => {
  if ($("state").dataset.state === "gone") return;  // estimates of a server that is gone stand still
  tick();
  queue.show(status);
}, 1000);
live.open();
