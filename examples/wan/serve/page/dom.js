// The few words that building a page out of nodes takes. Text goes in as text, so no prompt is ever markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; a child that is a string becomes text, one that is null is left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text only where it differs, so that a selection in it is not lost. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Keeps the children of `list` in step with `items`, each known by its id: what stays is changed in place, so that
 * focus, playing and loading go on. `create(item)` gives {element, update(item)}.
 */
export class Rows {
  constructor(list, create) {
    this.list = list;
    this.create = create;
    this.rows = new Map();
  }

  show(items) {
    const wanted = new Set(items.map((item) => item.id));
    for (const [id, row] of this.rows)
      if (!wanted.has(id)) {
        const beside = row.element.nextElementSibling ?? row.element.previousElementSibling;
        const had_focus = row.element.contains(document.activeElement);
        row.element.remove();
        if (had_focus) beside?.querySelector("button")?.focus();
        this.rows.delete(id);
      }
    let before = this.list.firstElementChild;
    for (const item of items) {
      let row = this.rows.get(item.id);
      if (!row) this.rows.set(item.id, (row = this.create(item)));
      row.update(item);
      if (row.element === before) before = before.nextElementSibling;
      else this.list.insertBefore(row.element, before);
    }
  }
}

/** Tells screen readers what has changed. */
export function say(text) {
  $("said").textContent = text;
}
