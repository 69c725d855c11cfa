"use strict";
// Everything shown comes from the data blocks and goes into text nodes; nothing is ever parsed as HTML.
const $ = (id) => document.getElementById(id);

function node(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

async function unpack(id) {
  const binary = atob($(id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

let index, groupAt; // groupAt[step][problem]
const texts = new Map(); // step -> promise of the texts
const ready = new Map(); // step -> texts
const lowered = new Map(); // step -> texts in lower case, as far as they are made
const state = { step: 0, problem: 0, sample: null, beside: null, set: "", kind: "all", show: "all", q: "" };

function textsOf(step) {
  if (!texts.has(step)) {
    texts.set(step, unpack("texts-" + step).then((all) => { ready.set(step, all); lowerLater(step); return all; }));
  }
  return texts.get(step);
}

// In lower case for the search, a few at a time while nothing else happens: the first search need not wait.
function lowerLater(step) {
  const all = ready.get(step), low = [];
  lowered.set(step, low);
  const some = () => {
    for (const end = Math.min(low.length + 200, all.length); low.length < end;) low.push(all[low.length].toLowerCase());
    if (low.length < all.length) setTimeout(some, 20);
  };
  setTimeout(some, 200);
}

function textIn(step, place) { return lowered.get(step)[place] ?? ready.get(step)[place].toLowerCase(); }

// ---- filters -------------------------------------------------------------------------------------------------------
const SHOWN = {
  all: () => true,
  correct: (g, r, i) => r.correct[i] === 1,
  incorrect: (g, r, i) => r.correct[i] === 0,
  majority: (g, r, i) => g.winner >= 0 && r.class[i] === g.winner,
  minority: (g, r, i) => r.class[i] >= 0 && r.class[i] !== g.winner,
  none: (g, r, i) => r.class[i] < 0,
  length: (g, r, i) => index.finish[r.finish[i]] === "length",
};
const KINDS = {
  all: () => true,
  right: (g) => g.right === true,
  wrong: (g) => g.right === false,
  lost: (g, first) => first.right === true && g.right === false,
  gained: (g, first) => first.right === false && g.right === true,
  flipped: (g, first) => majority(g) !== majority(first),
  cut: (g) => someCut(g),
};

// The text of a group's majority answer, null if nothing has an answer.
function majority(group) {
  if (group.winner < 0) return null;
  const r = index.responses;
  for (let i = group.first; i < group.first + group.n; i++) if (r.class[i] === group.winner) return index.answers[r.answer[i]] ?? "";
  return null;
}

function someCut(group) {
  const r = index.responses;
  for (let i = group.first; i < group.first + group.n; i++) if (index.finish[r.finish[i]] === "length") return true;
  return false;
}

function needle() { return state.q.trim().toLowerCase(); }

// The responses of a group that pass, as places in the columns. A search that hits the problem keeps all of them.
function passing(group) {
  const r = index.responses, test = SHOWN[state.show], q = needle(), out = [];
  const problem = index.problems[group.problem];
  const inProblem = q && (problem.id + "\n" + problem.problem + "\n" + problem.answer).toLowerCase().includes(q);
  for (let i = group.first; i < group.first + group.n; i++) {
    if (!test(group, r, i)) continue;
    if (q && !inProblem && !textIn(group.step, group.text + i - group.first).includes(q)) continue;
    out.push(i);
  }
  return out;
}

let listed = []; // [{group, places}]
async function filter() {
  const step = state.step;
  if (needle()) await Promise.all([textsOf(step), state.beside === null ? null : textsOf(state.beside)]);
  if (step !== state.step) return false; // a later call is on its way
  listed = [];
  for (const group of groupAt[step]) {
    if (!group || (state.set && index.problems[group.problem].set !== state.set)) continue;
    if (!KINDS[state.kind](group, groupAt[0][group.problem] || group)) continue;
    const places = passing(group);
    if (places.length) listed.push({ group, places });
  }
  return true;
}

// ---- drawing -------------------------------------------------------------------------------------------------------
const percent = (x) => (x === null || x === undefined ? "–" : Math.round(100 * x) + " %");

function bar(value, kind) {
  const fill = node("i");
  fill.style.width = 100 * (value || 0) + "%";
  return node("div", { class: "bar " + (kind || "") }, fill);
}

function mean(sets, key) {
  const names = Object.keys(sets).filter((name) => !state.set || name === state.set);
  const values = names.map((name) => sets[name][key]).filter((value) => value !== null);
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

// The training curve: agreement and accuracy on the training prompts by step, evaluated steps as ticks, the place as a line.
const CURVES = { true_accuracy: ["accuracy in training", "good"], majority_ratio: ["agreement in training", "none"] };
function drawCurve() {
  const t = index.training, names = Object.keys(CURVES).filter((name) => t[name]);
  $("curve").hidden = !names.length;
  if (!names.length) return;
  const width = 1000, height = 70, last = Math.max(t.step[t.step.length - 1], index.steps[index.steps.length - 1].step, 1);
  const x = (step) => (step / last * width).toFixed(1), y = (value) => ((1 - value) * height).toFixed(1);
  const shape = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": "Training curve" });
  for (const name of names) {
    let path = "";
    t[name].forEach((value, i) => { if (value !== null) path += (path ? "L" : "M") + x(t.step[i]) + " " + y(value); });
    svg.append(shape("path", { d: path, class: "line-" + name }));
  }
  for (const [i, entry] of index.steps.entries()) svg.append(shape("path", { d: `M${x(entry.step)} 0V${height}`, class: i === state.step ? "place" : i === state.beside ? "place beside" : "tick" }));
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * last;
    const near = index.steps.map((entry, i) => [Math.abs(entry.step - at), i]).sort((a, b) => a[0] - b[0])[0][1];
    go({ step: near, sample: null });
  });
  const at = Math.max(t.step.findIndex((step) => step >= index.steps[state.step].step), 0);
  const told = names.map((name) => node("span", { class: CURVES[name][1] }, `${CURVES[name][0]} ${percent(t[name][at])}`));
  $("curve").replaceChildren(svg, node("div", { class: "small" }, node("span", { class: "muted" }, `step ${index.steps[state.step].step} of ${last}`), ...told));
}

function drawSteps() {
  drawCurve();
  $("steps").replaceChildren(...index.steps.map((entry, i) => {
    const rows = [["avg", "avg", ""], ["maj", "maj", ""], ["agree", "consistency", "grey"]].map(([name, key, kind]) =>
      node("div", { class: "value" }, node("span", {}, name), bar(mean(entry.sets, key), kind),
        node("span", {}, percent(mean(entry.sets, key)))));
    const name = entry.name;
    const title = "avg@n, maj@n and the share of the majority, over all problems" + (state.set ? " of " + state.set : ", mean over data sets");
    return node("button", { type: "button", title, class: i === state.step ? "here" : "", "aria-pressed": String(i === state.step),
      onclick: () => go({ step: i, sample: null }) }, node("b", {}, name), ...rows);
  }));
}

function drawList() {
  const parts = [];
  let set = null;
  for (const { group, places } of listed) {
    const problem = index.problems[group.problem];
    if (problem.set !== set) { set = problem.set; parts.push(node("h3", {}, set)); }
    const sign = group.right === null ? "·" : group.right ? "✓" : "✗";
    const color = group.right === null ? "none" : group.right ? "good" : "bad";
    const amount = places.length === group.n ? percent(group.pass) : places.length + " of " + group.n;
    parts.push(node("button", { type: "button", class: group.problem === state.problem ? "here" : "", title: problem.id,
      onclick: () => go({ problem: group.problem, sample: null }) },
      node("span", { class: color, title: "majority " + (group.right ? "right" : "wrong") }, sign),
      node("span", {}, beginning(problem)), node("span", {}, amount)));
  }
  $("list").replaceChildren(...parts);
  const here = $("list").querySelector(".here");
  if (here) here.scrollIntoView({ block: "nearest" });
  const shown = listed.reduce((sum, one) => sum + one.places.length, 0);
  $("count").textContent = shown.toLocaleString("en") + " responses to " + listed.length.toLocaleString("en") + " problems";
}

// What the list shows of a problem: its beginning, since ids are often hashes.
function beginning(problem) {
  const text = problem.problem.slice(0, 200).replace(/\s+/g, " ").trim();
  return text.slice(0, 70) || problem.id;
}

// Classes of answers of a group, most votes first; the last entry collects responses without an answer.
function votes(group) {
  const r = index.responses, classes = new Map();
  for (let i = group.first; i < group.first + group.n; i++) {
    const key = r.class[i];
    if (!classes.has(key)) classes.set(key, { key, answer: r.answer[i], count: 0, correct: false });
    const entry = classes.get(key);
    entry.count += 1;
    entry.correct = entry.correct || r.correct[i] === 1;
  }
  return [...classes.values()].sort((a, b) => (a.key < 0) - (b.key < 0) || b.count - a.count || a.key - b.key);
}

function drawVotes(group) {
  const all = votes(group), most = Math.max(...all.map((v) => v.count)), shown = all.slice(0, 10), box = node("div", { class: "votes" });
  for (const v of shown) {
    const answer = v.key < 0 ? "no answer" : v.answer < 0 ? "" : index.answers[v.answer];
    const kind = v.key < 0 ? "empty" : v.correct ? "right" : "wrong";
    const label = node("span", {}, v.count + " of " + group.n);
    if (v.key >= 0 && v.key === group.winner) label.append(node("span", { class: "tag" }, "majority"));
    if (v.key >= 0 && v.correct) label.append(node("span", { class: "tag good" }, "correct"));
    box.append(node("span", { class: "text", title: answer }, answer), bar(v.count / most, kind), label);
  }
  if (all.length > shown.length) {
    const rest = all.slice(10).reduce((sum, v) => sum + v.count, 0);
    box.append(node("span", { class: "muted" }), node("span", { class: "muted" }, `${all.length - 10} more answers`), node("span", {}, `${rest} of ${group.n}`));
  }
  return box;
}

// The text with search hits marked and boxed answers shaded.
function marked(text) {
  const q = needle(), out = document.createDocumentFragment(), spots = [];
  for (const match of text.matchAll(/\\boxed\s*\{/g)) {
    let depth = 1, end = match.index + match[0].length;
    while (end < text.length && depth > 0 && end - match.index < 400) { depth += text[end] === "{" ? 1 : text[end] === "}" ? -1 : 0; end++; }
    if (depth === 0) spots.push([match.index, end, "span"]);
  }
  if (q) {
    const low = text.toLowerCase();
    if (low.length === text.length) for (let at = low.indexOf(q); at >= 0 && spots.length < 2000; at = low.indexOf(q, at + q.length)) spots.push([at, at + q.length, "mark"]);
  }
  spots.sort((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [start, end, tag] of spots) {
    if (start < at) continue;
    out.append(text.slice(at, start), node(tag, tag === "span" ? { class: "boxed" } : {}, text.slice(start, end)));
    at = end;
  }
  out.append(text.slice(at));
  return out;
}

function drawResponse(group, i, text) {
  const r = index.responses, answered = r.class[i] >= 0, sample = r.sample[i];
  const judged = group.pass === null ? ["none", "no reference"] : r.correct[i] ? ["good", "✓ correct"] : ["bad", "✗ incorrect"];
  const reason = index.reasons[r.reason[i]];
  const head = node("div", {},
    node("a", { href: hash({ sample, step: group.step }) }, "#" + sample),
    node("span", { class: judged[0] }, judged[1]),
    answered ? node("span", {}, "answer ", node("code", {}, r.answer[i] < 0 ? "" : index.answers[r.answer[i]])) : node("span", { class: "muted" }, "no answer"),
    node("span", {}, answered && r.class[i] === group.winner ? "votes with the majority (SRT reward 1)" : "SRT reward 0"),
    node("span", { class: "muted" }, `${r.length[i].toLocaleString("en")} token${r.length[i] === 1 ? "" : "s"}, ${index.finish[r.finish[i]] === "length" ? "cut off" : "stopped"}`),
    reason && reason !== "ok" ? node("span", { class: "muted" }, reason) : null);
  const body = node("div", { class: "body text" });
  body.append(marked(text));
  const here = state.sample === sample && group.step === state.step;
  const card = node("section", { id: group.step === state.step ? "sample-" + sample : undefined, class: "response " + (group.pass === null ? "" : r.correct[i] ? "right" : "wrong") + (here ? " here" : "") }, head, body);
  if (text.length > 1500 || text.split("\n", 16).length > 15) {
    const open = here || needle() !== "";
    const more = node("button", { type: "button", class: "more", onclick: () => {
      more.textContent = body.classList.toggle("clamped") ? "Show all" : "Show less";
    } }, open ? "Show less" : "Show all");
    if (!open) body.classList.add("clamped");
    card.append(more);
  }
  return card;
}

const nextFrame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));

async function drawMain(scroll) {
  const main = $("main"), entry = listed.find((one) => one.group.problem === state.problem);
  if (!entry) {
    main.replaceChildren(node("p", { class: "muted" }, listed.length ? "Choose a problem." : "No response passes these filters."));
    return;
  }
  const { group, places } = entry, problem = index.problems[group.problem], beside = state.beside;
  const other = beside === null || beside === state.step ? null : groupAt[beside][group.problem];
  const facts = [["Reference", problem.answer], ["Majority", group.winner < 0 ? "none" : index.answers[votes(group).find((v) => v.key === group.winner).answer] ?? ""],
    ["Pass rate", percent(group.pass)], ["Agreement", percent(group.consistency)], ["Subject", problem.subject], ["Level", problem.level]];
  const through = index.steps.map((step, s) => {
    const other = groupAt[s][group.problem];
    const top = votes(other).find((v) => v.key === other.winner);
    const answer = top ? index.answers[top.answer] ?? "" : "no majority";
    return node("button", { type: "button", class: s === state.step ? "here" : "", title: answer, onclick: () => go({ step: s, sample: null }) },
      (step.step === 0 ? "start" : step.step) + ": " + percent(other.pass) + " ",
      node("span", { class: other.right === null ? "none" : other.right ? "good" : "bad" }, other.right === null ? "" : other.right ? "✓" : "✗"),
      node("span", { class: "text muted" }, answer));
  });
  const title = problem.set + " · " + problem.id;
  const statement = node("div", { class: "text problem" });
  statement.append(marked(problem.problem));
  // the question and the votes at once; the responses when their texts are unpacked
  const sides = (other ? [[other, passing(other)]] : []).concat([[group, places]]);
  const columns = sides.map(([g]) => node("div", {}, other ? node("h3", {}, index.steps[g.step].name) : null, drawVotes(g)));
  main.replaceChildren(
    node("h2", {}, title), statement,
    node("div", { class: "facts" }, ...facts.filter((f) => f[1]).map(([name, value]) => node("span", {}, name + " ", node("b", {}, value)))),
    node("div", { class: "through", "aria-label": "This problem through training" }, ...through),
    node("div", { class: other ? "columns" : "" }, ...columns));
  if (scroll) main.scrollTop = 0;
  document.documentElement.dataset.shown ??= performance.now().toFixed(0); // milliseconds from navigation to the first problem
  for (const [at, [g, shown]] of sides.entries()) {
    const words = ready.get(g.step) ?? (await nextFrame(), await textsOf(g.step));
    if (!columns[at].isConnected) return; // another problem is shown by now
    columns[at].append(...(shown.length < g.n ? [node("p", { class: "muted small" }, `${shown.length} of ${g.n} responses pass the filters.`)] : []),
      ...shown.map((i) => drawResponse(g, i, words[g.text + i - g.first])));
  }
  const here = state.sample === null ? null : $("sample-" + state.sample);
  if (here) here.scrollIntoView({ block: "start" });
}

// ---- going places --------------------------------------------------------------------------------------------------
function hash(changes) {
  const to = { ...state, ...changes }, out = new URLSearchParams();
  out.set("step", index.steps[to.step].step);
  const problem = index.problems[to.problem];
  out.set("problem", problem.set + "/" + problem.id);
  if (to.sample !== null) out.set("sample", to.sample);
  if (to.beside !== null) out.set("beside", index.steps[to.beside].step);
  for (const key of ["set", "kind", "show", "q"]) if (to[key] && to[key] !== "all") out.set(key, to[key]);
  return "#" + out;
}

function readHash() {
  const from = new URLSearchParams(location.hash.slice(1));
  const step = index.steps.findIndex((s) => String(s.step) === from.get("step"));
  const problem = index.problems.findIndex((p) => p.set + "/" + p.id === from.get("problem"));
  const sample = from.get("sample"), beside = index.steps.findIndex((s) => String(s.step) === from.get("beside"));
  state.step = Math.max(step, 0);
  state.problem = Math.max(problem, 0);
  state.beside = beside < 0 ? null : beside;
  state.sample = sample !== null && /^\d+$/.test(sample) ? Number(sample) : null;
  state.set = index.sets.includes(from.get("set")) ? from.get("set") : "";
  state.kind = Object.hasOwn(KINDS, from.get("kind") || "") ? from.get("kind") : "all";
  state.show = Object.hasOwn(SHOWN, from.get("show") || "") ? from.get("show") : "all";
  state.q = from.get("q") || "";
}

async function draw(scroll) {
  for (const key of ["set", "kind", "show", "q"]) if (document.activeElement !== $(key)) $(key).value = state[key];
  $("beside").value = state.beside ?? "";
  drawSteps();
  if (!(await filter())) return;
  if (listed.length && !listed.some((one) => one.group.problem === state.problem)) {
    state.problem = listed[0].group.problem;
    state.sample = null;
  }
  drawList();
  await drawMain(scroll);
}

async function go(changes) {
  const moved = ["step", "problem"].some((key) => key in changes && changes[key] !== state[key]);
  Object.assign(state, changes);
  await draw(moved);
  history.replaceState(null, "", hash({}));
}

function turn(by) {
  const at = listed.findIndex((one) => one.group.problem === state.problem);
  const to = listed[at < 0 ? 0 : at + by];
  if (to) go({ problem: to.group.problem, sample: null });
}

function turnSample(by) {
  const entry = listed.find((one) => one.group.problem === state.problem);
  if (!entry) return;
  const samples = entry.places.map((i) => index.responses.sample[i]), at = samples.indexOf(state.sample);
  const to = samples[at < 0 ? (by > 0 ? 0 : samples.length - 1) : at + by];
  if (to !== undefined) go({ sample: to });
}

const KEYS = {
  ArrowRight: () => turn(1), j: () => turn(1), ArrowLeft: () => turn(-1), k: () => turn(-1),
  n: () => turnSample(1), p: () => turnSample(-1),
  "]": () => state.step + 1 < index.steps.length && go({ step: state.step + 1, sample: null }),
  "[": () => state.step > 0 && go({ step: state.step - 1, sample: null }),
  "/": () => $("q").focus(), "?": () => $("help").showModal(),
  b: () => go({ beside: state.beside === null ? 0 : null }),
  Escape: () => go({ set: "", kind: "all", show: "all", q: "" }),
};

async function start() {
  index = await unpack("index");
  groupAt = index.steps.map(() => []);
  for (const group of index.groups) groupAt[group.step][group.problem] = group;
  $("title").textContent = index.run;
  const shown = index.responses.sample.length.toLocaleString("en"), all = index.in_all.rollouts.toLocaleString("en");
  $("about").textContent = `${index.label} · ${index.model} · reward: ${index.reward} · ${shown} of ${all} responses`;
  $("sampling").textContent = `The page holds ${index.problems.length} of ${index.in_all.problems} problems, the same at every step, evenly spaced in each data set, with all of their responses. The averages beside the steps are over all problems. Evaluation samples; those of training steps are not stored.`;
  $("set").append(node("option", { value: "" }, "all"), ...index.sets.map((name) => node("option", { value: name }, name)));
  $("beside").append(node("option", { value: "" }, "nothing"), ...index.steps.map((entry, i) => node("option", { value: i }, entry.name)));
  $("beside").addEventListener("change", () => go({ beside: $("beside").value === "" ? null : Number($("beside").value) }));
  for (const key of ["set", "kind", "show"]) $(key).addEventListener("change", () => go({ [key]: $(key).value, sample: null }));
  let waiting;
  $("q").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => go({ q: $("q").value, sample: null }), 150); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("help-button").addEventListener("click", () => $("help").showModal());
  addEventListener("hashchange", () => { readHash(); draw(true); });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input, select")) { if (event.key === "Escape") event.target.blur(); return; }
    if (Object.hasOwn(KEYS, event.key)) { event.preventDefault(); KEYS[event.key](); }
  });
  readHash();
  await draw(true);
  document.documentElement.dataset.ready = performance.now().toFixed(0); // milliseconds from navigation to readable
}

start().catch((error) => { $("main").replaceChildren(node("p", { class: "bad" }, "This page could not be read: " + error.message + ". It needs Chromium 80, Firefox 113, Safari 16.4 or later.")); });
