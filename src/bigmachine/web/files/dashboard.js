// The dashboard: it takes what the stream tells (./events), and changes only what is different on the page.

const $ = (id) => document.getElementById(id);
const KEPT_CALLS = 2000, KEPT_LINES = 1000, POINTS = 60, WINDOW = 30;
const PALETTE = ["#4c78a8", "#e0883c", "#54a06c", "#b279a2", "#c9a227", "#6aa9b8", "#9d755d", "#7f7fc4"];

const machines = new Map();            // id -> {fields, history, cells}
let names = [], calls = [], lines = [], spans = new Map();
let sort = { key: "order", down: false }, now = 0, heardAt = 0, order = 0, shown = "machines";

// ---- words

const size = (mib) => mib == null ? "–" : mib < 1000 ? `${mib.toFixed(mib < 10 ? 1 : 0)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
const millis = (ms) => ms == null ? "–" : ms < 1 ? `${Math.round(ms * 1000)} µs` : ms < 1000 ? `${+ms.toPrecision(3)} ms` : `${+(ms / 1000).toPrecision(3)} s`;
const rate = (n) => n == null ? "–" : n >= 10000 ? `${(n / 1000).toFixed(1)}k` : `${n >= 10 || n === 0 ? Math.round(n) : n.toFixed(1)}`;
const dollars = (n) => n == null ? "–" : `$${n.toFixed(n < 0.1 ? 3 : 2)}`;
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (tag, cls, text) => {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text != null) node.textContent = text;
  return node;
};

// ---- machines

function newRow(id, f) {
  const tr = make("tr");
  const th = make("th"); th.scope = "row";
  const address = make("span", "address");
  th.append(f.name, " ", address);
  const state = make("span", "state"), mem = make("span"), gauge = make("span", "gauge"), fill = make("i");
  gauge.setAttribute("role", "img"); gauge.append(fill);
  const took = make("span", "took");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark"); svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 16`);
  svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline"); svg.append(line);
  const cells = { tr, address, state, mem, gauge, fill, took, spark: line };
  const td = (cls, ...inside) => { const cell = make("td", cls); cell.append(...inside); tr.append(cell); return cell; };
  tr.append(th);
  td("", state); td("n", mem, gauge);
  cells.cpu = td("n"); cells.rate = td("n"); td("", took, svg); cells.alive = td("n"); cells.cost = td("n"); cells.line = td("line");
  const look = make("span", "look");
  for (const [kind, label, long] of [["profile", "CPU", "CPU profile"], ["heap", "heap", "Heap"], ["goroutine", "stacks", "Stacks"]]) {
    const button = make("button", "", label); button.type = "button";
    button.dataset.profile = kind; button.dataset.machine = f.name; button.setAttribute("aria-label", `${long} of ${f.name}`);
    look.append(button);
  }
  cells.look = look; td("", look);
  return { id, fields: f, history: [], cells, order: order++ };
}

function showRow(m) {
  const f = m.fields, c = m.cells;
  put(c.address, f.host || f.address || ""); c.address.title = f.address || "";
  const cls = `state ${f.state}`; if (c.state.className !== cls) c.state.className = cls;
  put(c.state, f.state.toLowerCase() + (f.state === "STARTING" && f.phase ? `: ${f.phase}` : ""));
  put(c.mem, f.mem == null ? "–" : size(f.mem));
  const share = f.mem == null || !f.limit ? 0 : Math.min(100, 100 * f.mem / f.limit);
  const width = `${share.toFixed(1)}%`;
  if (c.fill.style.width !== width) {
    c.fill.style.width = width; c.gauge.classList.toggle("high", share > 85);
    c.gauge.setAttribute("aria-label", `${Math.round(share)} % of ${size(f.limit)}`); c.gauge.title = `of ${size(f.limit)}`;
  }
  put(c.cpu, f.cpu == null ? "–" : `${f.cpu} %`); put(c.rate, rate(f.rate));
  put(c.took, millis(f.took));
  c.tr.classList.toggle("stopped", f.state === "STOPPED");
  const late = f.state === "RUNNING" && f.lease && f.lease < now + (Date.now() - heardAt) / 1000;
  put(c.alive, f.state === "STOPPED" ? "–" : late ? "late" : millis(f.alive));
  put(c.cost, dollars(f.cost)); c.cost.title = f.price ? `${dollars(f.price)} an hour, its part of its host's price` : "";
  put(c.line, f.state === "STOPPED" && f.error ? f.error : f.line || ""); c.line.title = c.line.textContent;
  c.look.hidden = f.state === "STOPPED";
}

