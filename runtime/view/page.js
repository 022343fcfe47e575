// What is shown: messages, live or of a recording; meters, buttons, state. page.py joins scene.js and this to one module.

const $ = id => document.getElementById(id);
const SKELETONS = JSON.parse($("skeletons").textContent);
const HUES = [172, 32, 265, 335, 90, 212, 55, 0]; // people, by id
const WINDOW_S = 5; // that the meters look back
const STALE_S = 2; // without a frame, before the page says so
const RETRY_S = [0.5, 5]; // the first wait before connecting again, and the longest; doubled in between
const TRAIL = 90; // places of a root that are kept
const MOST_STREAMS = 64; // shown; beyond, the one heard of longest ago goes
const FAR = 1e6; // metres or pixels: nothing is there

// Newest message of each stream. `live` goes on while the picture is held; `shown` is what is drawn.
const live = new Map();
let shown = live;
let selected = null; // name of the stream whose poses are drawn; null: the first
let received = 0, malformed = 0, lastAt = 0;
const trails = new Map(), heardAt = new Map(); // by stream

const listOf = value => Array.isArray(value) ? value : [];
const finite = (p, length = 3) => Array.isArray(p) && p.length === length && p.every(v => Number.isFinite(v) && Math.abs(v) < FAR);
const hue = id => HUES[(((id | 0) % HUES.length) + HUES.length) % HUES.length];
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let colours;
function readColours() {
  colours = Object.fromEntries(["card", "text", "quiet", "grid", "shade", "left", "right", "middle", "light", "dark", "line",
    "accent", "wait"].map(name => [name, style(`--${name}`)]));
}
const personColour = (id, side) => `hsl(${hue(id)} 72% ${side === "R" ? colours.dark : colours.light})`;

function setText(element, text) { if (element.textContent !== text) element.textContent = text; }

/** The message whose poses are drawn, or undefined. */
function current() { return shown.get(selected) ?? shown.values().next().value; }

/** Take one message up and return it; null where the text is none. */
function accept(text) {
  let message;
  try { message = JSON.parse(text); } catch { message = null; }
  const whole = message?.type === "pose3d" && typeof message.stream === "string" && Array.isArray(message.persons);
  if (!whole) { malformed += 1; return null; }
  tidy(message);
  if (!live.has(message.stream)) {
    if (live.size === MOST_STREAMS) forgetOldest();
    live.set(message.stream, message);
    listStreams();
  }
  live.set(message.stream, message);
  heardAt.set(message.stream, performance.now());
  return message;
}

function forgetOldest() {
  const [oldest] = [...heardAt].reduce((first, entry) => entry[1] < first[1] ? entry : first);
  for (const known of [live, trails, heardAt]) known.delete(oldest);
  if (oldest === selected) { selected = null; samples = []; }
}

/** Whoever sent it, every list that is drawn from is one. */
function tidy(message) {
  message.persons = message.persons.filter(person => Array.isArray(person?.xyz));
  for (const person of message.persons) {
    person.conf = listOf(person.conf);
    person.flags = listOf(person.flags);
    person.seen_by = Array.isArray(person.seen_by) ? person.seen_by : null;
  }
  message.views = listOf(message.views).filter(seen => typeof seen?.stream === "string");
  for (const seen of message.views) seen.persons = listOf(seen.persons).filter(person => Array.isArray(person?.kpts));
}

function listStreams() {
  $("stream").replaceChildren(...[...live.keys()].map(name => new Option(name, name)));
  $("stream").hidden = live.size < 2;
  if (selected !== null) $("stream").value = selected;
}

// ---- meters

let samples = [], graphed = false; // { at (s), total, backend (ms) } of the last seconds, oldest first

function sample(at, message) {
  return { at, total: message.latency_ms?.total, backend: message.latency_ms?.backend };
}

function percentile(values, level) {
  if (!values.length) return null;
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(level * sorted.length) - 1)] ?? null;
}

function tellMeters(now) {
  const recent = samples.filter(s => s.at > now - WINDOW_S);
  for (const part of ["total", "backend"]) {
    const values = recent.map(s => s[part]);
    tellMs($(`${part}50`), percentile(values, 0.5));
    tellMs($(`${part}99`), percentile(values, 0.99));
  }
  const second = recent.filter(s => s.at > now - 2), span = second.length > 1 ? second.at(-1).at - second[0].at : 0;
  setText($("rate"), span > 0 ? ((second.length - 1) / span).toFixed(1) : "–");
  setText($("received"), received.toLocaleString("en"));
  drawGraph(recent, now);
}

function tellMs(cell, value) {
  const text = value === null ? "–" : value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0);
  if (cell.firstChild?.nodeValue === text) return;
  const unit = document.createElement("small");
  unit.textContent = "ms";
  cell.replaceChildren(text, ...(value === null ? [] : [unit]));
}

