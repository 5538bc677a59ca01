// Drawing on canvases: parts of pictures, attention, patches, outlines.

import { bytes } from "./dom.js";
import { boxOf, maskOf } from "./region.js";

const GREY_SIDE = 640; // of the grey copy below attention
export const ACCENT = "#00c8ff";

/** A canvas of so many CSS pixels, sharp on dense screens. */
export function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** A grey, darker copy of a picture; made once. */
export function greyOf(picture) {
  if (picture.grey) return picture.grey;
  const scale = Math.min(1, GREY_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture.image, 0, 0, canvas.width, canvas.height);
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < data.data.length; k += 4) {
    const light = 0.6 * (0.299 * data.data[k] + 0.587 * data.data[k + 1] + 0.114 * data.data[k + 2]);
    data.data[k] = data.data[k + 1] = data.data[k + 2] = light;
  }
  context.putImageData(data, 0, 0);
  picture.grey = canvas;
  return canvas;
}

/** Draw the part `frame` of a picture, from an image of any size that shows all of it. */
export function drawPart(context, source, picture, frame, width, height) {
  const sx = (source.naturalWidth || source.width) / picture.width;
  const sy = (source.naturalHeight || source.height) / picture.height;
  const [x0, y0, x1, y1] = frame;
  context.drawImage(source, x0 * sx, y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy, 0, 0, width, height);
}

/** A small image with a colour or nothing for each patch, to be stretched without smoothing. */
export function grid(rows, columns, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const data = context.createImageData(columns, rows);
  for (let k = 0; k < rows * columns; k += 1) {
    const found = colour(k);
    if (found) data.data.set(found, 4 * k);
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

export function stretch(context, source, width, height) {
  context.imageSmoothingEnabled = false;
  context.drawImage(source, 0, 0, width, height);
  context.imageSmoothingEnabled = true;
}

/** The cells of a mask as an image. */
export function maskImage(mask, colour) {
  return grid(mask.height, mask.width, (k) => (mask.cells[k] ? colour : null));
}

/** The outline of a region, in a context whose unit is a pixel of the picture times `scale`. */
export function outline(context, region, picture, scale, { colour = ACCENT, width = 2, fine = true } = {}) {
  const mask = maskOf(region, picture), box = mask ?? boxOf(region, picture);
  if (!box) return;
  let path = mask?.path?.scale === scale ? mask.path : null;
  if (path) {
    // drawn before, at this size
  } else if (mask) {
    mask.path = path = Object.assign(new Path2D(), { scale });
    const sx = (picture.width / mask.width) * scale, sy = (picture.height / mask.height) * scale;
    const inside = (x, y) => x >= 0 && y >= 0 && x < mask.width && y < mask.height && mask.cells[y * mask.width + x];
    for (let y = 0; y <= mask.height; y += 1) {
      for (let x = 0; x <= mask.width; x += 1) {
        const here = inside(x, y);
        if (Boolean(here) !== Boolean(inside(x - 1, y))) {
          path.moveTo(x * sx, y * sy);
          path.lineTo(x * sx, (y + 1) * sy);
        }
        if (Boolean(here) !== Boolean(inside(x, y - 1))) {
          path.moveTo(x * sx, y * sy);
          path.lineTo((x + 1) * sx, y * sy);
        }
      }
    }
  } else {
    path = new Path2D();
    const [x0, y0, x1, y1] = box.map((v) => v * scale);
    path.rect(x0, y0, x1 - x0, y1 - y0);
  }
  context.lineJoin = "round";
  context.lineCap = "round";
  if (fine) {
    context.strokeStyle = "rgba(0, 0, 0, .65)";
    context.lineWidth = width + 2;
    context.stroke(path);
  }
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

/** Outline of the question in a part of the picture. */
export function outlineIn(context, region, picture, frame, width) {
  const scale = width / (frame[2] - frame[0]);
  context.save();
  context.translate(-frame[0] * scale, -frame[1] * scale);
  outline(context, region, picture, scale);
  context.restore();
}

/** Weights of one head or the mean of all, in one layer: Float32Array of patches. */
export function weightsOf(attention, patches, layer, head) {
  attention.steps ??= bytes(attention.weights);
  const heads = head === "mean" ? [...Array(attention.heads).keys()] : [head];
  const sum = new Float32Array(patches);
  for (const h of heads) {
    const start = (layer * attention.heads + h) * patches;
    const unit = attention.largest[layer][h] / 255 / heads.length;
    for (let p = 0; p < patches; p += 1) sum[p] += attention.steps[start + p] * unit;
  }
  return sum;
}

/** Attention over a part of the picture: patches that `[OBJ]` may see in colour, the rest grey. */
export function drawAttention(canvas, picture, region, answer, weights, colours, width) {
  const [x0, y0, x1, y1] = answer.frame;
  const height = (width * (y1 - y0)) / (x1 - x0);
  const context = sized(canvas, width, height);
  drawPart(context, greyOf(picture), picture, answer.frame, width, height);
  const most = Math.max(...weights, 1e-12);
  stretch(context, grid(answer.rows, answer.columns, (k) => {
    if (answer.mask[k] !== "1") return null;
    const place = 3 * Math.round((255 * weights[k]) / most);
    return [colours[place], colours[place + 1], colours[place + 2], 190];
  }), width, height);
  outlineIn(context, region, picture, answer.frame, width);
}

/** The first three components of the patches as colours. */
export function drawPatches(canvas, picture, region, patches, width) {
  const height = (width * picture.height) / picture.width;
  const context = sized(canvas, width, height);
  const found = bytes(patches.colours);
  const cells = grid(patches.rows, patches.columns, (k) => [...found.subarray(3 * k, 3 * k + 3), 255]);
  stretch(context, cells, width, height);
  outlineIn(context, region, picture, [0, 0, picture.width, picture.height], width);
}

/** What the network is shown in a mode, and which patches are read. */
export function drawInput(canvas, picture, region, answer, width) {
  const [x0, y0, x1, y1] = answer.frame;
  const height = (width * (y1 - y0)) / (x1 - x0);
  const context = sized(canvas, width, height);
  drawPart(context, picture.image, picture, answer.frame, width, height);
  if (answer.mode === "blackout") {
    const box = boxOf(region, picture);
    const [left, top] = [Math.floor(box[0]), Math.floor(box[1])].map((v) => Math.max(v, 0));
    const scale = width / picture.width;
    const veil = new Path2D();
    veil.rect(0, 0, width, height);
    veil.rect(left * scale, top * scale, (Math.ceil(box[2]) - left) * scale, (Math.ceil(box[3]) - top) * scale);
    context.fillStyle = `rgb(${answer.fill.join(" ")})`;
    context.fill(veil, "evenodd");
  } else if (answer.mode !== "crop") {
    const veil = grid(answer.rows, answer.columns, (k) => (answer.mask[k] === "1" ? null : [16, 18, 22, 185]));
    stretch(context, veil, width, height);
    outlineIn(context, region, picture, answer.frame, width);
  }
}
