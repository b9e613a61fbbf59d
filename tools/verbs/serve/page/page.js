"use strict";

const $ = (id) => document.getElementById(id);
const SETTINGS = ["seed", "n", "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_text"];
const ALTERNATIVES = 5;
let blockLength = 4;
let abort = null;

// Storage may be forbidden; the page works without.
const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* nothing is kept */ } },
};

// Theme

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  if (theme === "system") { delete document.documentElement.dataset.theme; } else { document.documentElement.dataset.theme = theme; }
  $("theme").textContent = `Theme: ${theme}`;
  store.set("theme", theme);
}
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
setTheme(THEMES.includes(store.get("theme")) ? store.get("theme") : "system");

// Settings

for (const name of SETTINGS) {
  const kept = store.get(`setting.${name}`);
  if (kept !== null) { $(name).value = kept; }
  $(name).addEventListener("change", () => store.set(`setting.${name}`, $(name).value));
}

function headers() {
  const headers = { "content-type": "application/json" };
  if ($("key").value) { headers.authorization = `Bearer ${$("key").value}`; }
  return headers;
}

function request() {
  const body = { prompt: $("prompt").value, stream: true, stream_options: { include_usage: true }, logprobs: ALTERNATIVES };
  for (const name of SETTINGS) {
    const value = $(name).value.trim();
    if (value === "") { continue; }
    if (name === "stop_text") { body.stop = $(name).value.replaceAll("\\n", "\n"); } else { body[name] = Number(value); }
  }
  // Larger seeds than a number of this language holds are sent as they are written.
  let text = JSON.stringify(body);
  const seed = $("seed").value.trim();
  if (/^[0-9]+$/.test(seed)) { text = text.replace(/"seed":[0-9.e+]+/, `"seed":${BigInt(seed)}`); }
  return text;
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

// Answers

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) { made.className = className; }
  if (text !== undefined) { made.textContent = text; }
  return made;
}

class Answer {
  constructor(index, prompt) {
    this.article = element("article");
    this.title = element("h2", "", `Sample ${index + 1}`);
    this.text = element("div", "text");
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", `Text of sample ${index + 1}`);
    this.text.append(element("span", "prompt", prompt));
    this.article.append(this.title, this.text);
    this.block = null;
    this.count = 0;
    $("answers").append(this.article);
  }

  take(choice) {
    if (choice.tokens) { this.token(choice); } else if (choice.text) { this.text.append(choice.text); }
    if (choice.finish_reason) {
      if (this.block) { this.block.classList.remove("open"); }
      this.title.textContent += `, seed ${choice.seed}, ${this.count} tokens, ended by ${choice.finish_reason}`;
    }
  }

  token(choice) {
    if (!this.block || choice.place === 0) {
      if (this.block) { this.block.classList.remove("open"); }
      this.block = element("span", "block open");
      this.text.append(this.block);
    }
    const logprobs = choice.logprobs;
    const logprob = logprobs.token_logprobs[0];
    const probability = Math.exp(logprob);
    const level = probability >= 0.5 ? 4 : probability >= 0.15 ? 3 : probability >= 0.03 ? 2 : 1;
    const token = element("span", `token p${level}${choice.guessed ? " guessed" : ""}`, choice.text);
    token.tabIndex = this.count === 0 ? 0 : -1;
    token.facts = { id: choice.tokens[0], piece: logprobs.tokens[0], logprob, top: logprobs.top_logprobs[0], place: choice.place, guessed: choice.guessed };
    this.block.append(token);
    this.count += 1;
  }
}

// Alternatives

const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
const visible = (text) => text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");

function show(token) {
  const { id, piece, logprob, top, place, guessed } = token.facts;
  $("chosen").textContent = `\u201c${visible(piece)}\u201d, ${percent(logprob)}, token ${id}, place ${place + 1} of ${blockLength} in its block${guessed ? ", guessed" : ""}`;
  const all = Object.entries(top);
  if (!(piece in top)) { all.push([piece, logprob]); }
  all.sort((a, b) => b[1] - a[1]);
  $("rows").replaceChildren(...all.map(([text, value]) => {
    const row = element("tr", text === piece ? "own" : "");
    row.append(element("td", "", visible(text)), element("td", "", percent(value)));
    return row;
  }));
  $("alternatives").hidden = false;
}

