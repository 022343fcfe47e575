// What is drawn: poses in 3D and their 2D input. page.py joins this file and page.js to one module, this one first.

// ---- once a screen frame at most, and only after something changed

let waiting = false;
function invalidate() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function draw() {
  const message = current();
  $("empty").hidden = Boolean(message?.persons.length);
  drawScene(message);
  drawViews();
  if (!message) return;
  tellSource(message);
  tellPeople(message);
  setText($("seq"), String(message.seq ?? "–"));
  setText($("dropped"), String(message.dropped ?? "–"));
}

function tellSource(message) {
  const told = [message.stream, message.lifter, message.provider].filter(Boolean)
    .map(word => String(word).replace(/ExecutionProvider$/, ""));
  if ($("source").textContent === told.join(" · ")) return;
  const name = document.createElement("b");
  name.textContent = told[0];
  $("source").replaceChildren(name, told.slice(1).map(word => ` · ${word}`).join(""));
  $("source").title = told.join(" · ");
}

let peopleTold = "";
function tellPeople(message) {
  const told = message.persons.map(person => [person.id, person.flags.join(", ")]);
  const key = JSON.stringify([told, colours.light]);
  if (key === peopleTold) return;
  peopleTold = key;
  $("people").replaceChildren(...told.map(([id, flags]) => {
    const item = document.createElement("li"), dot = document.createElement("i"), flag = document.createElement("b");
    dot.style.background = personColour(id, "L");
    flag.textContent = flags;
    item.append(dot, `person ${id}`, ...(flags ? [flag] : []));
    return item;
  }));
}

/** Fit a canvas's pixels to its box; returns its context in CSS pixels, cleared, with the box's size. */
function prepare(canvas) {
  const ratio = Math.min(2, devicePixelRatio || 1), width = canvas.clientWidth, height = canvas.clientHeight;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.lineCap = context.lineJoin = "round";
  return { context, width, height };
}

function line(context, a, b) {
  context.beginPath();
  context.moveTo(a[0], a[1]);
  context.lineTo(b[0], b[1]);
  context.stroke();
}