function spark(m) {
  m.history.push(m.fields.state === "STOPPED" ? null : m.fields.took ?? null);
  if (m.history.length > POINTS) m.history.shift();
  const top = Math.max(...m.history.map((v) => v ?? 0)) || 1, from = POINTS - m.history.length;
  const points = m.history.map((v, i) => v == null ? "" : `${from + i},${(15 - 13 * v / top).toFixed(1)}`).filter(Boolean).join(" ");
  if (m.cells.spark.getAttribute("points") !== points) m.cells.spark.setAttribute("points", points);
}

function value(m) {
  if (sort.key === "order") return m.order;
  if (sort.key === "state") return m.fields.state;
  return m.fields[sort.key] ?? -1;
}

function arrange() {
  const words = $("machine-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const listed = [...machines.values()].sort((a, b) => {
    const x = value(a), y = value(b), side = x < y ? -1 : x > y ? 1 : a.order - b.order;
    return sort.down ? -side : side;
  });
  const body = document.querySelector("#machines tbody");
  let seen = 0, at = body.firstChild;
  for (const m of listed) {
    const f = m.fields, text = `${f.name} ${f.address} ${f.host} ${f.state} ${f.phase || ""} ${f.line || ""} ${f.error || ""}`.toLowerCase();
    const fits = words.every((word) => text.includes(word));
    m.cells.tr.hidden = !fits; seen += fits;
    if (m.cells.tr === at) at = at.nextSibling; else body.insertBefore(m.cells.tr, at);
  }
  put($("machine-count"), words.length ? `${seen} of ${machines.size}` : "");
  $("no-machines").hidden = machines.size > 0;
  document.querySelector("#machines").hidden = machines.size === 0;
}

function totals(cost) {
  let running = 0, mem = 0, cpu = 0, calls = 0, live = 0;
  for (const { fields: f } of machines.values()) {
    if (f.state === "STOPPED") continue;
    live++; running += f.state === "RUNNING"; mem += f.mem || 0; cpu += f.cpu || 0; calls += f.rate || 0;
  }
  put($("t-machines"), running === live ? `${running} running` : `${running} of ${live} running`);
  put($("t-memory"), size(mem)); put($("t-cpu"), `${cpu} %`); put($("t-rate"), rate(calls));
  $("t-costs").hidden = !cost;
  if (cost) put($("t-cost"), `${dollars(cost[1])} (${dollars(cost[0])}/h)`);
}

// ---- calls

const colour = (method) => PALETTE[method % PALETTE.length];
let drawn = [];

