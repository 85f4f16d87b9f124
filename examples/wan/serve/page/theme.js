// Light, dark, or as the system has it.

import { write } from "./dom.js";

const kept = "wanpar.theme";
const names = { auto: "Auto", light: "Light", dark: "Dark" };

export function theme(button) {
  const order = Object.keys(names);
  const apply = (name) => {
    document.documentElement.dataset.theme = name;
    write(button, names[name]);
    button.setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system's" : name}`);
  };
  let now = localStorage.getItem(kept) ?? "auto";
  if (!(now in names)) now = "auto";
  apply(now);
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % order.length];
    localStorage.setItem(kept, now);
    apply(now);
  });
}