const tokenOf = (event) => (event.target.facts ? event.target : null);
$("answers").addEventListener("mouseover", (event) => { const token = tokenOf(event); if (token) { show(token); } });
$("answers").addEventListener("click", (event) => { const token = tokenOf(event); if (token) { show(token); token.focus(); } });
$("answers").addEventListener("focusin", (event) => { const token = tokenOf(event); if (token) { show(token); } });
$("answers").addEventListener("keydown", (event) => {
  const token = tokenOf(event);
  if (!token) { return; }
  if (event.key === "Escape") { $("alternatives").hidden = true; return; }
  const all = [...token.closest("article").querySelectorAll(".token")];
  const at = all.indexOf(token);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + blockLength, ArrowUp: at - blockLength, Home: 0, End: all.length - 1 }[event.key];
  if (next === undefined) { return; }
  event.preventDefault();
  const target = all[Math.min(Math.max(next, 0), all.length - 1)];
  token.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
});

// Writing

async function* events(response) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = response.body.getReader();;) {
    const { done, value } = await reader.read();
    if (done) { return; }
    rest += decoder.decode(value, { stream: true });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") { yield JSON.parse(part.slice(6)); }
    }
  }
}

async function write() {
  $("write").disabled = true;
  $("stop").disabled = false;
  $("answers").replaceChildren();
  $("answers").setAttribute("aria-busy", "true");
  $("alternatives").hidden = true;
  say("Writing \u2026");
  abort = new AbortController();
  const started = performance.now();
  const answers = [];
  let count = 0;
  let ended = 0;
  try {
    const response = await fetch("/v1/completions", { method: "POST", headers: headers(), body: request(), signal: abort.signal });
    if (!response.ok) { throw new Error((await response.json()).error.message); }
    const prompt = $("prompt").value;
    for await (const event of events(response)) {
      if (event.error) { throw new Error(event.error.message); }
      for (const choice of event.choices) {
        while (answers.length <= choice.index) { answers.push(new Answer(answers.length, prompt)); }
        answers[choice.index].take(choice);
        count += choice.tokens ? 1 : 0;
        ended += choice.finish_reason ? 1 : 0;
      }
    }
    const seconds = (performance.now() - started) / 1000;
    if (ended === 0) { throw new Error("the answer broke off: the server has ended"); }
    say(`${count} tokens, ${(count / seconds).toFixed(1)} tokens/s`);
  } catch (error) {
    if (error.name === "AbortError") {
      say(`Stopped after ${count} tokens.`);
    } else if (error instanceof TypeError) {
      say("The server cannot be reached. It is asked again as soon as you press Write.", true);
    } else {
      say(error.message, true);
    }
  } finally {
    document.querySelectorAll(".block.open").forEach((block) => block.classList.remove("open"));
    $("answers").setAttribute("aria-busy", "false");
    $("write").disabled = false;
    $("stop").disabled = true;
    abort = null;
  }
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); if (!abort) { write(); } });
$("stop").addEventListener("click", () => { if (abort) { abort.abort(); } });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("form").requestSubmit(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && abort) { abort.abort(); } });

// Figures

let last = null;
async function figures() {
  try {
    const response = await fetch("/metrics", { headers: headers() });
    if (!response.ok) { throw new Error("no metrics"); }
    const metrics = {};
    for (const line of (await response.text()).split("\n")) {
      const [name, value] = line.split(" ");
      if (name && !name.startsWith("#")) { metrics[name.replace("cinderblock_", "")] = Number(value); }
    }
    const now = { time: performance.now(), tokens: metrics.generated_tokens_total };
    if (last && now.tokens >= last.tokens) {
      $("rate").textContent = (1000 * (now.tokens - last.tokens) / (now.time - last.time)).toFixed(0);
    }
    last = now;
    $("memory").textContent = metrics.resident_bytes ? `${(metrics.resident_bytes / 1e6).toFixed(0)} MB` : "-";
    $("running").textContent = metrics.sequences_waiting ? `${metrics.sequences_running} + ${metrics.sequences_waiting}` : `${metrics.sequences_running}`;
    if (!$("model").textContent) { await describe(); }
  } catch {
    last = null;
    $("rate").textContent = "-";
  }
}

async function describe() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) { return; }
  const model = (await response.json()).data[0];
  $("model").textContent = model.id;
  blockLength = model.block_length;
  $("block").textContent = blockLength;
}

setInterval(() => { if (!document.hidden) { figures(); } }, 1000);
figures();