function disc(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

// ---- 3D. Display space is right-handed with Z up, in metres; a camera's frame (x right, y down, z forward) is turned upright.

const upright = ([x, y, z]) => [x, z, -y];
const home = () => ({ yaw: 0.5, pitch: 0.22, distance: 5, target: [0, 0, 0.9], follows: true, settled: false });
let view = home();
let joints = []; // on screen, of the last drawing: what window.edgelift tells

/** People in display space: id, conf, points (null: unknown), seenBy (null: views were not fused). */
function peopleOf(message) {
  const toDisplay = message.frame === "camera" ? upright : p => p;
  return message.persons.map(person => ({
    id: person.id, conf: person.conf, seenBy: person.seen_by, points: person.xyz.map(p => finite(p) ? toDisplay(p) : null),
  }));
}

const average = points => [0, 1, 2].map(k => points.reduce((sum, p) => sum + p[k], 0) / points.length);

/** Keep people in the picture: at once the first time, then smoothly; the distance is left alone once it was chosen. */
function follow(people, seconds, width, height) {
  const centres = people.map(person => person.points.filter(Boolean)).filter(points => points.length).map(average);
  if (!centres.length) return;
  const middle = average(centres);
  const spread = Math.max(...centres.map(c => Math.hypot(c[0] - middle[0], c[1] - middle[1])));
  const wide = 2 * (spread + 0.75) * focalOf(width, height) / Math.max(1, width); // whoever stands beside the middle fits
  const distance = Math.max(3, wide) + 0.7 * spread; // and who stands before it
  const share = time => view.settled ? 1 - Math.exp(-seconds / time) : 1;
  view.target = view.target.map((t, k) => t + (middle[k] - t) * share(0.45));
  if (view.follows) view.distance += (distance - view.distance) * share(distance > view.distance ? 0.25 : 1.5);
  view.settled = true;
}

const focalOf = (width, height) => 1.25 * Math.min(height, 1.1 * width);

/** Returns a function from display space to [x, y, depth]; depth not > 0 is behind the eye. */
function lens(width, height) {
  const [sy, cy, sp, cp] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
  const [tx, ty, tz] = view.target, focal = focalOf(width, height);
  const project = ([x, y, z]) => {
    const [dx, dy, dz] = [x - tx, y - ty, z - tz];
    const depth = view.distance - (cp * sy * dx - cp * cy * dy + sp * dz);
    const scale = focal / depth;
    return [width / 2 + (cy * dx + sy * dy) * scale, height / 2 - (-sp * sy * dx + sp * cy * dy + cp * dz) * scale, depth];
  };
  return { project, focal };
}

let drawnAt = 0, drawnMessage = null;
function drawScene(message) {
  const { context, width, height } = prepare($("scene"));
  joints = [];
  const people = message ? peopleOf(message) : [];
  const now = performance.now();
  if (message !== drawnMessage) follow(people, Math.min(0.2, (now - drawnAt) / 1000), width, height);
  [drawnAt, drawnMessage] = [now, message];
  const { project, focal } = lens(width, height);
  if (message?.frame === "world") drawFloor(context, project);
  if (message?.frame === "world") for (const person of people) drawShadow(context, project, focal, person, message.skeleton);
  if (message?.frame === "camera") drawCamera(context, project);
  if (message) drawTrails(context, project, message, people);
  drawBodies(context, project, focal, people, SKELETONS[message?.skeleton]);
  if (message) drawAxes(context, message.frame, height);
}

function drawFloor(context, project) {
  const [cx, cy] = [Math.round(view.target[0]), Math.round(view.target[1])], reach = 5;
  for (let i = -reach; i <= reach; i++) for (let j = -reach; j < reach; j++) {
    const fade = 1 - Math.hypot(i, j + 0.5) / reach;
    if (fade <= 0) continue;
    floorLine(context, project, [cx + i, cy + j, 0], [cx + i, cy + j + 1, 0], fade * (cx + i === 0 ? 0.55 : 0.2));
    floorLine(context, project, [cx + j, cy + i, 0], [cx + j + 1, cy + i, 0], fade * (cy + i === 0 ? 0.55 : 0.2));
  }
}

function floorLine(context, project, a, b, alpha) {
  const [p, q] = [project(a), project(b)];
  if (p[2] < 0.1 || q[2] < 0.1) return;
  context.lineWidth = 1;
  context.strokeStyle = `rgba(${colours.grid}, ${alpha})`;
  line(context, p, q);
}

function drawShadow(context, project, focal, person, skeleton) {
  const onFloor = person.points.map(p => p && project([p[0], p[1], 0]));
  context.strokeStyle = `rgba(${colours.shade})`;
  context.lineWidth = 0.05 * focal / view.distance;
  context.beginPath(); // one path: where bones cross it must not be darker
  for (const [a, b] of SKELETONS[skeleton]?.bones ?? []) {
    if (!onFloor[a] || !onFloor[b] || onFloor[a][2] < 0.1 || onFloor[b][2] < 0.1) continue;
    context.moveTo(onFloor[a][0], onFloor[a][1]);
    context.lineTo(onFloor[b][0], onFloor[b][1]);
  }
  context.stroke();
}

/** Where the camera is that a camera's frame belongs to: the picture it sees, half a metre away. */
function drawCamera(context, project) {
  const eye = project([0, 0, 0]), corners = [[-1, 1], [1, 1], [1, -1], [-1, -1]].map(([x, z]) => project([0.2 * x, 0.5, 0.15 * z]));
  if ([eye, ...corners].some(p => p[2] < 0.1)) return;
  context.lineWidth = 1.2;
  context.strokeStyle = `rgba(${colours.grid}, 0.6)`;
  corners.forEach((corner, k) => { line(context, eye, corner); line(context, corner, corners[(k + 1) % 4]); });
}

function drawTrails(context, project, message, people) {
  const trail = trails.get(message.stream);
  for (const { id } of people) {
    const places = trail?.get(id) ?? [];
    context.lineWidth = 2;
    for (let k = 1; k < places.length; k++) {
      const [a, b] = [project(places[k - 1]), project(places[k])];
      if (a[2] < 0.1 || b[2] < 0.1) continue;
      context.strokeStyle = `hsl(${hue(id)} 72% ${colours.light} / ${0.6 * k / places.length})`;
      line(context, a, b);
    }
  }
}

function leaveTrail(message) {
  const root = SKELETONS[message.skeleton]?.root ?? 0, stream = message.stream, old = trails.get(stream);
  const kept = new Map(); // only of people who are there
  for (const { id, points } of peopleOf(message)) {
    const place = points[root];
    const put = place && (message.frame === "world" ? [place[0], place[1], 0.01] : place);
    const before = old?.get(id) ?? [], jumped = put && before.length && Math.hypot(...put.map((v, k) => v - before.at(-1)[k])) > 0.5;
    kept.set(id, [...(jumped ? [] : before), ...(put ? [put] : [])].slice(-TRAIL));
  }
  trails.set(stream, kept);
}

function drawBodies(context, project, focal, people, skeleton) {
  const pieces = []; // bones and joints, drawn from far to near
  for (const person of people) {
    const placed = person.points.map(p => p && project(p)).map(p => p && p[2] > 0.1 ? p : null);
    for (const [a, b] of skeleton?.bones ?? []) if (placed[a] && placed[b]) {
      pieces.push({ person, depth: (placed[a][2] + placed[b][2]) / 2, from: placed[a], to: placed[b], joint: b,
        sure: Math.min(person.conf[a] ?? 1, person.conf[b] ?? 1) });
    }
    placed.forEach((p, j) => {
      if (!p) return;
      pieces.push({ person, depth: p[2] - 0.02, at: p, joint: j, sure: person.conf[j] ?? 1 });
      joints.push({ person: person.id, joint: j, x: p[0], y: p[1] });
    });
  }
  pieces.sort((a, b) => b.depth - a.depth);
  for (const piece of pieces) drawPiece(context, focal, piece, skeleton?.sides[piece.joint] ?? "");
}

function drawPiece(context, focal, { person, depth, from, to, at, joint, sure }, side) {
  const colour = personColour(person.id, side), unit = focal / depth; // pixels a metre
  context.globalAlpha = 0.3 + 0.7 * Math.max(0, Math.min(1, sure));
  if (from) {
    const width = Math.max(2, 0.045 * unit);
    for (const [extra, stroke] of [[2.5, colours.card], [0, colour]]) { // a rim keeps crossing limbs apart
      context.lineWidth = width + extra;
      context.strokeStyle = stroke;
      line(context, from, to);
    }
  } else {
    const lifted = person.seenBy !== null && !person.seenBy[joint]; // no camera pair saw it: hollow
    disc(context, at, Math.max(2.2, 0.034 * unit));
    context.lineWidth = lifted ? 2 : 1.5;
    context.fillStyle = lifted ? colours.card : colour;
    context.strokeStyle = lifted ? colour : colours.card;
    context.fill();
    context.stroke();
  }
  context.globalAlpha = 1;
}

/** A small cross in the corner that turns with the view and names the axes of the messages. */
function drawAxes(context, frame, height) {
  const axes = frame === "camera" ? { x: [1, 0, 0], y: [0, 0, -1], z: [0, 1, 0] } : { x: [1, 0, 0], y: [0, 1, 0], z: [0, 0, 1] };
  const [sy, cy, sp, cp] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
  const corner = [38, height - 38];
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 1.6;
  for (const [name, [x, y, z]] of Object.entries(axes)) {
    const [dx, dy] = [cy * x + sy * y, -(-sp * sy * x + sp * cy * y + cp * z)];
    context.strokeStyle = context.fillStyle = { x: "#ef5350", y: "#43a047", z: "#4a8df8" }[name];
    line(context, corner, [corner[0] + 20 * dx, corner[1] + 20 * dy]);
    context.fillText(name, corner[0] + 28 * dx, corner[1] + 28 * dy);
  }
}

function turn(dx, dy) {
  view.yaw -= dx;
  view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + dy));
  invalidate();
}

