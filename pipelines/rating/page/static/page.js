"use strict";

const $ = (id) => document.getElementById(id);
const SCREENS = ["who", "rate", "end", "closed"];
const WORDS = ["", "bad", "poor", "fair", "good", "excellent"];

let rater = sessionStorage.getItem("rater") ?? "";
let state = null;
let busy = false; // an answer is being waited for
let seen = false; // the photo is on the screen
let next = null; // holds the next photo, so that it is there at once

function show(screen) {
  for (const id of SCREENS) $(id).hidden = id !== screen;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function photoUrl(place) {
  return `photos/${place.photo}`;
}

/** Asks the server; gives null, and says so, where it cannot be reached or refuses. */
async function ask(path, body) {
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  busy = true;
  try {
    const response = await fetch(path, post);
    if (!response.ok) throw new Error(await response.text());
    trouble("");
    return await response.json();
  } catch (error) {
    const lost = error instanceof TypeError;
    trouble(lost ? "Not saved: the command has ended. Run it again, and open the address it prints." : error.message);
    return null;
  } finally {
    busy = false;
  }
}

async function load() {
  if (!rater) {
    show("who");
    for (const name of (await ask("api/raters")) ?? []) $("names").append(new Option(name));
    $("name").focus();
    return;
  }
  update(await ask(`api/state?rater=${encodeURIComponent(rater)}`));
}

function update(answer) {
  if (!answer) {
    if (!state) show("who");
    return;
  }
  state = answer;
  const [now, then] = state.upcoming;
  if (!now) {
    show("end");
    $("consistency").textContent = `${rater}: ${state.consistency}.`;
    $("undo-last").disabled = state.last === null;
    $("end").querySelector("h1").focus();
    return;
  }
  show("rate");
  $("progress").max = state.total;
  $("progress").value = state.done;
  $("count").textContent = `${state.done + 1} / ${state.total}`;
  $("switch").textContent = rater;
  $("undo").disabled = state.last === null;
  showPhoto(now);
  next = then ? new Image() : null;
  if (next) next.src = photoUrl(then);
}

function showPhoto(place) {
  seen = false;
  allow();
  zoom(false);
  $("no-photo").hidden = true;
  $("frame").hidden = false;
  const photo = $("photo");
  photo.className = "loading";
  photo.alt = `Photo ${state.done + 1} of ${state.total}`;
  photo.dataset.slot = place.slot;
  photo.removeAttribute("src"); // the same photo again is loaded again
  photo.src = photoUrl(place);
}

/** Only what has been seen can be rated. */
function allow() {
  for (const button of $("ratings").children) button.setAttribute("aria-disabled", !seen); // keeps the focus
}

async function explain() {
  const slot = $("photo").dataset.slot;
  const response = await fetch($("photo").src).catch(() => null);
  const reason = response ? await response.text() : "the command has ended";
  if (slot !== $("photo").dataset.slot) return;
  $("frame").hidden = true;
  $("no-photo").hidden = false;
  $("no-photo").textContent = `This photo cannot be shown (${reason}). Skip it, or reload the page to try again.`;
}

async function decide(rating) {
  if (busy || $("rate").hidden || (rating !== null && !seen)) return;
  const shown = seen;
  seen = false;
  allow();
  const answer = await ask("api/rate", { rater, slot: state.upcoming[0].slot, rating });
  if (answer) $("status").textContent = rating === null ? "Skipped." : `Saved: ${rating}, ${WORDS[rating]}.`;
  else seen = shown;
  allow();
  update(answer);
}

async function undo() {
  if (busy || state === null || state.last === null) return;
  const answer = await ask("api/undo", { rater, slot: state.last });
  if (answer) $("status").textContent = "Taken back.";
  update(answer);
}

/** Shows every pixel of a photo that was scaled down to fit, or twice the size of one that was not. */
function zoom(on, event) {
  const frame = $("frame");
  const photo = $("photo");
  if (on && !seen) return;
  const box = photo.getBoundingClientRect();
  const pointed = event?.currentTarget === frame && event.detail > 0; // not by a key
  const x = pointed ? (event.clientX - box.left) / box.width : 0.5;
  const y = pointed ? (event.clientY - box.top) / box.height : 0.5;
  frame.classList.toggle("zoomed", on);
  frame.setAttribute("aria-pressed", on);
  photo.style.width = on ? `${Math.max(photo.naturalWidth / devicePixelRatio, 2 * box.width)}px` : "";
  if (on) {
    frame.scrollLeft = x * photo.offsetWidth - frame.clientWidth / 2;
    frame.scrollTop = y * photo.offsetHeight - frame.clientHeight / 2;
  }
}

function toggleZoom(event) {
  zoom(!$("frame").classList.contains("zoomed"), event);
}

function leave() {
  rater = "";
  state = null;
  sessionStorage.removeItem("rater");
  $("name").value = "";
  $("names").replaceChildren();
  load();
}

$("photo").addEventListener("load", () => {
  seen = true;
  $("photo").className = "";
  allow();
});
$("photo").addEventListener("error", explain);
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = $("name").value.trim();
  if (!rater) return;
  sessionStorage.setItem("rater", rater);
  load();
});
for (const button of $("ratings").children) {
  button.addEventListener("click", () => decide(Number(button.dataset.rating)));
}
$("frame").addEventListener("click", toggleZoom);
$("zoom").addEventListener("click", toggleZoom);
$("skip").addEventListener("click", () => decide(null));
$("undo").addEventListener("click", undo);
$("undo-last").addEventListener("click", undo);
$("switch").addEventListener("click", leave);
$("another").addEventListener("click", leave);
$("finish").addEventListener("click", async () => {
  if (!(await ask("api/finish", {}))) return;
  show("closed");
  $("closed").querySelector("h1").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("rate").hidden && $("end").hidden) return;
  const key = event.key.toLowerCase();
  if (key >= "1" && key <= "5") decide(Number(key));
  else if (key === "u" || key === "backspace") undo();
  else if ($("rate").hidden) return;
  else if (key === "s") decide(null);
  else if (key === "z") toggleZoom();
  else return;
  event.preventDefault();
});

load();
