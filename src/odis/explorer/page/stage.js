// The picture one asks about: pick an object, draw, move and resize a box, paint a mask; by mouse, touch or keys.

import { at, choice, counted, el } from "./dom.js";
import { ACCENT, maskImage, outline, sized, stretch } from "./paint.js";
import { boxOf, clamp, emptyMask, maskOf, moved, objectAt, stroke, tidy, toRuns } from "./region.js";

const NEAR = 11; // CSS pixels around a corner that take hold of it
const SLIP = 4; // CSS pixels a click may move

/** Make the stage. `changed(region, settled)` is called as the region changes, and once more when it stays. */
export function makeStage(changed) {
  const box = at("stage"), canvas = box.querySelector("canvas");
  let picture = null, region = null, tool = "box", hovered = null, drag = null, mask = null, pen = null;
  let scale = 1, frame = null;

  const pickTool = choice(at("tools"), [["box", "Object or box"], ["paint", "Paint"], ["erase", "Erase"]], "box",
    (name) => { useTool(name); draw(); });
  const radius = () => Number(at("brush").querySelector("input").value);

  function useTool(name) {
    tool = name;
    pickTool(name);
    const paints = name !== "box";
    at("brush").hidden = !paints;
    at("clear").hidden = !paints;
    hovered = null;
    if (paints && picture) {
      mask ??= region?.mask ? maskOf(region, picture) : emptyMask(picture);
      pen = { x: picture.width / 2, y: picture.height / 2, down: false, seen: false };
    }
  }

  function set(next, settled) {
    region = next;
    showFields();
    showObjects();
    draw();
    changed(region, settled);
  }

  /** Draw before the next frame, once however much has changed. */
  function draw() {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      paintStage();
    });
  }

  function paintStage() {
    if (!picture) return;
    const most = Math.max(220, Math.min(window.innerHeight * 0.66, 720));
    const room = box.clientWidth;
    scale = Math.min(room / picture.width, most / picture.height);
    const width = picture.width * scale, height = picture.height * scale;
    canvas.style.width = `${width}px`;
    const context = sized(canvas, width, height);
    context.drawImage(picture.image, 0, 0, width, height);
    veil(context, width, height);
    if (tool === "box") {
      for (const one of picture.objects) {
        if (one === hovered || region?.object === one.number) continue;
        outline(context, { object: one.number }, picture, scale,
          { colour: "rgba(255, 255, 255, .55)", width: 1, fine: false });
      }
      if (hovered && hovered.number !== region?.object) {
        outline(context, { object: hovered.number }, picture, scale, { colour: "#fff", width: 2 });
      }
    }
    if (region && !(tool !== "box" && region.mask === undefined)) outline(context, region, picture, scale);
    if (region && tool === "box" && !region.mask && !region.whole) handles(context);
    if (tool !== "box" && pen?.seen) brush(context);
  }

  function veil(context, width, height) {
    const shown = tool === "box" ? region : mask && { mask: { ...mask, runs: toRuns(mask.cells) } };
    if (!shown || shown.whole) return;
    const cells = maskOf(shown, picture);
    if (cells) {
      const outside = { ...cells, cells: cells.cells.map((cell) => 1 - cell) };
      stretch(context, maskImage(outside, [8, 10, 14, 120]), width, height);
      return;
    }
    const found = boxOf(shown, picture);
    if (!found) return;
    const [x0, y0, x1, y1] = found.map((v) => v * scale);
    const path = new Path2D();
    path.rect(0, 0, width, height);
    path.rect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = "rgba(8, 10, 14, .47)";
    context.fill(path, "evenodd");
  }

  function corners() {
    const found = region && !region.mask && !region.whole ? boxOf(region, picture) : null;
    if (!found) return [];
    const [x0, y0, x1, y1] = found;
    return [[x0, y0], [x1, y0], [x0, y1], [x1, y1]];
  }

  function handles(context) {
    for (const [x, y] of corners()) {
      context.fillStyle = "#fff";
      context.strokeStyle = "#003b4d";
      context.lineWidth = 1.5;
      context.beginPath();
      context.rect(x * scale - 4.5, y * scale - 4.5, 9, 9);
      context.fill();
      context.stroke();
    }
  }

  function brush(context) {
    const cell = (picture.width / mask.width) * scale;
    context.beginPath();
    context.arc(pen.x * scale, pen.y * scale, Math.max(2, radius() * cell), 0, 7);
    context.strokeStyle = tool === "paint" ? ACCENT : "#ff9d66";
    context.lineWidth = pen.down ? 3 : 1.5;
    context.stroke();
  }

  // --- the mouse, and touch

  function point(event) {
    const place = canvas.getBoundingClientRect();
    return [
      clamp(((event.clientX - place.left) / place.width) * picture.width, 0, picture.width),
      clamp(((event.clientY - place.top) / place.height) * picture.height, 0, picture.height),
    ];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!picture || event.button) return;
    event.preventDefault();
    box.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = point(event);
    if (tool !== "box") {
      drag = { kind: "paint" };
      pen = { x, y, down: true, seen: true };
      stroke(mask, picture, x, y, radius(), tool === "paint" ? 1 : 0);
      paint(false);
      return;
    }
    const reach = (event.pointerType === "touch" ? 2 : 1) * NEAR / scale;
    const all = corners(), corner = all.findIndex(([cx, cy]) => Math.hypot(cx - x, cy - y) < reach);
    const found = boxOf(region, picture);
    const within = found && !region.whole && x > found[0] && x < found[2] && y > found[1] && y < found[3];
    if (corner >= 0) drag = { kind: "corner", from: all[3 - corner], x, y };
    else if (within && !region.mask) drag = { kind: "move", box: found, x, y };
    else drag = { kind: "new", x, y };
    drag.slipped = false;
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!picture) return;
    const [x, y] = point(event);
    if (!drag) {
      if (tool !== "box") Object.assign(pen, { x, y, seen: true });
      else hovered = objectAt(picture, x, y);
      canvas.style.cursor = tool === "box" ? (hovered ? "pointer" : "crosshair") : "none";
      draw();
      return;
    }
    if (drag.kind === "paint") {
      const steps = Math.ceil(Math.hypot(x - pen.x, y - pen.y) * scale / 4) || 1;
      const from = [pen.x, pen.y];
      for (let k = 1; k <= steps; k += 1) {
        const share = k / steps;
        stroke(mask, picture, from[0] + share * (x - from[0]), from[1] + share * (y - from[1]), radius(),
          tool === "paint" ? 1 : 0);
      }
      Object.assign(pen, { x, y });
      paint(false);
      return;
    }
    drag.slipped ||= Math.hypot(x - drag.x, y - drag.y) * scale > SLIP;
    if (!drag.slipped) return;
    hovered = null;
    if (drag.kind === "move") set({ box: moved(drag.box, x - drag.x, y - drag.y, picture) }, false);
    else {
      const from = drag.kind === "corner" ? drag.from : [drag.x, drag.y];
      set({ box: tidy([from[0], from[1], x, y], picture) }, false);
    }
  });

  const dropped = (event) => {
    if (!drag) return;
    const { kind, slipped } = drag;
    drag = null;
    if (kind === "paint") {
      pen.down = false;
      paint(true);
    } else if (slipped) set(region, true);
    else if (event.type === "pointerup") {
      const found = objectAt(picture, ...point(event));
      if (found) set({ object: found.number }, true);
    }
  };
  canvas.addEventListener("pointerup", dropped);
  canvas.addEventListener("pointercancel", dropped);
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    if (pen && !pen.down) pen.seen = false;
    draw();
  });

  function paint(settled) {
    if (mask.cells.some(Boolean)) {
      const { width, height } = mask;
      set({ mask: { width, height, runs: toRuns(mask.cells) } }, settled);
    } else {
      if (region?.mask) region = null;
      draw();
    }
  }

  at("clear").addEventListener("click", () => {
    mask = emptyMask(picture);
    region = null;
    draw();
  });
  at("whole").addEventListener("click", () => {
    useTool("box");
    set({ whole: true }, true);
  });

  // --- keys

  box.addEventListener("keydown", (event) => {
    if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const step = Math.max(1, Math.round(Math.max(picture.width, picture.height) / 60));
    const act = tool === "box" ? boxKey(event, arrow, step) : brushKey(event, arrow, step);
    if (act) {
      event.preventDefault();
      act();
    }
  });

  function boxKey(event, arrow, step) {
    const now = boxOf(region, picture);
    const middle = [picture.width / 4, picture.height / 4, (3 * picture.width) / 4, (3 * picture.height) / 4];
    if (arrow && now) {
      const [dx, dy] = arrow.map((way) => way * step);
      if (!event.shiftKey) return () => set({ box: moved(now, dx, dy, picture) }, true);
      return () => set({ box: tidy([now[0], now[1], Math.max(now[2] + dx, now[0] + 2),
        Math.max(now[3] + dy, now[1] + 2)], picture) }, true);
    }
    const grow = { "+": step, "=": step, "-": -step, "−": -step }[event.key];
    if (grow && now && Math.min(now[2] - now[0], now[3] - now[1]) + 2 * grow > 2) {
      return () => set({ box: tidy([now[0] - grow, now[1] - grow, now[2] + grow, now[3] + grow], picture) }, true);
    }
    const letter = event.key.toLowerCase();
    if (letter === "b") return () => set({ box: tidy(middle, picture) }, true);
    if (letter === "w") return () => set({ whole: true }, true);
    if ((letter === "n" || letter === "p") && picture.objects.length) {
      const place = picture.objects.findIndex((one) => one.number === region?.object);
      const count = picture.objects.length;
      const next = place < 0 ? 0 : (place + (letter === "n" ? 1 : count - 1)) % count;
      return () => set({ object: picture.objects[next].number }, true);
    }
    return null;
  }

  function brushKey(event, arrow, step) {
    const value = tool === "paint" ? 1 : 0;
    if (event.key === " ") {
      return () => {
        pen.down = !pen.down;
        pen.seen = true;
        if (pen.down) stroke(mask, picture, pen.x, pen.y, radius(), value);
        paint(true);
      };
    }
    if (!arrow) return null;
    return () => {
      pen.seen = true;
      pen.x = clamp(pen.x + arrow[0] * step, 0, picture.width);
      pen.y = clamp(pen.y + arrow[1] * step, 0, picture.height);
      if (pen.down) {
        stroke(mask, picture, pen.x, pen.y, radius(), value);
        paint(true);
      } else draw();
    };
  }

  // --- objects of the index as buttons, and the box in numbers

  function showObjects() {
    for (const button of at("objects").children) {
      button.setAttribute("aria-pressed", String(region?.object) === button.dataset.number);
    }
  }

  function showFields() {
    const found = region && boxOf(region, picture);
    at("fields").querySelectorAll("input").forEach((input, k) => {
      input.value = found ? Math.round(found[k] * 10) / 10 : "";
    });
  }

  at("fields").append(...["left", "top", "right", "bottom"].map((name) =>
    el("label", {}, name, el("input", { type: "number", min: 0, step: "any", onchange: typed }))));

  function typed() {
    const values = [...at("fields").querySelectorAll("input")].map((input) => input.valueAsNumber);
    if (picture && values.every(Number.isFinite)) {
      useTool("box");
      set({ box: tidy(values, picture) }, true);
    }
  }

  new ResizeObserver(draw).observe(box);

  return {
    /** Show a picture with a region; asks nothing. */
    show(next, now) {
      const other = picture !== next;
      picture = next;
      region = now;
      if (other || !region?.mask) mask = region?.mask ? maskOf(region, picture) : null;
      if (other) useTool(region?.mask ? "paint" : "box");
      else if (tool !== "box") mask ??= emptyMask(picture);
      at("objects").replaceChildren(...picture.objects.map((one) =>
        el("button", {
          type: "button", "data-number": one.number, "aria-pressed": "false",
          text: one.class || `object ${one.number + 1}`,
          title: one.score === null ? null : `score ${one.score}`,
          onclick: () => { useTool("box"); set({ object: one.number }, true); },
          onpointerenter: () => { hovered = one; draw(); },
          onpointerleave: () => { hovered = null; draw(); },
        })));
      box.setAttribute("aria-label", `Picture ${picture.name}, ${picture.width} by ${picture.height} pixels, ` +
        `with ${counted(picture.objects.length, "object")}`);
      showFields();
      showObjects();
      draw();
    },
  };
}
