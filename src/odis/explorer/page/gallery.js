// The pictures of the index: they load as one scrolls, all or those of a class. Arrow keys go through them.

import { at, el, get, number } from "./dom.js";

const PAGE = 60;

/** Make the gallery. `open(row)` shows a picture, `filtered(label)` is told of another class. */
export function makeGallery(classes, session, open, filtered) {
  const list = at("thumbs"), select = at("class");
  let label = null, total = Infinity, shown = 0, loading = false, current = null, asked = 0;

  select.append(el("option", { value: "", text: "All classes" }), ...classes.map((one) =>
    el("option", { value: one.label, text: `${one.name} (${number(one.images)})` })));
  select.disabled = !classes.length;
  select.addEventListener("change", () => {
    label = select.value === "" ? null : Number(select.value);
    begin();
    filtered(label);
  });

  const end = el("li", { class: "end", "aria-hidden": "true" });
  const watch = new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && more(),
    { root: list, rootMargin: "600px" });

  function begin() {
    list.replaceChildren(end);
    list.scrollTo(0, 0);
    [total, shown, loading] = [Infinity, 0, false];
    asked += 1;
    watch.disconnect();
    watch.observe(end);
  }

  async function more() {
    if (loading || shown >= total) return;
    loading = true;
    const mine = asked, of = label === null ? "" : `&class=${label}`;
    const found = await get(`/api/images?from=${shown}&count=${PAGE}${of}`);
    if (mine !== asked) return;
    total = found.total;
    shown += found.images.length;
    end.before(...found.images.map(thumb));
    at("count").textContent = `${number(total)}${label === null ? "" : " of this class"}`;
    if (!list.querySelector("button[tabindex='0']")) list.querySelector("button")?.setAttribute("tabindex", 0);
    mark();
    loading = false;
    watch.unobserve(end); // it may still be in sight
    watch.observe(end);
  }

  function thumb(one) {
    const what = one.classes.length ? `: ${one.classes.join(", ")}` : "";
    return el("li", {}, el("button", {
      type: "button", tabindex: -1, "data-row": one.row, title: `${one.name}${what}`, onclick: () => open(one.row),
    }, el("img", {
      src: `/thumb/${one.row}?${session}`, alt: `${one.name}${what}`, loading: "lazy", decoding: "async",
      onerror: (event) => event.target.closest("li").classList.add("broken"),
    })));
  }

  function mark() {
    for (const button of list.querySelectorAll("button")) {
      const is = Number(button.dataset.row) === current;
      if (is) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const now = buttons.indexOf(document.activeElement);
    if (now < 0) return;
    const top = buttons[0].offsetTop;
    const across = Math.max(1, buttons.findIndex((one) => one.offsetTop > top + 4));
    const sideways = buttons.at(-1).offsetTop === top; // on a phone all are in one line
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: sideways ? 1 : across,
      ArrowUp: sideways ? -1 : -across, Home: -now, End: buttons.length - 1 - now }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(now + step, 0), buttons.length - 1)];
    buttons[now].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  return {
    show(of) {
      label = classes.some((one) => one.label === of) ? of : null;
      select.value = label ?? "";
      begin();
    },
    mark(row) {
      current = row;
      mark();
    },
    get label() {
      return label;
    },
  };
}
