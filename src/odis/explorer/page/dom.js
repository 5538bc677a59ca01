// Elements, and requests to the server. Text from the index is only ever set as text, never as markup.

/** An element. `props` are attributes; those that begin with `on` are listeners, `text` is its text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else node.setAttribute(key, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const at = (id) => document.getElementById(id);

export const number = (value) => value.toLocaleString("en");

// "1 image", "2,000 images".
export const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

export const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

const key = document.querySelector('meta[name="odis-key"]').content;

/** What the server answers; an Error with its words where it refuses. */
async function answered(reply) {
  if (reply.ok) return reply.json();
  let words = `the server answered ${reply.status}`;
  try {
    words = (await reply.clone().json()).error;
  } catch {
    if (reply.status === 403) words = "the explorer was started anew: open the address that it printed";
  }
  throw Object.assign(new Error(words), { status: reply.status });
}

export async function get(path) {
  return answered(await fetch(path));
}

export async function post(path, body, type, signal) {
  const headers = { "Content-Type": type, "X-Odis-Key": key };
  return answered(await fetch(path, { method: "POST", headers, body, signal }));
}

/** A group of buttons of which one is chosen; arrow keys go through it as through radio buttons. */
export function choice(box, items, chosen, choose) {
  const pick = (name, focus) => {
    for (const button of box.children) {
      const is = button.dataset.name === name;
      button.setAttribute("aria-checked", is);
      button.tabIndex = is ? 0 : -1;
      if (is && focus) button.focus();
    }
  };
  box.replaceChildren(
    ...items.map(([name, label]) =>
      el("button", {
        type: "button", role: "radio", "data-name": name, text: label,
        onclick: () => { pick(name); choose(name); },
      }),
    ),
  );
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const names = items.map(([name]) => name);
    const now = names.indexOf(document.activeElement.dataset.name);
    const next = names[(now + step + names.length) % names.length];
    pick(next, true);
    choose(next);
  });
  pick(chosen);
  return pick;
}
