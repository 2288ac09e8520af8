// The shop's page: what a click sends, when the row had changed, and how it moved. Everything else is htmx.
(() => {
  "use strict";
  const row = document.getElementById("row");
  const delays = document.getElementById("delays");
  const used = document.getElementById("used");
  const usedDetails = document.querySelector("details.used");
  const why = document.getElementById("why");
  const user = document.body.dataset.user;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const NEWNESS_MS = 6000;
  const PRODUCT_MS = 250; // the product's page waits for the row at most so long
  let waiting = null; // the newest click: its event, its time (the browser's clock), and the row at that time
  let shownBy = ""; // the answer that showed the item which was clicked last

  const answer = () => row.querySelector(".answer");
  const cards = () => [...row.querySelectorAll(".card")];
  const newId = () => "web-" + [...crypto.getRandomValues(new Uint8Array(10))].map((b) => b.toString(16).padStart(2, "0")).join("");

  // --- the click

  document.addEventListener("click", (event) => {
    const clicked = event.target.closest("[data-click]");
    if (!clicked || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const { click: item, type = "click", request } = clicked.dataset;
    if (request) shownBy = request;
    const click = { event: newId(), start: event.timeStamp, hadChanged: false };
    waiting?.goOn?.();
    waiting = click;
    row.setAttribute("aria-busy", "true");
    send(click, new URLSearchParams({ user, item, type, event: click.event, request: shownBy }));
  }, true);

  async function send(click, body) {
    try {
      const response = await fetch("/click", { method: "POST", body, keepalive: true });
      const html = await response.text();
      if (!response.ok) throw new Error(html.slice(0, 160));
      click.used = /used;dur=([\d.]+)/.exec(response.headers.get("Server-Timing") || "")?.[1];
      if (!isOld(html)) put(html);
      else if (click.used && click === waiting && !click.hadChanged) showed(click);
      else showDelays();
    } catch (problem) {
      if (click === waiting) delays.textContent = "That click did not arrive: " + problem.message;
    }
    if (click === waiting) row.removeAttribute("aria-busy");
    click.goOn?.();
  }

  // The product's own page comes after the row: both at once would take the row's time in server and browser.
  document.body.addEventListener("htmx:confirm", (event) => {
    const click = waiting;
    if (!event.target.matches("[data-click]") || !click || click.hadChanged) return;
    event.preventDefault();
    click.goOn = () => { delete click.goOn; event.detail.issueRequest(true); };
    setTimeout(() => click.goOn?.(), PRODUCT_MS);
  });

  // --- the row: the click's own answer and the stream both bring the change; what comes second is left alone

  const TOLD = /data-newest="([^"]*)"\s+data-version="(\d+)"/;
  function isOld(html) {
    const shown = answer();
    const [, newest, version] = TOLD.exec(html) || [];
    if (!shown || shown.dataset.mode === "yesterday" || newest === undefined) return false;
    const difference = Number(version) - Number(shown.dataset.version);
    return difference < 0 || (difference === 0 && newest === shown.dataset.newest);
  }
  function put(html) {
    remember();
    htmx.swap(row, html, { swapStyle: "innerHTML" });
    changed();
  }

  let before = null; // the rank and the place of each card that is about to go
  const remember = () => {
    before = new Map(cards().map((card, rank) => [card.dataset.id, { rank, box: card.getBoundingClientRect() }]));
  };

  document.body.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (event.detail.type !== "row") return;
    event.preventDefault();
    if (answer()?.dataset.mode !== "yesterday" && !isOld(event.detail.data)) put(event.detail.data);
  });
  document.body.addEventListener("htmx:beforeSwap", (event) => { if (event.detail.target === row) remember(); });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target === row && event.detail.xhr) changed();
  });

  function changed() {
    row.removeAttribute("aria-busy");
    const shown = answer();
    if (!shown) return;
    press(shown.dataset.mode);
    move();
    // Clicks of one moment may overtake each other: then the row that used ours names another as the newest.
    if (waiting && !waiting.hadChanged && (waiting.used || shown.dataset.newest === waiting.event)) showed(waiting);
    if (usedDetails.open) showUsed();
  }

  // The row shows what the click did. Measured by a message: a frame's callback runs before the frame is drawn.
  function showed(click) {
    click.hadChanged = true;
    requestAnimationFrame(() => {
      const drawn = new MessageChannel();
      drawn.port1.onmessage = () => {
        click.ms = performance.now() - click.start;
        showDelays();
        click.goOn?.();
        navigator.sendBeacon("/measured", JSON.stringify({ event: click.event, ms: click.ms }));
        document.body.dispatchEvent(new CustomEvent("nearline:changed", { detail: click }));
      };
      drawn.port2.postMessage(null);
    });
  }

  function showDelays() {
    const click = waiting;
    if (!click || click.ms === undefined) return;
    delays.replaceChildren(
      figure(Math.round(click.ms), "from your click to this row", "delay"),
      ...(click.used ? [figure(Math.round(Number(click.used)), "until an answer used it", "delay-system")] : []),
    );
    if (click.isNew) delays.append(Object.assign(document.createElement("span"), { className: "quiet", textContent: click.isNew }));
  }
  function figure(ms, words, name) {
    const span = document.createElement("span");
    span.className = "delay " + name;
    const number = document.createElement("b");
    number.textContent = ms + " ms";
    span.append(number, " " + words);
    return span;
  }

  // --- how the row moved

  function move() {
    if (!before || before.size === 0) return;
    let fresh = 0;
    for (const [rank, card] of cards().entries()) {
      const was = before.get(card.dataset.id);
      if (was === undefined) {
        fresh += 1;
        mark(card, "new", "new");
        animate(card, [{ opacity: 0, transform: "translateY(14px) scale(.94)" }, { opacity: 1, transform: "none" }]);
      } else if (was.rank !== rank) {
        const up = was.rank - rank;
        mark(card, up > 0 ? "▲" + up : "▼" + -up, up > 0 ? "up" : "down");
        const now = card.getBoundingClientRect();
        animate(card, [{ transform: `translate(${was.box.left - now.left}px, ${was.box.top - now.top}px)` }, { transform: "none" }]);
      }
    }
    if (waiting) waiting.isNew = `${fresh} of ${cards().length} new`;
    before = null;
  }
  function mark(card, text, kind) {
    const badge = document.createElement("span");
    badge.className = "mark mark-" + kind;
    badge.textContent = text;
    card.append(badge);
    setTimeout(() => badge.remove(), NEWNESS_MS);
  }
  function animate(card, frames) {
    if (!calm.matches) card.animate(frames, { duration: 380, easing: "cubic-bezier(.2,.8,.2,1)" });
  }

  // --- as of when, which events, why

  function press(mode) {
    for (const button of document.querySelectorAll("[data-asof]")) {
      button.setAttribute("aria-pressed", String(button.dataset.asof === mode));
    }
  }
  function showUsed() {
    const newest = answer()?.dataset.newest || "";
    htmx.ajax("GET", `/used?${new URLSearchParams({ user, newest })}`, { source: used, target: used, swap: "innerHTML" });
  }
  usedDetails.addEventListener("toggle", () => { if (usedDetails.open) showUsed(); });

  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.matches?.("[data-why]")) why.showModal();
  });
  document.addEventListener("click", (event) => { if (event.target === why) why.close(); });

  // --- the stage: new content scrolls into view and gets the keyboard focus

  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id !== "stage") return;
    const heading = event.detail.target.querySelector("h2[tabindex]");
    const top = event.detail.target.getBoundingClientRect().top;
    const sticky = document.getElementById("for-you").getBoundingClientRect().bottom;
    if (top < sticky) scrollBy({ top: top - sticky - 12, behavior: "instant" });
    heading?.focus({ preventScroll: true });
  });
})();
