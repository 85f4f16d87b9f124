// The server's events as they come, and the news that none come any more.

import { address, api, ApiError, parse } from "./api.js";

const silence = 4000;  // milliseconds without any event, where one is due every two seconds

/**
 * Calls `on.job`, `on.preview`, `on.deleted` and `on.status` with what the server tells; `on.open` when it can be
 * heard (again), `on.gone` when it cannot, `on.locked` when it wants its key first. Tries again by itself.
 */
export class Live {
  constructor(on) {
    this.on = on;
    this.heard = 0;
    setInterval(() => this.watch(), 500);
  }

  open() {
    this.source?.close();
    this.source = new EventSource(address.events);
    this.heard = performance.now();
    this.source.onopen = () => {
      this.heard = performance.now();
      this.on.open();
    };
    this.source.onerror = () => this.lost();
    for (const kind of ["job", "preview", "deleted", "status"])
      this.source.addEventListener(kind, (event) => {
        this.heard = performance.now();
        this.on[kind](parse(event.data));
      });
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  watch() {
    if (!this.source || performance.now() - this.heard <= silence) return;
    this.on.gone(new ApiError("The server has not been heard for some seconds."));
    this.open();
  }

  // Why: an EventSource does not say what the server answered, so it is asked.
  async lost() {
    if (!this.source) return;
    this.close();
    try {
      await api.status();
    } catch (error) {
      if (error.status === 401) return this.on.locked();
      this.on.gone(error);
    }
    setTimeout(() => this.source || this.open(), 1000);
  }
}