function zoom(factor) {
  view.distance = Math.max(0.8, Math.min(40, view.distance * factor));
  view.follows = false;
  invalidate();
}

function resetView() {
  view = home();
  drawnMessage = null; // frame it anew
  invalidate();
}

function steer(canvas) {
  const pointers = new Map();
  const apart = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", event => {
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const gap = pointers.size === 2 ? apart() : 0, now = { x: event.clientX, y: event.clientY };
    pointers.set(event.pointerId, now);
    if (gap) zoom(gap / Math.max(1, apart()));
    else if (pointers.size === 1) turn((now.x - before.x) * 0.008, (now.y - before.y) * 0.006);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, event => pointers.delete(event.pointerId));
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.0012)); }, { passive: false });
  canvas.addEventListener("dblclick", resetView);
  canvas.addEventListener("keydown", event => {
    const moves = { ArrowLeft: () => turn(-0.12, 0), ArrowRight: () => turn(0.12, 0), ArrowUp: () => turn(0, 0.1),
      ArrowDown: () => turn(0, -0.1), "+": () => zoom(0.85), "=": () => zoom(0.85), "-": () => zoom(1.18), 0: resetView };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
}

// ---- 2D: one canvas a view, in the order of the messages

const frames = new Map(); // stream and view: its figure, and the largest place seen where no image size is told

function drawViews() {
  const views = [...shown.values()].flatMap(message => message.views.map(seen => ({ message, seen })));
  const used = new Set();
  // first, because drawing needs to know how wide a column is
  $("views").style.setProperty("--columns", Math.min(views.length > 6 ? 3 : 2, Math.max(1, views.length)));
  for (const { message, seen } of views) {
    const key = JSON.stringify([message.stream, seen.stream]);
    used.add(key);
    if (!frames.has(key)) frames.set(key, makeFrame(String(seen.stream)));
    drawSeen(frames.get(key), seen, SKELETONS[message.skeleton], views.length);
  }
  for (const [key, frame] of frames) if (!used.has(key)) { frame.figure.remove(); frames.delete(key); }
  $("unseen").hidden = views.length > 0 || shown.size === 0;
}

function makeFrame(name) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `2D input of ${name}`);
  figure.append(canvas, caption);
  $("views").append(figure);
  return { figure, canvas, extent: [1, 1], ratio: "" };
}

