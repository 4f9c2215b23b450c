"use strict";

// Texts from the server come from the file and are never read as HTML: textContent alone.
const $ = (id) => document.getElementById(id);
const MOST = 32 * 1024 * 1024;
let turn = 0;
let shown = null;
let current = null;

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function fill(parent, child) {
  parent.replaceChildren(child);
}

function table(rows, heads) {
  const made = element("table");
  const head = element("tr");
  for (const text of heads) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    for (const text of row) line.append(element("td", String(text)));
    body.append(line);
  }
  made.append(top, body);
  return made;
}

function percent(p) {
  const value = p * 100;
  return value > 0 && value < 0.1 ? "< 0.1 %" : value < 100 && value > 99.9 ? "> 99.9 %" : `${value.toFixed(1)} %`;
}

async function look(file) {
  const mine = ++turn;
  $("result").hidden = true;
  if (file.size > MOST) {
    $("status").textContent = `${file.name} has ${(file.size / 1048576).toFixed(1)} MiB; at most 32 are looked at.`;
    return;
  }
  $("status").textContent = `Looking at ${file.name} …`;
  let found;
  try {
    const answer = await fetch(`/look?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    found = await answer.json();
  } catch {
    found = { error: "the server does not answer; is it still running?" };
  }
  if (mine !== turn) return;
  const wrong = found.error ?? found.answer.error;
  if (wrong !== undefined) {
    $("status").textContent = `${file.name} could not be looked at: ${wrong}`;
    return;
  }
  show(file, found);
}

function show(file, found) {
  const answer = found.answer;
  $("status").textContent = `${file.name}: done.`;
  $("verdict").textContent = `${answer.verdict[0].toUpperCase()}${answer.verdict.slice(1)}: P(synthetic) ${percent(answer.p_synthetic)}`;
  $("guess").textContent =
    answer.generator === null ? "" : `Looks most like ${answer.generator} (${percent(answer.p_generator)} of the generators it knows).`;
  $("note").textContent = `Detector: ${answer.checkpoint}; ${answer.note}.`;
  // The page's own rules forbid style attributes; a property set from here is none.
  $("mark").style.left = `${answer.p_synthetic * 100}%`;
  places(file, found);
  said(found.evidence);
  $("result").hidden = false;
  $("verdict").focus();
}

function places(file, found) {
  const seen = found.evidence.seen;
  $("places").hidden = found.patches.length === 0;
  current = { patches: found.patches, width: seen.width, height: seen.height };
  if (shown !== null) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  const image = $("image");
  const picture = image.parentElement;
  image.hidden = false;
  picture.classList.remove("alone");
  // A form that browsers do not show, such as TIFF: the heat map stands alone.
  image.onerror = () => {
    image.hidden = true;
    picture.classList.add("alone");
  };
  image.src = shown;
  $("patch-count").textContent = `Patches as a table (${found.patches.length})`;
  const rows = found.patches.map((p) => [p.left, p.top, p.side, percent(p.p_synthetic)]);
  $("patches").tBodies[0].replaceWith(table(rows, []).tBodies[0]);
  paint();
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Each cell has the mean of the patches that cover its middle.
function paint() {
  if (current === null || current.patches.length === 0) return;
  const { patches, width, height } = current;
  const step = Math.max(width, height) / 96;
  const columns = Math.max(1, Math.round(width / step));
  const rows = Math.max(1, Math.round(height / step));
  const canvas = $("heat");
  canvas.width = columns * 4;
  canvas.height = rows * 4;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const strength = $("strength").value / 100;
  const [real, synthetic] = [colour("real"), colour("synthetic")];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const x = ((column + 0.5) / columns) * width;
      const y = ((row + 0.5) / rows) * height;
      let sum = 0;
      let count = 0;
      for (const p of patches) {
        if (x >= p.left && x < p.left + p.side && y >= p.top && y < p.top + p.side) {
          sum += p.p_synthetic;
          count++;
        }
      }
      if (count === 0) continue;
      const lean = (sum / count) * 2 - 1;
      pen.fillStyle = `rgba(${lean > 0 ? synthetic : real}, ${Math.abs(lean) * strength})`;
      pen.fillRect(column * 4, row * 4, 4, 4);
    }
  }
}

function said(evidence) {
  const claims = evidence.c2pa;
  if (claims === null) {
    fill($("c2pa"), element("p", "No C2PA manifest."));
  } else {
    const rows = [
      ...claims.generators.map((text) => ["made with", text]),
      ...claims.source_types.map((text) => ["source type", text]),
    ];
    fill($("c2pa"), rows.length ? table(rows, ["claim", "says"]) : element("p", "A C2PA manifest that names no program."));
  }
  const rows = evidence.metadata.map((m) => [m.place, m.field, m.text]);
  fill($("metadata"), rows.length ? table(rows, ["place", "field", "says"]) : element("p", "None that says where it comes from."));
  if (evidence.odd.length) $("metadata").append(element("p", `Could not be read: ${evidence.odd.join("; ")}`));
  const form = Object.entries(evidence.file).filter(([, value]) => value !== null);
  fill($("form"), table(form, ["property", "value"]));
}

$("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  if (file) look(file);
  // The same file may be chosen again.
  event.target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) look(file);
  else $("status").textContent = "That was no file; drop an image file.";
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) look(file);
});
$("strength").addEventListener("input", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
