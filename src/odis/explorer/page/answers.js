// What the networks say, side by side: where [OBJ] looks, patches, nearest objects; and the ways to ask.

import { at, bytes, choice, counted, el, number } from "./dom.js";
import { drawAttention, drawInput, drawPatches, weightsOf } from "./paint.js";

export const MODES = ["masked-attention", "crop", "blackout", "mean-pool"];
const WORDS = {
  "masked-attention": "[OBJ] reads the patches of the object",
  crop: "its box, cut out and resized",
  blackout: "the picture, blank outside its box",
  "mean-pool": "the mean of its patches",
};

/** Make the answers. `turned()` is called when another view, mode, layer or head is chosen. */
export function makeAnswers(about, session, state, turned, go) {
  const colours = bytes(about.colours);
  let last = null;

  const pickView = choice(at("views"), [["look", "Look"], ["ways", "Ways to ask"]], state.view, (view) => {
    state.view = view;
    settle();
    turned(true);
  });
  const mode = at("mode"), layer = at("layer"), head = at("head");
  mode.append(...MODES.map((name) => el("option", { value: name, text: name })));
  for (const [select, name] of [[mode, "mode"], [layer, "layer"], [head, "head"]]) {
    select.addEventListener("change", () => {
      state[name] = select.value;
      turned(name === "mode");
      if (name !== "mode" && last) show(last);
    });
  }

  /** Controls as the state and the networks have them. */
  function settle() {
    pickView(state.view);
    mode.value = state.mode;
    const chosen = state.networks.map((k) => about.networks[k]);
    const layers = Math.max(0, ...chosen.map((one) => one.layers));
    const heads = Math.max(0, ...(last?.answers ?? []).map((one) =>
      Math.max(0, ...Object.values(one.modes).map((m) => m?.attention?.heads ?? 0))));
    fill(layer, [["last", "last"], ["every", "every"], ...upTo(layers)], "layer");
    fill(head, [["mean", "mean"], ["every", "every"], ...upTo(heads)], "head");
    const looks = state.view === "look" && state.mode === "masked-attention" &&
      chosen.some((one) => !one.no_attention);
    at("mode-choice").hidden = state.view !== "look";
    at("layer-choice").hidden = at("head-choice").hidden = !looks;
  }

  const upTo = (count) => Array.from({ length: count }, (_, k) => [String(k + 1), String(k + 1)]);

  function fill(select, options, name) {
    if (select.options.length !== options.length) {
      select.replaceChildren(...options.map(([value, text]) => el("option", { value, text })));
    }
    select.value = state[name];
    if (select.selectedIndex < 0) select.value = state[name] = options[0][0];
  }

  function show(answer) {
    last = answer;
    settle();
    const columns = at("columns");
    columns.dataset.count = answer.answers.length;
    columns.replaceChildren(...answer.answers.map((one) => column(one)));
    columns.dataset.ready = answer.number;
  }

  function column(one) {
    const network = about.networks[one.network];
    const step = network.step ? `step ${number(network.step)}` : "";
    const head = el("header", {},
      el("h3", { text: network.label, title: network.source }), el("p", { class: "quiet", text: step }));
    const content = state.view === "ways" ? MODES.map((name) => way(one, name, network)) : look(one, network);
    return el("article", { "data-network": one.network, "aria-label": `Answer of ${network.label}` }, head, ...content);
  }

  function look(one, network) {
    const answer = one.modes[state.mode];
    if (!answer) return [el("p", { class: "note", text: `It cannot be asked by ${state.mode}.` })];
    const pictures = el("div", { class: "pair" });
    if (answer.attention) pictures.append(...attention(answer, network));
    else if (state.mode === "masked-attention" && network.no_attention) {
      pictures.append(el("p", { class: "note", text: network.no_attention }));
    } else pictures.append(input(answer, network));
    pictures.append(patches(one, network));
    return [pictures, near(answer, network, "")];
  }

  /** One large picture of a head of a layer, or many small ones. */
  function attention(answer, network) {
    const { attention: maps, rows, columns } = answer;
    const layers = state.layer === "every" ? [...Array(maps.layers).keys()]
      : [state.layer === "last" ? maps.layers - 1 : Math.min(Number(state.layer), maps.layers) - 1];
    const heads = state.head === "every" ? [...Array(maps.heads).keys()]
      : [state.head === "mean" ? "mean" : Math.min(Number(state.head), maps.heads) - 1];
    const many = layers.length * heads.length > 1;
    const one = (l, h) => {
      const weights = weightsOf(maps, rows * columns, l, h);
      const words = `layer ${l + 1} of ${maps.layers}, ${h === "mean" ? "mean of heads" : `head ${h + 1}`}`;
      const canvas = el("canvas", { role: "img", class: "look",
        "aria-label": `Where [OBJ] of ${network.label} looks, ${words}; brightest patch ${percent(weights)}` });
      drawAttention(canvas, answer.picture, answer.region, answer, weights, colours, many ? 170 : 300);
      return el("figure", {}, canvas, el("figcaption", {
        text: many ? `${l + 1} · ${h === "mean" ? "mean" : h + 1}`
          : `Where [OBJ] looks: ${words}. Brightest patch ${percent(weights)}.` }));
    };
    if (!many) return [one(layers[0], heads[0])];
    const grid = el("div", { class: "small", role: "group", tabindex: 0,
      "aria-label": "Where [OBJ] looks, by layer and head" }, ...layers.flatMap((l) => heads.map((h) => one(l, h))));
    grid.style.setProperty("--across", heads.length > 1 ? heads.length : 4);
    return [el("figure", { class: "wide" }, grid,
      el("figcaption", { text: "Where [OBJ] looks: layer · head. Bright is the most of each head." }))];
  }

  const percent = (weights) => `${(100 * Math.max(...weights)).toFixed(1)} %`;

  function input(answer, network) {
    const words = WORDS[answer.mode];
    const canvas = el("canvas", { role: "img", class: "input",
      "aria-label": `What ${network.label} sees by ${answer.mode}: ${words}` });
    drawInput(canvas, answer.picture, answer.region, answer, 300);
    return el("figure", {}, canvas, el("figcaption", { text: `What it sees: ${words}.` }));
  }

  function patches(one, network) {
    if (!one.patches) return el("p", { class: "note", text: "It has no map of patches." });
    const canvas = el("canvas", { role: "img", class: "patches",
      "aria-label": `Patches of the picture by ${network.label} in the colours of three principal components` });
    drawPatches(canvas, last.picture, last.region, one.patches, 300);
    const { rows, columns, share } = one.patches;
    return el("figure", { class: "of-patches" }, canvas, el("figcaption", {
      text: `Patches by PCA: ${rows} × ${columns}, ${Math.round(100 * share)} % of the variance.` }));
  }

  function way(one, name, network) {
    const answer = one.modes[name];
    if (!answer) return el("section", { class: "way" }, el("h4", { text: name }),
      el("p", { class: "note", text: "It cannot be asked so." }));
    const canvas = el("canvas", { role: "img", class: "input",
      "aria-label": `What ${network.label} sees by ${name}: ${WORDS[name]}` });
    drawInput(canvas, answer.picture, answer.region, answer, 132);
    return el("section", { class: "way" }, el("h4", { text: name }),
      el("figure", {}, canvas, el("figcaption", { text: WORDS[name] })), near(answer, network, name));
  }

  function near(answer, network, name) {
    const box = el("div", { class: "near" });
    const { features, neighbours } = answer;
    const label = last.label;
    const of = `by ${network.label}${name ? `, ${name}` : ""}`;
    if (label !== null && neighbours.some((n) => n.label !== null)) {
      const same = neighbours.filter((n) => n.label === label).length;
      box.append(el("p", { class: "sum", text: `Same class: ${same} of the ${neighbours.length} nearest` }));
    } else if (neighbours.length) box.append(el("p", { class: "sum", text: "Nearest objects" }));
    box.append(el("ol", { "aria-label": `Nearest objects ${of}` }, ...neighbours.map((n, k) => neighbour(n, k, label))));
    if (features.problem) box.append(el("p", { class: "note", text: features.problem }));
    else if (!features.done) {
      box.append(el("p", { class: "quiet", text: neighbours.length
        ? `Searched: the ${counted(features.objects, "object")} embedded so far.` : "The index is being embedded…" }));
    } else box.append(el("p", { class: "quiet", text: `Searched: ${counted(features.objects, "object")}.` }));
    for (const line of features.skipped.slice(0, 4)) box.append(el("p", { class: "quiet", text: line }));
    return box;
  }

  function neighbour(one, k, label) {
    const known = label !== null && one.label !== null;
    const kind = known ? (one.label === label ? "same" : "other") : "";
    const mark = known ? (kind === "same" ? "= " : "≠ ") : "";
    const name = one.class || `object ${one.number + 1}`;
    return el("li", { class: kind }, el("button", {
      type: "button", title: `${one.name}, object ${one.number + 1}`, "data-row": one.row, "data-number": one.number,
      onclick: () => go(one.row, { object: one.number }),
    },
    el("img", { src: `/object/${one.row}/${one.number}?${session}`, loading: "lazy",
      alt: `${k + 1}. nearest: ${name} in ${one.name}, similarity ${one.cosine.toFixed(2)}` }),
    el("span", { class: "cosine", text: one.cosine.toFixed(2) }),
    el("span", { class: "class", text: mark + name })));
  }

  return {
    settle,
    /** Show an answer to a region of a picture. */
    show(answer, picture, region) {
      for (const one of answer.answers) {
        for (const found of Object.values(one.modes)) if (found) Object.assign(found, { picture, region });
      }
      show(Object.assign(answer, { picture, region }));
    },
  };
}
