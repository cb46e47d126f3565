// Keys, copy, ages and live refresh. Everything works without it: links, forms and figures come from the server.
"use strict";
const one = (query, of = document) => of.querySelector(query);
const all = (query) => [...document.querySelectorAll(query)];
const pages = { o: "/ops/", c: "/ops/connections", l: "/ops/lfis", r: "/ops/runs" };
const EVERY = 10_000;
let before = "", live = true, at = -1, absolute = false, read = Date.now(), lost = false;
document.documentElement.dataset.js = "";

function move(step) {
  const rows = all("[data-row]");
  if (!rows.length) return;
  at = Math.min(Math.max(at + step, 0), rows.length - 1);
  rows[at].focus();
  rows[at].scrollIntoView({ block: "nearest" });
}

function here() { // on a narrow screen the pages stand in a line that scrolls
  const nav = one(".rail nav"), current = one(".rail [aria-current]");
  if (nav && current) nav.scrollLeft = current.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2;
}

function instants() { // ages to instants in UTC and back; the server writes both
  for (const time of all("time[data-at]")) {
    time.dataset.age ??= time.textContent;
    time.textContent = absolute ? time.dataset.at : time.dataset.age;
  }
}

function pause() {
  live = !live;
  const button = one("[data-live]");
  button.textContent = live ? button.dataset.live : button.dataset.paused;
  button.setAttribute("aria-pressed", String(!live));
}

function tell() { // how old the page is; the figures stay when the server does not answer
  const place = one("[data-read]");
  if (!place) return;
  const seconds = Math.round((Date.now() - read) / 1000);
  const age = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`;
  place.textContent = `· read ${age} ago${lost ? ", no answer since" : ""}`;
  place.classList.toggle("bad", lost);
}

async function refresh() { // never under a reader's hand: not while something inside has focus, is open or selected
  const main = one("main[data-refresh]");
  const busy = main?.contains(document.activeElement) || one("dialog[open]") || String(getSelection());
  if (!main || !live || busy || document.hidden) return;
  const answer = await fetch(location.href, { headers: { accept: "text/html", "x-refresh": "1" } }).catch(() => null);
  if (answer?.status === 401) return location.reload(); // the session has ended
  lost = !answer?.ok;
  if (lost) return tell();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = one("main", page);
  if (!fresh || main.contains(document.activeElement)) return;
  main.replaceWith(fresh);
  for (const part of [".when b", ".when .gst", ".rail nav"]) {
    const [held, came] = [one(part), one(part, page)];
    if (held && came && !held.contains(document.activeElement)) held.replaceWith(came);
  }
  document.title = page.title;
  at = -1;
  read = Date.now();
  if (absolute) instants();
  tell();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const key = event.key, first = before;
  before = key;
  if (first === "g" && pages[key]) location.href = pages[key];
  else if (key === "/") { event.preventDefault(); one("#search")?.focus(); }
  else if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
  else if (key === "t") { absolute = !absolute; instants(); }
  else if (key === "p") pause();
  else if (key === "?") one("#keys")?.showModal();
});
document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]"), open = event.target.closest("[data-open]");
  if (copy) navigator.clipboard?.writeText(copy.previousElementSibling.textContent);
  if (open) one(open.dataset.open).showModal();
  if (event.target.closest("[data-copy-ids]")) {
    const lines = all("[data-ids] tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t"));
    navigator.clipboard?.writeText(lines.join("\n"));
  }
  if (event.target.closest("[data-live]")) pause();
});
here();
setInterval(refresh, EVERY);
setInterval(tell, 1000);