function drawGraph(recent, now) {
  if (!recent.length && !graphed) return;
  graphed = recent.length > 0;
  const { context, width, height } = prepare($("graph"));
  const top = Math.max(1e-3, ...recent.map(s => s.total ?? 0)) * 1.15, base = height - 1;
  const x = s => width * (1 - (now - s.at) / WINDOW_S), y = ms => base - (base - 12) * ms / top;
  context.strokeStyle = colours.line;
  line(context, [0, base], [width, base]);
  for (const [part, colour] of [["total", colours.accent], ["backend", colours.quiet]]) {
    const known = recent.filter(s => Number.isFinite(s[part]));
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.beginPath();
    known.forEach((s, k) => context[k ? "lineTo" : "moveTo"](x(s), y(s[part])));
    context.stroke();
  }
  context.fillStyle = colours.quiet;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "top";
  if (recent.length) context.fillText(`highest ${(top / 1.15).toFixed(2)} ms`, 0, 0);
}

// ---- state and buttons

function tellState(text, tone) {
  setText($("state"), text);
  $("state").style.setProperty("--tone", `var(--${tone})`);
}

function setButton(button, text, lit) {
  setText(button.querySelector("span"), text);
  button.toggleAttribute("data-lit", lit);
}

function setPlaying(playing) { // the picture of the button is what it does
  $("pause").querySelector("path").setAttribute("d", playing ? "M2 1h3v10H2zM7 1h3v10H7z" : "M2.5 1l8 5-8 5z");
}

/** Space does what the first button does, unless the focused control has a use for it. */
function listenForSpace() {
  document.addEventListener("keydown", event => {
    if (event.key !== " " || event.target.closest?.("button, select, input")) return;
    event.preventDefault();
    $("pause").click();
  });
}

// ---- live

const socket = { open: false, retryAt: 0, wait: RETRY_S[0], refused: "" };

function connect() {
  const url = new URL(location);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const web = new WebSocket(url);
  web.onopen = () => { Object.assign(socket, { open: true, wait: RETRY_S[0] }); lastAt = 0; };
  web.onmessage = event => receive(event.data);
  web.onclose = event => { socket.refused = event.code === 1008 ? event.reason : ""; retryLater(); };
}

function retryLater() {
  socket.open = false;
  socket.retryAt = performance.now() + socket.wait * 1000;
  setTimeout(async () => await answers() ? connect() : retryLater(), socket.wait * 1000);
  socket.wait = Math.min(RETRY_S[1], socket.wait * 2);
}

/** Whether the server is there. Chromium writes every WebSocket and fetch that finds none on the console, as an error;
 * about a frame that cannot be loaded it says nothing. So the page looks with a frame first. */
function answers() {
  return new Promise(resolve => {
    const frame = document.createElement("iframe");
    const end = found => { clearTimeout(timer); frame.remove(); resolve(found); };
    const timer = setTimeout(() => end(false), 5000);
    frame.hidden = true;
    frame.src = new URL("alive", location).href;
    frame.onload = () => end(Boolean(frame.contentDocument?.body?.textContent.includes("edgelift")));
    document.body.append(frame);
  });
}

function receive(text) {
  const message = accept(text);
  recorder.add(text);
  if (!message) return;
  received += 1;
  lastAt = performance.now();
  if (selected === null || selected === message.stream) {
    selected ??= message.stream;
    samples.push(sample(lastAt / 1000, message));
    if (samples.length > 4096) samples = samples.slice(-2048);
  }
  if (shown !== live) return;
  leaveTrail(message);
  invalidate();
}