function drawCalls() {
  const canvas = $("calls"), box = canvas.parentElement, width = box.clientWidth - 2, scale = devicePixelRatio || 1;
  const rows = [...new Set(calls.map((call) => call[0]))].sort((a, b) => names[a].localeCompare(names[b], undefined, { numeric: true }));
  const high = Math.max(3, Math.min(18, Math.floor(.55 * innerHeight / Math.max(1, rows.length)))), left = 90, head = 22;
  const height = Math.max(1, rows.length) * high + head, every = Math.ceil(12 / high);
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    canvas.width = width * scale; canvas.height = height * scale;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const soft = style.getPropertyValue("--soft"), rule = style.getPropertyValue("--line"), bad = style.getPropertyValue("--bad");
  ctx.setTransform(scale, 0, 0, scale, 0, 0); ctx.clearRect(0, 0, width, height);
  ctx.font = "11px system-ui, sans-serif"; ctx.textBaseline = "middle";
  const x = (t) => left + (width - left) * (t - now + WINDOW) / WINDOW, place = new Map(rows.map((row, i) => [row, i]));
  for (let s = 0; s <= WINDOW; s += 5) {
    const at = Math.round(x(now - s)) + .5;
    ctx.strokeStyle = rule; ctx.beginPath(); ctx.moveTo(at, head); ctx.lineTo(at, height); ctx.stroke();
    ctx.fillStyle = soft; ctx.textAlign = s ? "center" : "right"; if (s < WINDOW) ctx.fillText(s ? `−${s} s` : "now", at, head / 2);
  }
  ctx.textAlign = "left"; ctx.fillStyle = soft;
  rows.forEach((row, i) => { if (i % every === 0) ctx.fillText(names[row].slice(0, 13), 8, head + i * high + high / 2); });
  drawn = [];
  for (const call of calls) {
    const [machine, method, began, took, failed] = call, from = Math.max(left, x(began)), to = x(began + took / 1000);
    if (to < left) continue;
    const y = head + place.get(machine) * high + (high > 6 ? 1 : 0), h = high - (high > 6 ? 2 : 1), w = Math.max(1.5, to - from);
    ctx.fillStyle = failed ? bad : colour(method); ctx.fillRect(from, y, w, h);
    drawn.push([from, y, w, h, call]);
  }
}

function showMethods() {
  const by = new Map();
  for (const [, method, , took, failed] of calls) {
    const m = by.get(method) || by.set(method, { took: [], failed: 0 }).get(method);
    m.took.push(took); m.failed += failed ? 1 : 0;
  }
  const rows = [...by].sort((a, b) => b[1].took.length - a[1].took.length).map(([method, m]) => {
    m.took.sort((a, b) => a - b);
    const tr = make("tr"), th = make("th"), swatch = make("i", "swatch"); th.scope = "row";
    swatch.style.background = colour(method); th.append(swatch, names[method]); tr.append(th);
    for (const text of [m.took.length.toLocaleString("en"), m.failed || "–", millis(m.took[m.took.length >> 1]), millis(m.took.at(-1))])
      tr.append(make("td", "n", String(text)));
    return tr;
  });
  if (!rows.length) { const tr = make("tr"), td = make("td", "", "no call has ended since this page is open"); td.colSpan = 5; tr.append(td); rows.push(tr); }
  document.querySelector("#methods tbody").replaceChildren(...rows);
}

$("calls").addEventListener("mousemove", (event) => {
  const hit = drawn.findLast(([x, y, w, h]) => event.offsetX >= x - 2 && event.offsetX <= x + w + 2 && event.offsetY >= y && event.offsetY <= y + h);
  put($("call-tip"), hit ? `${names[hit[4][0]]}: ${names[hit[4][1]]} took ${millis(hit[4][3])}${hit[4][4] ? ", failed" : ""}` : "\u00a0");
});

// ---- log

function fits(line) {
  const text = $("log-filter").value.toLowerCase();
  return !text || `${line[1]}: ${line[3]}`.toLowerCase().includes(text);
}
function lineNode([at, machine, stream, text]) {
  if (!machine) return make("div", "gap", text);
  const node = make("div", stream === "stderr" ? "stderr" : ""), who = make("b", "", machine);
  if (at) node.title = `${new Date(at * 1000).toLocaleTimeString()}, ${stream}`;
  node.append(who, text);
  return node;
}
function addLines(fresh) {
  lines.push(...fresh); if (lines.length > KEPT_LINES) lines = lines.slice(-KEPT_LINES);
  const log = $("log");
  log.append(...fresh.filter(fits).map(lineNode));
  while (log.childElementCount > KEPT_LINES) log.firstChild.remove();
  if ($("log-follow").checked) log.scrollTop = log.scrollHeight;
}
function refilter() {
  const seen = lines.filter(fits);
  $("log").replaceChildren(...seen.map(lineNode));
  put($("log-count"), $("log-filter").value ? `${seen.length} of ${lines.length} lines` : "");
  $("log").scrollTop = $("log").scrollHeight;
}

