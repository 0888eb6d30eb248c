"use strict";
// Sends a file, follows its job and draws the mask over the image, slice by slice.

const element = (id) => document.getElementById(id);
const COLOURS = [[0, 0, 0], [80, 200, 120], [230, 80, 60], [80, 140, 250], [240, 200, 60], [200, 100, 220]];
const WINDOW = [-160, 240]; // HU, black to white
const READERS = { 2: "getUint8", 4: "getInt16", 8: "getInt32", 16: "getFloat32", 64: "getFloat64", 256: "getInt8", 512: "getUint16" };

function say(text) { element("status").textContent = text; }

async function call(path, options = {}) {
  const token = element("token").value;
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {  // a proxy in between answers in its own words, which are no JSON
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.detail || `status ${response.status} ${response.statusText}`.trim());
  }
  return response;
}

async function submit(file) {
  try {
    say("Sending");
    const response = await call(`/jobs?name=${encodeURIComponent(file.name)}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    await follow((await response.json()).id);
  } catch (error) { say(error.message); }
}

async function follow(id) {
  for (;;) {
    const job = await (await call(`/jobs/${id}`)).json();
    if (job.status === "done") return show(job);
    if (job.status === "failed" || job.status === "cancelled") return say(job.error || job.status);
    say(job.status === "queued" ? `Waiting, ${job.ahead} ahead` : `Running: ${job.stage} ${job.done}/${job.of}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function show(job) {
  const rows = Object.entries(job.result.volumes_ml).map(([name, ml]) => [name, `${ml.toFixed(1)} ml`]);
  if (job.result.class !== null) rows.push(["class", job.result.class]);
  for (const [name, p] of Object.entries(job.result.class_probabilities)) rows.push([`p(${name})`, p.toFixed(3)]);
  element("facts").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    line.append(...row.map((text) => { const cell = document.createElement("td"); cell.textContent = text; return cell; }));
    return line;
  }));
  const file = await (await call(`/jobs/${job.id}/mask`)).blob();
  element("download").href = URL.createObjectURL(file);
  const mask = await readNifti(file);
  let image = null;
  try { image = await readNifti(await (await call(`/jobs/${job.id}/image`)).blob()); } catch { /* another format: the mask alone is drawn */ }
  const slider = element("slice");
  slider.max = mask.size[2] - 1;
  slider.value = fullestSlice(mask);
  slider.oninput = () => draw(image, mask, Number(slider.value));
  element("result").hidden = false;
  document.body.dataset.maskVoxels = mask.voxels.reduce((count, label) => count + (label > 0), 0);
  draw(image, mask, Number(slider.value));
  say(`Done: ${job.name}`);
}

async function readNifti(blob) {
  let bytes = new Uint8Array(await blob.arrayBuffer());
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    bytes = new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }
  const view = new DataView(bytes.buffer);
  const little = view.getInt32(0, true) === 348;
  if (!little && view.getInt32(0, false) !== 348) throw new Error("no NIfTI file");
  const size = [1, 2, 3].map((axis) => Math.max(1, view.getInt16(40 + 2 * axis, little)));
  const read = READERS[view.getInt16(70, little)];
  const width = view.getInt16(72, little) / 8;
  const start = view.getFloat32(108, little);
  const slope = view.getFloat32(112, little) || 1;
  const offset = view.getFloat32(116, little) || 0;
  const voxels = new Float32Array(size[0] * size[1] * size[2]);
  for (let i = 0; i < voxels.length; i++) voxels[i] = view[read](start + i * width, little) * slope + offset;
  return { size, voxels };
}

function fullestSlice(mask) {
  const plane = mask.size[0] * mask.size[1];
  const counts = Array.from({ length: mask.size[2] }, (_, z) => mask.voxels.subarray(z * plane, (z + 1) * plane).reduce((n, label) => n + (label > 0), 0));
  return counts.indexOf(Math.max(...counts));
}

function draw(image, mask, z) {
  const [width, height] = mask.size;
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = image === null ? WINDOW[0] : image.voxels[z * width * height + i];
    const grey = 255 * Math.min(1, Math.max(0, (value - WINDOW[0]) / (WINDOW[1] - WINDOW[0])));
    const label = mask.voxels[z * width * height + i];
    const colour = COLOURS[label > 0 ? 1 + (label - 1) % (COLOURS.length - 1) : 0];
    const share = label > 0 ? 0.4 : 0;
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (1 - share) * grey + share * colour[c];
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

const drop = element("drop");
element("file").onchange = (event) => event.target.files.length && submit(event.target.files[0]);
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) submit(event.dataTransfer.files[0]);
};
const linked = new URLSearchParams(location.search).get("job");
if (linked) follow(linked).catch((error) => say(error.message));