/** Keeps messages as they came, up to a limit, and hands them out as one file. */
const recorder = {
  lines: null, size: 0, full: false,
  start() { Object.assign(this, { lines: [], size: 0, full: false }); },
  add(text) {
    if (!this.lines || this.full) return;
    this.full = this.size + text.length > Number(document.body.dataset.recordLimit);
    if (this.full) return;
    this.lines.push(text, "\n");
    this.size += text.length + 1;
  },
  save() {
    const url = URL.createObjectURL(new Blob(this.lines, { type: "application/jsonl" }));
    const link = Object.assign(document.createElement("a"), { href: url, download: "poses.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    this.lines = null;
  },
};

function toggleLivePause() {
  const pausing = shown === live;
  shown = pausing ? new Map(live) : live;
  setButton($("pause"), pausing ? "Resume" : "Pause", pausing);
  setPlaying(!pausing);
  tellLive();
  invalidate();
}

function toggleRecord() {
  if (recorder.lines) recorder.save(); else recorder.start();
  tellLive();
}

function tellLive() {
  const idle = (performance.now() - lastAt) / 1000, wait = Math.max(0, Math.ceil((socket.retryAt - performance.now()) / 1000));
  const why = socket.refused ? `Refused: ${socket.refused}` : "No connection";
  if (!socket.open) tellState(`${why} · trying again${wait ? ` in ${wait} s` : ""}`, "bad");
  else if (shown !== live) tellState("Paused · frames still come", "accent");
  else if (!lastAt) tellState("Connected · waiting for frames", "wait");
  else if (idle > STALE_S) tellState(`No frames for ${Math.floor(idle)} s`, "wait");
  else tellState("Live", "good");
  const recording = recorder.lines !== null, size = `${(recorder.size / 1e6).toFixed(1)} MB`;
  setButton($("record"), recording ? "Save" : "Record", recording);
  setText($("note"), !recording ? "" : recorder.full ? `Full at ${size}: save it` : size);
  if (malformed) $("received").title = `${malformed} malformed`;
  tellMeters(performance.now() / 1000);
}

function runLive() {
  $("pause").onclick = toggleLivePause;
  $("record").onclick = toggleRecord;
  setInterval(tellLive, 250);
  tellState("Connecting", "wait");
  connect();
}

// ---- a recording: its lines stay text, because parsed they would take ten times the memory

function indexRecording(text) {
  const index = [], offsets = new Map(), newest = new Map(); // by stream: clocks may be each camera's own
  let shared, last = 0;
  for (const raw of text.split("\n")) {
    const message = raw.trim() && accept(raw);
    if (!message) continue;
    const told = (message.t_ns ?? 0) / 1e9, stream = message.stream;
    shared ??= -told;
    let offset = offsets.get(stream) ?? (Math.abs(told + shared - last) <= 1 ? shared : last - told);
    if (told + offset < (newest.get(stream) ?? -Infinity) - 1) offset = last - told; // the clock began anew
    offsets.set(stream, offset);
    newest.set(stream, told + offset);
    last = Math.max(last, told + offset);
    index.push({ raw, at: last, stream, seconds: sample(last, message) });
  }
  return index;
}

function runRecording(index) {
  const end = index.at(-1).at, streams = new Set(index.map(entry => entry.stream)).size;
  let at = 0, place = -1, playing = true, lastTick = 0;

  function show(next) {
    const jumped = next < place || next > place + 100;
    if (jumped) { trails.clear(); view.settled = false; }
    let first = jumped ? next : place + 1;
    for (const found = new Set(); jumped && first > 0; first--) { // back until every stream has its newest
      found.add(index[first].stream);
      if (found.size === streams) break;
    }
    for (let k = first; k <= next; k++) leaveTrail(accept(index[k].raw));
    place = next;
    received = next + 1;
    const stream = current().stream;
    const past = index.slice(Math.max(0, next - 2000), next + 1);
    samples = past.filter(entry => entry.stream === stream).map(entry => entry.seconds);
    invalidate();
  }

  function seek(seconds) {
    at = Math.max(0, Math.min(end, seconds));
    let [low, high] = [0, index.length - 1]; // the last message that is not later
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (index[middle].at <= at) low = middle; else high = middle - 1;
    }
    if (low !== place) show(low);
    $("time").value = at;
    setText($("clock"), `${at.toFixed(1)} / ${end.toFixed(1)} s`);
  }

  function play(on) {
    playing = on;
    lastTick = 0;
    if (on && at >= end) seek(0);
    setButton($("pause"), on ? "Pause" : "Play", !on);
    setPlaying(on);
    tellState(`Recording · ${index.length.toLocaleString("en")} frames`, "accent");
    if (on) requestAnimationFrame(tick);
  }

  function tick(now) {
    if (!playing) return;
    if (lastTick) seek(at + Math.min(0.25, (now - lastTick) / 1000) * Number($("speed").value));
    lastTick = now;
    if (at >= end) play(false); else requestAnimationFrame(tick);
  }

  for (const id of ["time", "clock", "speed"]) $(id).hidden = false;
  $("record").hidden = $("received").parentElement.hidden = true;
  $("time").max = end;
  $("time").oninput = () => { play(false); seek(Number($("time").value)); };
  $("pause").onclick = () => play(!playing);
  $("stream").addEventListener("change", () => show(place));
  setInterval(() => tellMeters(at), 250);
  seek(0);
  play(true);
}

// ---- begin

readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); invalidate(); });
new ResizeObserver(invalidate).observe($("space"));
addEventListener("resize", invalidate);
steer($("scene"));
listenForSpace();
$("reset").onclick = resetView;
$("stream").addEventListener("change", () => { selected = $("stream").value; samples = []; drawnMessage = null; view = home(); invalidate(); });

/** What the page shows, for tests and for the curious; nothing can be changed here. Places are CSS pixels of the 3D canvas. */
window.edgelift = Object.freeze({
  get seq() { return drawnMessage?.seq ?? null; },
  get received() { return received; },
  get malformed() { return malformed; },
  get joints() { return structuredClone(joints); },
});

const recording = $("recording").textContent;
if (!recording.trim()) runLive();
else {
  const index = indexRecording(recording);
  $("recording").remove();
  live.clear();
  if (index.length) runRecording(index); else tellState("This recording holds no poses", "bad");
}