function drawSeen(frame, seen, skeleton, count) {
  const [w, h] = sizeOf(frame, seen), ratio = `${w}/${h}/${count}`;
  if (frame.ratio !== ratio) { // as wide as its column, but no higher than some of the window
    frame.canvas.style.width = `min(100%, ${((count > 2 ? 21 : 38) * w / h).toFixed(2)}vh)`;
    frame.canvas.style.aspectRatio = `${w} / ${h}`;
    frame.ratio = ratio;
  }
  const { context, width } = prepare(frame.canvas), scale = width / w;
  for (const person of seen.persons) drawFlat(context, person, skeleton, scale);
}

function sizeOf(frame, seen) {
  if (finite(seen.size, 2) && Math.min(...seen.size) > 0) return seen.size;
  for (const person of seen.persons) for (const p of person.kpts) if (finite(p)) {
    frame.extent = [Math.max(frame.extent[0], Math.ceil(p[0] / 64) * 64), Math.max(frame.extent[1], Math.ceil(p[1] / 64) * 64)];
  }
  return frame.extent;
}

function drawFlat(context, person, skeleton, scale) {
  const points = person.kpts.map(p => finite(p) && p[2] > 0 ? [p[0] * scale, p[1] * scale, Math.min(1, p[2])] : null);
  const colourOf = j => colours[{ L: "left", R: "right" }[skeleton?.sides[j]] ?? "middle"];
  const thick = Math.max(1.1, Math.min(2.2, context.canvas.clientWidth / 90));
  context.lineWidth = thick;
  for (const [a, b] of skeleton?.bones ?? []) if (points[a] && points[b]) {
    context.globalAlpha = 0.15 + 0.85 * Math.min(points[a][2], points[b][2]);
    context.strokeStyle = colourOf(b);
    line(context, points[a], points[b]);
  }
  points.forEach((p, j) => {
    if (!p) return;
    context.globalAlpha = 0.15 + 0.85 * p[2];
    context.fillStyle = colourOf(j);
    disc(context, p, thick);
    context.fill();
  });
  context.globalAlpha = 1;
  const known = points.filter(Boolean);
  if (!known.length) return;
  const top = known.reduce((best, p) => p[1] < best[1] ? p : best); // a mark in the colour that the person has in 3D
  context.fillStyle = personColour(person.id, "L");
  disc(context, [top[0], Math.max(6, top[1] - 4 - 3 * thick)], 1.3 + thick);
  context.fill();
}

