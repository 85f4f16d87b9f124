// Calls of the server's API. Whatever fails is an ApiError with one sentence for people.

export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

/** JSON as the server writes it. A number that would lose digits here, as a large seed, stays text, which it takes as well. */
export const parse = (text) =>
  JSON.parse(text, (_, value, context) => (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) ? context?.source ?? value : value));

const patience = 10000;  // milliseconds

async function error_of(response) {
  const told = (await response.json().catch(() => null))?.error ?? {};
  return new ApiError(told.message ?? `The server answered ${response.status} ${response.statusText}.`, {
    status: response.status,
    code: told.code ?? "",
    param: told.param ?? null,
    retryAfter: Number(response.headers.get("Retry-After")) || 0,
  });
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(patience), ...options });
  } catch {
    throw new ApiError("The server does not answer.");
  }
  if (!response.ok) throw await error_of(response);
  if (response.status === 204) return null;
  try {
    return parse(await response.text());
  } catch {
    throw new ApiError("The server broke off its answer.");
  }
}

const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const video = (id, rest = "") => `v1/videos/${encodeURIComponent(id)}${rest}`;
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value != null));

export const api = {
  status: () => ask("v1/status"),
  capabilities: () => ask("v1/capabilities"),
  signIn: (token) => post("v1/session", { token }),
  create: (settings) => post("v1/videos", settings),
  plan: (settings) => post("v1/plan", settings),
  list: (values) => ask(`v1/videos?${query(values)}`),
  history: (values) => ask(`v1/history?${query(values)}`),
  get: (id) => ask(video(id)),
  cancel: (id) => post(video(id, "/cancel"), {}),
  remove: (id) => ask(video(id), { method: "DELETE" }),
};

export const address = {
  events: "v1/events",
  content: (id, variant, rest = "") => video(id, `/content?variant=${variant}${rest}`),
  preview: (id) => video(id, "/preview"),
  csv: (values) => `v1/history?${query({ ...values, format: "csv" })}`,
};