// ---- start

function showStarts() {
  const by = new Map(), seen = [];
  for (const span of spans.values()) {
    const [machine, phase] = span;
    if (names[phase] === "running" || names[phase] === "stopped") continue;
    (by.get(machine) || by.set(machine, []).get(machine)).push(span);
    if (!seen.includes(phase)) seen.push(phase);
  }
  const end = (span) => span[3] ?? now, all = [...by.values()].flat();
  const first = Math.min(...all.map((span) => span[2])), last = Math.max(first + .001, ...all.map(end));
  const rows = [...by].map(([machine, own]) => {
    const tr = make("tr"), th = make("th", "", names[machine]), bar = make("div", "phases"), td = make("td"); th.scope = "row";
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", own.map((span) => `${names[span[1]]} ${millis(1000 * (end(span) - span[2]))}`).join(", "));
    const lead = make("i"); lead.style.width = `${100 * (own[0][2] - first) / (last - first)}%`; lead.style.minWidth = "0"; bar.append(lead);
    for (const span of own) {
      const part = make("i"); part.style.width = `${100 * (end(span) - span[2]) / (last - first)}%`;
      part.style.background = colour(seen.indexOf(span[1])); part.title = `${names[span[1]]}: ${millis(1000 * (end(span) - span[2]))}`;
      bar.append(part);
    }
    td.append(bar);
    const sent = own.reduce((sum, span) => sum + span[4], 0);
    tr.append(th, td, make("td", "n", millis(1000 * (Math.max(...own.map(end)) - own[0][2]))), make("td", "n", sent ? size(sent / 2 ** 20) : "–"));
    return tr;
  });
  document.querySelector("#starts tbody").replaceChildren(...rows);
  $("phases").replaceChildren(...seen.map((phase, i) => {
    const label = make("span"), box = make("i"); box.style.background = colour(i); label.append(box, names[phase]); return label;
  }));
}

// ---- tabs, sorting, filters

const tabs = [...document.querySelectorAll("[role=tab]")];
function show(tab, focus) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", on); each.tabIndex = on ? 0 : -1; $(each.getAttribute("aria-controls")).hidden = !on;
  }
  shown = tab.id.slice(4); if (focus) tab.focus();
  draw(true);
}
for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = tabs.indexOf(tab);
    const to = event.key === "Home" ? tabs[0] : event.key === "End" ? tabs.at(-1) : step && tabs[(at + step + tabs.length) % tabs.length];
    if (to) { event.preventDefault(); show(to, true); }
  });
}
for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => {
  const key = button.dataset.sort;
  sort = { key, down: sort.key === key ? !sort.down : key !== "order" && key !== "state" };
  document.querySelector("#machines [aria-sort]")?.removeAttribute("aria-sort");
  button.closest("th").setAttribute("aria-sort", sort.down ? "descending" : "ascending");
  arrange();
});
$("machine-filter").addEventListener("input", arrange);
$("log-filter").addEventListener("input", refilter);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));
addEventListener("resize", () => draw(true));

function draw(all, fresh) {
  if (shown === "machines") arrange();
  if (shown === "calls") { drawCalls(); showMethods(); }
  if (shown === "start" && (all || fresh)) showStarts();
  if (shown === "log" && all) refilter();
}

// ---- profiles

