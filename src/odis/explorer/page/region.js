// Regions of a picture: boxes, and masks as runs that alternate from outside to inside, row by row.

const CELLS = 160; // of a painted mask, along the longer side

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** 1 inside, 0 outside: Uint8Array (width * height). */
export function fromRuns({ width, height, runs }) {
  const cells = new Uint8Array(width * height);
  let place = 0;
  runs.forEach((length, k) => {
    if (k % 2) cells.fill(1, place, place + length);
    place += length;
  });
  return cells;
}

export function toRuns(cells) {
  const runs = [];
  let value = 0, length = 0;
  for (const cell of cells) {
    if (cell === value) length += 1;
    else {
      runs.push(length);
      value = cell;
      length = 1;
    }
  }
  runs.push(length);
  return runs;
}

export function packRuns({ width, height, runs }) {
  return `${width}x${height}.${runs.map((run) => run.toString(36)).join(".")}`;
}

export function unpackRuns(text) {
  const found = /^(\d{1,3})x(\d{1,3})((?:\.[0-9a-z]{1,4})+)$/.exec(text);
  if (!found) return null;
  const [width, height] = [Number(found[1]), Number(found[2])];
  const runs = found[3].slice(1).split(".").map((run) => parseInt(run, 36));
  const sum = runs.reduce((a, b) => a + b, 0);
  return sum === width * height && width * height > 0 ? { width, height, runs } : null;
}

/** An empty mask over a picture. */
export function emptyMask(picture) {
  const scale = Math.min(1, CELLS / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  return { width, height, cells: new Uint8Array(width * height) };
}

/** Paint or erase a disc; the point is in pixels of the picture, the radius in cells. */
export function stroke(mask, picture, x, y, radius, value) {
  const cx = (x / picture.width) * mask.width, cy = (y / picture.height) * mask.height;
  for (let row = Math.max(0, Math.floor(cy - radius)); row <= Math.min(mask.height - 1, cy + radius); row += 1) {
    for (let col = Math.max(0, Math.floor(cx - radius)); col <= Math.min(mask.width - 1, cx + radius); col += 1) {
      if ((col + 0.5 - cx) ** 2 + (row + 0.5 - cy) ** 2 <= radius ** 2) mask.cells[row * mask.width + col] = value;
    }
  }
}

/** The box of a region, in pixels of the picture. */
export function boxOf(region, picture) {
  if (!region) return null;
  if (region.box) return region.box;
  if (region.object !== undefined) return picture.objects.find((one) => one.number === region.object)?.box ?? null;
  if (region.whole) return [0, 0, picture.width, picture.height];
  const { width, height } = region.mask, cells = fromRuns(region.mask);
  let box = [Infinity, Infinity, 0, 0];
  cells.forEach((cell, k) => {
    if (!cell) return;
    const x = k % width, y = Math.floor(k / width);
    box = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x + 1), Math.max(box[3], y + 1)];
  });
  if (box[0] === Infinity) return null;
  return box.map((v, k) => (v * (k % 2 ? picture.height : picture.width)) / (k % 2 ? height : width));
}

/** The mask of a region, if it has one: cells and their size. */
export function maskOf(region, picture) {
  if (!region) return null;
  if (region.mask) return { ...region.mask, cells: fromRuns(region.mask) };
  const mask = picture.objects.find((one) => one.number === region.object)?.mask;
  if (!mask) return null;
  mask.cells ??= fromRuns(mask); // once: an image may have a hundred
  return mask;
}

/** The smallest object at a point, or null. */
export function objectAt(picture, x, y) {
  let best = null, least = Infinity;
  for (const one of picture.objects) {
    const [x0, y0, x1, y1] = one.box;
    if (x < x0 || y < y0 || x >= x1 || y >= y1) continue;
    if (one.mask) {
      one.mask.cells ??= fromRuns(one.mask);
      const col = Math.floor((x / picture.width) * one.mask.width);
      const row = Math.floor((y / picture.height) * one.mask.height);
      if (!one.mask.cells[row * one.mask.width + col]) continue;
    }
    const area = (x1 - x0) * (y1 - y0);
    if (area < least) [best, least] = [one, area];
  }
  return best;
}

/** A box with its corners in order and in the picture, at least two pixels wide and high. */
export function tidy([x0, y0, x1, y1], picture) {
  const order = (a, b, side) => {
    const low = clamp(Math.min(a, b), 0, side - 2);
    return [low, clamp(Math.max(a, b), low + 2, side)];
  };
  const [left, right] = order(x0, x1, picture.width), [top, bottom] = order(y0, y1, picture.height);
  return [left, top, right, bottom].map((v) => Math.round(v * 10) / 10);
}

/** A box moved as far as the picture goes. */
export function moved([x0, y0, x1, y1], dx, dy, picture) {
  const x = clamp(dx, -x0, picture.width - x1), y = clamp(dy, -y0, picture.height - y1);
  return [x0 + x, y0 + y, x1 + x, y1 + y].map((v) => Math.round(v * 10) / 10);
}
