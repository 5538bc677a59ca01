// What is shown, as the fragment of the address: #image=12&box=3,4,50,60&view=look

import { packRuns, unpackRuns } from "./region.js";

/** State from the address; what is wrong in it is left out. */
export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = (name) => (/^\d{1,9}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
  const state = {
    row: whole("image"), upload: null, region: null, label: whole("class"),
    view: given.get("view"), mode: given.get("mode"), layer: given.get("layer"), head: given.get("head"),
    networks: null,
  };
  if (/^[0-9a-f]{16}$/.test(given.get("upload") ?? "")) state.upload = given.get("upload");
  if (/^\d+(\.\d+)*$/.test(given.get("networks") ?? "")) {
    state.networks = given.get("networks").split(".").map(Number);
  }
  const box = (given.get("box") ?? "").split(",").map(Number);
  const mask = unpackRuns(given.get("mask") ?? "");
  if (given.has("whole")) state.region = { whole: true };
  else if (whole("object") !== null) state.region = { object: whole("object") };
  else if (box.length === 4 && box.every(Number.isFinite)) state.region = { box };
  else if (mask) state.region = { mask };
  return state;
}

export function writeAddress(state, asNew) {
  const parts = [];
  const add = (name, value) => value !== null && value !== undefined && parts.push(`${name}=${value}`);
  if (state.upload) add("upload", state.upload);
  else add("image", state.row);
  const region = state.region ?? {};
  if (region.whole) add("whole", 1);
  add("object", region.object);
  if (region.box) add("box", region.box.map((v) => Math.round(v * 10) / 10).join(","));
  if (region.mask) add("mask", packRuns(region.mask));
  add("view", state.view);
  add("mode", state.mode);
  add("layer", state.layer);
  add("head", state.head);
  add("class", state.label);
  if (state.networks) add("networks", state.networks.join("."));
  const address = `#${parts.join("&")}`;
  if (address === location.hash) return;
  history[asNew ? "pushState" : "replaceState"](null, "", address);
}
