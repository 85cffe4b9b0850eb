"use strict";

const $ = (id) => document.getElementById(id);
const SCREENS = ["who", "rate", "end", "closed"];
const WORDS = ["", "bad", "poor", "fair", "good", "excellent"];
const PATIENCE = 15_000; // milliseconds that an answer may take, after which it is asked for again
const LONGEST_DELAY = 8_000; // before it is asked for again
const FEWEST_PIXELS = 1_000_000; // of a copy
// A copy has the pixels of the whole screen: at least those that any part of it can show, however it is turned.
const SCREEN_PIXELS = Math.max(FEWEST_PIXELS, Math.ceil(screen.width * screen.height * devicePixelRatio ** 2));

let rater = sessionStorage.getItem("rater") ?? "";
let state = null;
let busy = false; // an answer to what the rater did is being waited for
let photo = null; // what is shown: its place, the picture, the full size, whether the picture is a copy with less pixels
let seen = false; // it is on the screen
let next = null; // the next one, so that it is there at once: its place, and the promise of the photo

function show(screen) {
  for (const id of SCREENS) $(id).hidden = id !== screen;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

/** Says what became of the last rating, so that one sees that something was said. */
function tell(text, saved = true) {
  $("status").textContent = text;
  $("status").className = "";
  void $("status").offsetWidth; // begins the animation anew
  $("status").className = saved ? "saved" : "";
}

function inWords(rating) {
  return rating === null ? "skipped" : `${rating}, ${WORDS[rating]}`;
}

function wait(attempt) {
  return new Promise((resolve) => setTimeout(resolve, Math.min(1000 * 2 ** attempt, LONGEST_DELAY)));
}

/** Fetches until there is an answer that asking again would not change; says so while there is none. */
async function persist(path, options, unanswered) {
  for (let attempt = 0; ; attempt++) {
    let reason = "no answer from the command. If it has ended, run it again and open the address it prints";
    try {
      const response = await fetch(path, options && { ...options, signal: AbortSignal.timeout(PATIENCE) });
      if (response.status < 500) {
        if (attempt) trouble("");
        return response;
      }
      reason = await response.text();
    } catch {
      // it cannot be reached
    }
    trouble(`${unanswered}: ${reason}. Trying again …`);
    await wait(attempt);
  }
}

/** Asks the server; gives null, and says so, where it refuses. */
async function ask(path, body) {
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await persist(path, post ?? {}, body ? "Not saved" : "Not loaded");
  trouble(response.ok ? "" : `${body ? "Not saved" : "Not loaded"}: ${await response.text()}`);
  return response.ok ? await response.json() : null;
}

/**
 * Does what the rater asks for, one thing at a time. Until it is answered nothing else begins, so that an answer is
 * never taken for another rater's, and nobody leaves or ends the command before a rating is saved.
 */
async function alone(action) {
  if (busy) return;
  occupy(true);
  try {
    await action();
  } finally {
    occupy(false);
  }
}

function occupy(on) {
  busy = on;
  for (const id of ["start", "switch", "another", "finish"]) $(id).setAttribute("aria-disabled", on); // keeps the focus
}

async function welcome() {
  show("who");
  $("name").focus();
  const names = (await ask("api/raters")) ?? [];
  $("names").replaceChildren(...names.map((name) => new Option(name)));
}

async function load() {
  update(await ask(`api/state?rater=${encodeURIComponent(rater)}`));
  if (state?.last) tell(`Last: ${inWords(state.last.rating)}; saved.`, false);
}

function update(answer) {
  if (!answer) {
    if (!state) show("who");
    return;
  }
  state = answer;
  const [now, then] = state.upcoming;
  if (!now) {
    next = null;
    show("end");
    $("last").textContent = state.last ? `Every rating is saved, the last one too: ${inWords(state.last.rating)}.` : "";
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
  showPhoto(now).then((shown) => {
    if (!shown || !then) return;
    next = { slot: then.slot, photo: fetchPhoto(then) };
    next.photo.catch(() => {}); // it is told when its turn comes
  });
}

/** Fetches a photo and decodes it. Rejects with the reason where it cannot be shown. */
async function fetchPhoto(place, whole = false) {
  const path = `photos/${place.photo}${whole ? "" : `?pixels=${SCREEN_PIXELS}`}`;
  const response = await persist(path, null, "The photo does not come");
  if (!response.ok) throw await response.text();
  const image = new Image();
  image.src = URL.createObjectURL(await response.blob());
  await image.decode().catch(() => Promise.reject("its picture is damaged"));
  URL.revokeObjectURL(image.src); // the image keeps what it holds
  const full = response.headers.get("X-Full-Size");
  const [width, height] = full ? full.split("x").map(Number) : [image.naturalWidth, image.naturalHeight];
  return { slot: place.slot, place, image, width, height, copy: full !== null };
}

async function showPhoto(place) {
  photo = null;
  seen = false;
  allow();
  zoom(false);
  $("no-photo").hidden = true;
  $("frame").hidden = false;
  $("size").textContent = "";
  $("photo").className = "loading";
  const wanted = next?.slot === place.slot ? next.photo : fetchPhoto(place);
  const current = () => state?.upcoming[0]?.slot === place.slot && !$("rate").hidden;
  try {
    const fetched = await wanted;
    if (!current()) return false;
    put(fetched);
    seen = true;
    allow();
  } catch (reason) {
    if (!current()) return false;
    $("frame").hidden = true;
    $("no-photo").hidden = false;
    $("no-photo").textContent = `This photo cannot be shown (${reason}). Skip it, or reload the page to try again.`;
  }
  return true;
}

/** Puts a photo into the frame. */
function put(fetched) {
  photo = fetched;
  photo.image.id = "photo";
  photo.image.alt = `Photo ${state.done + 1} of ${state.total}`;
  $("frame").replaceChildren(photo.image);
  fit();
}

/** Fetches all pixels of the photo, where a copy with less of them is shown, and puts them into its place. */
async function sharpen() {
  const shown = photo;
  if (!shown?.copy || shown.loading) return;
  shown.loading = true;
  describe();
  try {
    const whole = await fetchPhoto(shown.place, true);
    // One that is too large for a browser comes with less pixels than the photo has.
    if (photo === shown) put({ ...whole, width: shown.width, height: shown.height, copy: false });
  } catch {
    shown.loading = false; // the copy stays
    if (photo === shown) describe();
  }
}

/** Gives how wide the photo is where all of it is seen: never more than one of its pixels in one of the page's. */
function fittingWidth() {
  const frame = $("frame");
  return Math.min(photo.width, frame.clientWidth, (frame.clientHeight * photo.width) / photo.height);
}

/** Gives how wide it is when zoomed: every pixel of it seen, or twice as large, though not larger than it is. */
function zoomedWidth() {
  return Math.max(photo.width / devicePixelRatio, Math.min(2 * fittingWidth(), photo.width));
}

function fit() {
  if (!photo) return;
  const width = $("frame").classList.contains("zoomed") ? zoomedWidth() : fittingWidth();
  $("photo").style.width = `${width}px`;
  $("photo").style.height = `${(width * photo.height) / photo.width}px`;
  $("zoom").disabled = zoomedWidth() < 1.05 * fittingWidth();
  $("frame").classList.toggle("whole", $("zoom").disabled);
  describe();
}

/** Says how much of the photo's detail is on the screen. */
function describe() {
  const part = Math.min(1, ($("photo").offsetWidth * devicePixelRatio) / photo.width);
  const size = `${photo.width} × ${photo.height}`;
  if (photo.loading && part > 0.99) $("size").textContent = "loading all pixels …";
  else $("size").textContent = part > 0.99 ? size : `${size}, at ${Math.max(1, Math.round(100 * part))} %`;
}

/** Only what has been seen can be rated. */
function allow() {
  for (const button of $("ratings").children) button.setAttribute("aria-disabled", !seen); // keeps the focus
}

async function decide(rating) {
  if ($("rate").hidden || (rating !== null && !seen)) return;
  const shown = seen;
  seen = false;
  allow();
  tell("Saving …", false);
  const answer = await ask("api/rate", { rater, slot: state.upcoming[0].slot, rating });
  tell(answer ? (rating === null ? "Skipped." : `Saved: ${inWords(rating)}.`) : "Not saved.", Boolean(answer));
  if (!answer) seen = shown;
  allow();
  update(answer);
}

async function undo() {
  if (state === null || state.last === null) return;
  const { slot, rating } = state.last;
  const answer = await ask("api/undo", { rater, slot });
  if (answer) tell(`Taken back: ${inWords(rating)}.`);
  update(answer);
}

/** Shows every pixel of a photo that was scaled down to fit. */
function zoom(on, event) {
  const frame = $("frame");
  if (on && (!seen || $("zoom").disabled)) return;
  const box = $("photo").getBoundingClientRect();
  const pointed = event?.currentTarget === frame && event.detail > 0; // not by a key
  const x = pointed ? (event.clientX - box.left) / box.width : 0.5;
  const y = pointed ? (event.clientY - box.top) / box.height : 0.5;
  frame.classList.toggle("zoomed", on);
  frame.setAttribute("aria-pressed", on);
  fit();
  if (on) {
    frame.scrollLeft = x * $("photo").offsetWidth - frame.clientWidth / 2;
    frame.scrollTop = y * $("photo").offsetHeight - frame.clientHeight / 2;
    sharpen();
  }
}

function toggleZoom(event) {
  zoom(!$("frame").classList.contains("zoomed"), event);
}

async function finish() {
  if (!(await ask("api/finish", {}))) return;
  show("closed");
  $("closed").querySelector("h1").focus();
}

function leave() {
  if (busy) return;
  rater = "";
  state = null;
  next = null;
  sessionStorage.removeItem("rater");
  $("name").value = "";
  tell("", false);
  welcome();
}

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  if (busy || !name) return;
  rater = name;
  sessionStorage.setItem("rater", rater);
  alone(load);
});
for (const button of $("ratings").children) {
  button.addEventListener("click", (event) => {
    // The second click of a double one would rate the next photo, which is there at once.
    if (event.detail < 2) alone(() => decide(Number(button.dataset.rating)));
  });
}
$("frame").addEventListener("click", toggleZoom);
$("zoom").addEventListener("click", toggleZoom);
$("skip").addEventListener("click", (event) => event.detail < 2 && alone(() => decide(null)));
$("undo").addEventListener("click", () => alone(undo));
$("undo-last").addEventListener("click", () => alone(undo));
$("switch").addEventListener("click", leave);
$("another").addEventListener("click", leave);
$("finish").addEventListener("click", () => alone(finish));
new ResizeObserver(() => seen && fit()).observe($("frame"));
// Two fingers enlarge the whole page, and with it the photo.
visualViewport?.addEventListener("resize", () => seen && visualViewport.scale > 1.1 && sharpen());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("rate").hidden && $("end").hidden) return;
  const key = event.key.toLowerCase();
  if (key >= "1" && key <= "5") alone(() => decide(Number(key)));
  else if (key === "u" || key === "backspace") alone(undo);
  else if ($("rate").hidden) return;
  else if (key === "s") alone(() => decide(null));
  else if (key === "z") toggleZoom();
  else return;
  event.preventDefault();
});

if (rater) alone(load);
else welcome();
