"use strict";
// All that is told stands in the page already; this turns pages, moves the threshold, and shows photos large.
{
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);
  const button = (text, label, press) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", press);
    return made;
  };
  document.documentElement.classList.add("live");
  all(".hint, .field, .copy, .choose input").forEach((each) => { each.hidden = false; });

  // --- Photos, large -------------------------------------------------------------------------------------------------
  const dialog = one("#large");
  const view = one(".view", dialog);
  const picture = one("img", view);
  let shots = [];
  let at = 0;

  const show = (index) => {
    at = index;
    const shot = shots[at];
    const small = one("img", shot);
    const side = `${shot.dataset.side}px`;
    const place = one(".turn [role=status]", dialog);
    place.textContent = shots.length > 1 ? `${at + 1} of ${shots.length}` : "";
    all("[data-turn]", dialog).forEach((each) => { each.disabled = !shots[at + Number(each.dataset.turn)]; });
    one(".told", dialog).replaceChildren(one(".about", shot).cloneNode(true));
    dialog.classList.remove("full");
    picture.hidden = !small;
    one(".none", view).hidden = Boolean(small);
    one(".none", view).textContent = small ? "" : one(".frame", shot).textContent.trim() || "There is no picture of it here.";
    if (!small) return;
    picture.alt = small.alt;
    picture.style.maxWidth = picture.style.maxHeight = side;
    picture.src = small.src;
    picture.dataset.shows = "copy";
    const file = one("a.original", shot);
    if (!file) return;
    // The file itself, where this page lies on the same machine; else the copy stays.
    const original = new Image();
    original.src = file.href;
    original.decode().then(() => {
      if (shots[at] !== shot) return;
      picture.src = original.src;
      picture.dataset.shows = "original";
    }, () => {});
  };
  const turn = (by) => { if (shots[at + by]) show(at + by); };

  const enlarge = (shot) => {
    const list = shot.closest(".pages") ?? shot.closest(".photos, .strip");
    shots = all(".shot", list);
    show(shots.indexOf(shot));
    dialog.showModal();
  };
  const dress = (shot) => {
    const frame = one(".frame", shot);
    const opener = button("", `Show large: ${one(".name", shot).textContent.trim()}, score ${one("b", shot).textContent}`, () => enlarge(shot));
    opener.className = frame.className;
    opener.append(...frame.childNodes);
    frame.replaceWith(opener);
  };
  all(".shot").forEach(dress);
  all("[data-turn]", dialog).forEach((each) => each.addEventListener("click", () => turn(Number(each.dataset.turn))));
  one(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  picture.addEventListener("click", () => dialog.classList.toggle("full"));
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && !dialog.classList.contains("full")) { turn(by); event.preventDefault(); }
    if (event.key === "z") dialog.classList.toggle("full");
  });
  dialog.addEventListener("close", () => {
    // Where the last photo is seen, the page it is on is turned to; then the focus goes there.
    const shot = shots[at];
    const list = shot.closest(".pages");
    if (list) list.dispatchEvent(new CustomEvent("reveal", { detail: shot }));
    one(".frame", shot).focus({ preventScroll: shot.closest(".strip") !== null });
    picture.removeAttribute("src");
  });

  // --- Pages ---------------------------------------------------------------------------------------------------------
  all(".pages").forEach((pages) => {
    const parts = [...pages.children];
    if (parts.length < 2) return;
    const words = document.createElement("span");
    words.setAttribute("role", "status");
    const total = all(".shot", pages).length;
    let open = 0;
    const title = one("h2", pages.closest("section")).textContent;
    const turnTo = (page) => {
      open = page;
      let first = 1;
      parts.forEach((part, i) => {
        part.hidden = i !== page;
        if (part.tagName === "DETAILS") part.open = true;
        if (i < page) first += all(".shot", part).length;
      });
      words.textContent = `${first} to ${first + all(".shot", parts[page]).length - 1} of ${total}`;
      back.disabled = page === 0;
      on.disabled = page === parts.length - 1;
    };
    const back = button("\u2190", `${title}: previous page`, () => turnTo(open - 1));
    const on = button("\u2192", `${title}: next page`, () => turnTo(open + 1));
    const pager = document.createElement("div");
    pager.className = "pager";
    pager.append(back, words, on);
    pages.before(pager);
    pages.addEventListener("reveal", (event) => turnTo(parts.findIndex((part) => part.contains(event.detail))));
    turnTo(0);
  });

  // --- Threshold -----------------------------------------------------------------------------------------------------
  const choose = one(".choose");
  if (choose) {
    const slider = one("input", choose);
    const steps = all(".thresholds tbody tr");
    const strip = one(".strip");
    const around = one(".around");
    const seen = new Set();
    // Every photo of the page is on the strip once.
    const kinds = "#worst .shot, #best .shot, .strip .shot";
    const strung = all(kinds).filter((shot) => !seen.has(shot.dataset.id) && seen.add(shot.dataset.id)).map((shot) => {
      if (strip.contains(shot)) return shot;
      const copy = shot.cloneNode(true);
      one(".frame", copy).addEventListener("click", () => enlarge(copy));
      return copy;
    }).sort((a, b) => a.dataset.score - b.dataset.score);
    const mark = document.createElement("li");
    mark.className = "mark";
    strip.replaceChildren(...strung);
    around.hidden = strung.length === 0;
    one("[data-around]", around).textContent = "around the threshold";

    const move = () => {
      const [head, photos, share] = steps[slider.value].children;
      const score = Math.fround(head.dataset.score);
      all("[data-at]").forEach((each) => { each.textContent = head.textContent; });
      all("[data-at-plain]").forEach((each) => { each.textContent = head.dataset.score; });
      one("[data-photos]").textContent = photos.textContent;
      one("[data-share]").textContent = share.textContent;
      one(".under", choose).style.width = `${head.dataset.place}%`;
      slider.setAttribute("aria-valuetext", `At least ${head.textContent} keeps ${share.textContent}: ${photos.textContent}`);
      const kept = strung.findIndex((shot) => Number(shot.dataset.score) >= score);
      const place = kept < 0 ? strung.length : kept;
      strung.forEach((shot, i) => shot.classList.toggle("out", i < place));
      mark.textContent = `from ${head.textContent}`;
      strip.insertBefore(mark, strung[place] ?? null);
      strip.scrollLeft = mark.offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
    };
    slider.value = choose.dataset.chosen;
    slider.addEventListener("input", move);
    addEventListener("resize", move);
    addEventListener("load", move);
    move();
  }

  // --- Failures ------------------------------------------------------------------------------------------------------
  all(".search").forEach((part) => {
    const field = one("input", part);
    const rows = all("tbody tr", part);
    const texts = rows.map((row) => [row.textContent, ...all("[title]", row).map((each) => each.title)].join(" ").toLowerCase());
    const seek = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        found += !row.hidden;
      });
      one("[role=status]", part).textContent = words.length ? `${found} of ${rows.length}` : "";
    };
    field.addEventListener("input", seek);
    seek();
  });

  // --- Copying -------------------------------------------------------------------------------------------------------
  all(".copy").forEach((copy) => copy.addEventListener("click", async () => {
    const code = one("code", copy.parentElement);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  }));
}