let asked = null, viewed = null;
async function openProfile(kind, machine) {
  viewed = { kind, machine };
  const what = { profile: "CPU profile", heap: "Heap", goroutine: "Stacks" }[kind];
  put($("viewer-title"), `${what} of ${machine || "all machines"}`);
  $("viewer-time").hidden = kind !== "profile";
  if (!$("viewer").open) $("viewer").showModal();
  const frame = $("viewer-frame"), said = $("viewer-said"), file = $("viewer-file");
  asked?.abort(); asked = new AbortController(); const mine = asked;
  frame.hidden = true; file.hidden = true; said.className = "";
  const seconds = Math.min(600, Math.max(1, Number($("viewer-seconds").value) || 5));
  const query = new URLSearchParams({ ...(kind === "profile" ? { seconds } : {}), ...(machine ? { machine } : {}) });
  put(said, kind === "profile" ? `sampling for ${seconds} s …` : "collecting …");
  try {
    const answer = await fetch(`pprof/${kind}?${query}&format=speedscope`, { signal: mine.signal });
    if (!answer.ok) throw new Error(await answer.text());
    const text = await answer.text(), blob = new Blob([text], { type: "application/json" });
    if (mine !== asked) return;
    const notes = JSON.parse(answer.headers.get("bigmachine-comments") || "[]");
    if (notes.some((note) => note.startsWith("missing: "))) said.className = "warning";
    if (!JSON.parse(text).profiles?.some((each) => each.samples?.length)) {
      put(said, [kind === "profile" ? "nothing ran while it was sampled: no samples" : "there is nothing to be shown", ...notes].join("\n"));
      return;
    }
    put(said, notes.join("\n")); file.href = `pprof/${kind}?${query}`; file.hidden = false;
    if (frame.dataset.blob) URL.revokeObjectURL(frame.dataset.blob);
    const url = frame.dataset.blob = URL.createObjectURL(blob), fresh = frame.cloneNode();
    fresh.src = `static/speedscope/index.html#profileURL=${encodeURIComponent(url)}&view=left-heavy&title=${encodeURIComponent($("viewer-title").textContent)}`;
    fresh.hidden = false; frame.replaceWith(fresh);   // a new frame: only its address after # would change
  } catch (error) {
    if (mine !== asked || error.name === "AbortError") return;
    said.className = "error"; put(said, `no profile: ${error.message}`);
  }
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-profile]");
  if (button) openProfile(button.dataset.profile, button.dataset.machine || "");
});
$("viewer-again").addEventListener("click", () => openProfile(viewed.kind, viewed.machine));
$("viewer-close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => { asked?.abort(); asked = null; $("viewer-frame").src = "about:blank"; $("viewer-frame").hidden = true; });

// ---- the stream

function take(told, isAll) {
  now = told.now; heardAt = Date.now();
  if (isAll) {
    for (const m of machines.values()) if (!(told.rows || {})[m.id]) { m.cells.tr.remove(); machines.delete(m.id); }
    names = []; calls = []; lines = []; spans = new Map(); $("log").replaceChildren();
    put($("title"), told.session); document.title = `${told.session} – bigmachine`;
  }
  names.push(...(told.names || []));
  for (const [id, fields] of Object.entries(told.rows || {})) {
    if (!fields) { machines.get(id)?.cells.tr.remove(); machines.delete(id); continue; }
    const known = machines.get(id);
    if (known) Object.assign(known.fields, fields); else machines.set(id, newRow(id, fields));
  }
  for (const m of machines.values()) { showRow(m); spark(m); }
  calls.push(...(told.calls || [])); if (calls.length > KEPT_CALLS) calls = calls.slice(-KEPT_CALLS);
  if (told.missed) addLines([[0, "", "", `${told.missed.toLocaleString("en")} more lines are not shown`]]);
  if (told.lines) addLines(told.lines);
  for (const span of told.spans || []) spans.set(`${span[0]} ${span[1]}`, span);
  totals(told.cost);
  draw(isAll, told.spans);
}

function link(state, text) { const node = $("link"); node.className = `link ${state}`; put(node, text); }
const stream = new EventSource("events");
stream.addEventListener("all", (event) => { link("live", "live"); take(JSON.parse(event.data), true); });
stream.addEventListener("change", (event) => take(JSON.parse(event.data), false));
stream.addEventListener("end", () => { stream.close(); link("lost", "the session has ended"); });
stream.addEventListener("error", () => link("lost", stream.readyState === EventSource.CLOSED ? "not connected: reload this page" : "connection lost, trying again"));
