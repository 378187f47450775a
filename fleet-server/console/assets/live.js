// @ts-check
// Keeps the page up to date. The stream says that something changed; the page is then fetched as anybody would fetch it,
// and its parts are swapped in. Without this file everything is there, as of when it was loaded.
"use strict";
(() => {
  const PARTS = "#fleet,#rollout,#results";
  const STALE_MS = 40_000; // The server says something every 15 s.
  const RETRY_MS = 5_000;
  const REFRESH_MS = 30_000; // "12 s ago" must not stand there for long.
  const ANNOUNCE_MS = 10_000;

  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  const announce = document.getElementById("announce");
  if (!live || !pause || !announce || !window.EventSource) return;

  let paused = false;
  let fetching = false;
  let missed = false;
  let heard = Date.now();
  let fetched = Date.now();
  let announced = 0;
  let sentence = text("fleet-sentence");
  let said = sentence;
  /** @type {EventSource | undefined} */
  let stream;

  /** @param {string} id */
  function text(id) {
    return document.getElementById(id)?.textContent ?? "";
  }

  /** @param {string} state @param {string} words */
  function show(state, words) {
    if (live.dataset.state === state) return;
    live.dataset.state = state;
    live.textContent = words;
  }

  function clock() {
    return new Date(heard).toISOString().slice(11, 19);
  }

  function refresh() {
    if (paused || fetching) {
      missed = true;
      return;
    }
    fetching = true;
    missed = false;
    const done = () => {
      fetching = false;
      fetched = Date.now();
      if (missed) refresh();
    };
    // @ts-ignore: htmx is a global.
    window.htmx
      .ajax("GET", location.pathname + location.search, {
        source: "#live", target: "#live", swap: "none", selectOOB: PARTS, headers: { "Sedge-Live": "1" },
      })
      .then(done, done);
  }

  function listen() {
    stream?.close();
    stream = new EventSource("/events?since=" + encodeURIComponent(document.body.dataset.version ?? ""));
    const alive = () => {
      heard = Date.now();
      show(paused ? "paused" : "live", paused ? "Paused at " + clock() : "Live");
    };
    stream.onopen = alive;
    stream.addEventListener("beat", alive);
    stream.addEventListener("changed", (event) => {
      document.body.dataset.version = event.lastEventId;
      alive();
      refresh();
    });
  }

  // What is open stays open. Focus is kept by htmx: what can have it has an id.
  document.body.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = /** @type {CustomEvent} */ (event).detail;
    for (const open of target.querySelectorAll("details[open]")) {
      fragment.querySelector("#" + CSS.escape(open.id))?.setAttribute("open", "");
    }
  });

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    show(paused ? "paused" : "live", paused ? "Paused at " + clock() : "Live");
    if (!paused && missed) refresh();
  });

  setInterval(() => {
    const now = Date.now();
    if (now - heard > STALE_MS || stream?.readyState === EventSource.CLOSED) {
      show("stale", "No connection since " + clock());
    }
    if (stream?.readyState === EventSource.CLOSED) listen();
    if (now - fetched > REFRESH_MS) refresh();
    sentence = text("fleet-sentence");
    if (sentence !== said && now - announced > ANNOUNCE_MS) {
      said = sentence;
      announced = now;
      announce.textContent = sentence;
    }
  }, RETRY_MS);

  listen();
})();
