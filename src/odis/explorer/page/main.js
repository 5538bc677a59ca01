// The page as a whole: its state, the address, what is asked and when.

import { readAddress, writeAddress } from "./address.js";
import { MODES, makeAnswers } from "./answers.js";
import { at, counted, el, get, number, post } from "./dom.js";
import { makeGallery } from "./gallery.js";
import { makeStage } from "./stage.js";

const PAUSE = 90; // milliseconds between two questions while a box is drawn
const POLL = 1000; // milliseconds between two looks at how far the index is embedded
const tab = crypto.getRandomValues(new Uint32Array(2)).join("-");
const session = tab; // other pictures may lie at the same address after a restart

const about = await get("/api/about");
const state = { row: null, upload: null, region: null, label: null, view: "look", mode: "masked-attention",
  layer: "last", head: "mean", networks: [] };
let picture = null, asking = null, timer = null, askedAt = 0, count = 0, polling = false, seen = "";

const stage = makeStage((region, settled) => {
  state.region = region;
  if (settled) writeAddress(state, true);
  ask(settled);
});
const gallery = makeGallery(about.index.classes, session, (row) => go(row, null), (label) => {
  state.label = label;
  writeAddress(state, true);
});
const answers = makeAnswers(about, session, state, (asks) => {
  writeAddress(state, true);
  answers.settle();
  if (asks) ask(true);
}, go);

function say(text, wrong) {
  at("said").textContent = text;
  at("said").classList.toggle("note", Boolean(wrong));
}

// --- pictures

const pictures = new Map(); // the last few, by address

async function load(source, image) {
  if (pictures.has(source)) return pictures.get(source);
  const found = await get(source);
  found.image = new Image();
  found.image.src = image;
  await found.image.decode();
  pictures.set(source, found);
  if (pictures.size > 6) pictures.delete(pictures.keys().next().value);
  return found;
}

/** Show the picture of the state, and ask about its region. */
async function open() {
  const [row, upload] = [state.row, state.upload];
  try {
    const found = upload ? await load(`/api/upload/${upload}`, `/upload/${upload}`)
      : await load(`/api/image/${row}`, `/image/${row}?${session}`);
    if (row !== state.row || upload !== state.upload) return; // another one was chosen meanwhile
    picture = found;
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (!fits(state.region)) state.region = first();
  at("name").textContent = `${picture.name} · ${picture.width} × ${picture.height}`;
  say(picture.unusable.join("; "), true);
  gallery.mark(upload ? null : row);
  stage.show(picture, state.region);
  writeAddress(state, false);
  ask(true);
}

function fits(region) {
  return region && (region.object === undefined || picture.objects.some((one) => one.number === region.object));
}

/** The largest object, else the whole picture. */
function first() {
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const largest = picture.objects.reduce((a, b) => (a && area(a) >= area(b) ? a : b), null);
  return largest ? { object: largest.number } : { whole: true };
}

function go(row, region) {
  Object.assign(state, { row, upload: null, region });
  writeAddress(state, true);
  at("stage").scrollIntoView({ block: "nearest" });
  open();
}

async function upload(file) {
  say(`Reading ${file.name}…`);
  try {
    const found = await post("/api/upload", file, "application/octet-stream");
    Object.assign(state, { row: null, upload: found.upload, region: { whole: true } });
    writeAddress(state, true);
    await open();
  } catch (error) {
    say(error.message, true);
  }
}

// --- questions

/** Ask now, or soon while a box is drawn; an older question is given up. */
function ask(now) {
  clearTimeout(timer);
  if (!picture || !state.region) return;
  const wait = now ? 0 : Math.max(0, askedAt + PAUSE - performance.now());
  timer = setTimeout(send, wait);
}

async function send() {
  askedAt = performance.now();
  asking?.abort();
  const mine = (asking = new AbortController());
  const [asked, region] = [picture, state.region];
  const body = JSON.stringify({
    tab, region, networks: state.networks,
    picture: state.upload ? { upload: state.upload } : { row: state.row },
    modes: state.view === "ways" ? MODES : [state.mode],
    neighbours: state.view === "ways" ? 6 : 12,
  });
  at("columns").setAttribute("aria-busy", "true");
  try {
    const answer = await post("/api/ask", body, "application/json", mine.signal);
    if (mine !== asking) return;
    answer.number = count += 1;
    answers.show(answer, asked, region);
    if (!picture.unusable.length) say("");
    poll();
  } catch (error) {
    if (mine !== asking || error.name === "AbortError" || error.status === 409) return;
    say(error.message, true);
  } finally {
    if (mine === asking) at("columns").removeAttribute("aria-busy");
  }
}

function showProgress(bank) {
  at("progress").replaceChildren(...(bank ? [
    `Embedding the index: ${number(bank.images)} of ${counted(bank.of, "image")} (${bank.network}, ${bank.mode})`,
    el("progress", { max: bank.of, value: bank.images, "aria-label": "Images embedded" }),
  ] : []));
}

/** Look how far the index is embedded until it is; what is shown is asked again as there is more to search. */
async function poll() {
  if (polling) return;
  polling = true;
  try {
    for (;;) {
      const banks = (await get("/api/status")).flatMap((modes, k) =>
        Object.entries(modes).map(([mode, bank]) => ({ ...bank, mode, network: about.networks[k].label })));
      const open = banks.filter((bank) => bank.started && !bank.done && !bank.problem);
      showProgress(open[0]);
      const now = banks.map((bank) => bank.objects).join();
      if (seen && now !== seen) ask(true);
      seen = now;
      if (!open.length) return;
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  } catch (error) {
    say(error.message, true);
  } finally {
    polling = false;
  }
}

// --- networks, address, drop

function showNetworks() {
  at("networks").replaceChildren(...about.networks.map((one, k) => el("button", {
    type: "button", "data-network": k, "aria-pressed": state.networks.includes(k), text: one.label,
    title: one.source, onclick: () => toggle(k),
  })));
  at("networks").hidden = about.networks.length < 2;
}

function toggle(k) {
  const without = state.networks.filter((one) => one !== k);
  state.networks = without.length < state.networks.length ? without : [...state.networks, k].sort((a, b) => a - b);
  if (!state.networks.length) state.networks = [k];
  showNetworks();
  answers.settle();
  writeAddress(state, true);
  ask(true);
}

/** Take over what the address says. */
function follow() {
  const given = readAddress();
  const all = about.networks.map((_, k) => k);
  Object.assign(state, {
    row: given.row ?? (given.upload ? null : 0), upload: given.upload, region: given.region, label: given.label,
    view: given.view === "ways" ? "ways" : "look",
    mode: MODES.includes(given.mode) ? given.mode : about.networks[0].first,
    layer: given.layer ?? "last", head: given.head ?? "mean",
    networks: given.networks?.filter((k) => all.includes(k)) ?? [],
  });
  if (!state.networks.length) state.networks = all.slice(0, 2);
  showNetworks();
  answers.settle();
  if (gallery.label !== state.label || !at("thumbs").children.length) gallery.show(state.label);
  open();
}

window.addEventListener("popstate", follow);
at("file").addEventListener("change", (event) => {
  if (event.target.files[0]) upload(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
});

const { index } = about;
at("about").textContent = `${index.name} · ${counted(index.images, "image")} · ${counted(index.objects, "object")}, ` +
  index.provenance;
at("about").title = index.path;
document.title = `${index.name} · odis explore`;
follow();
