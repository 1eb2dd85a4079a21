"use strict";
// Keeps the regions of a page fresh that say where their events come from, and ticks all boxes of a
// list at once. Every page works without.

const regions = [...document.querySelectorAll("[data-live]")].filter(r => r.dataset.live);
const waiting = new Map(); // what came for a region that somebody is busy with
let events;

function say(text) {
  const state = document.getElementById("state");
  if (state && state.textContent !== text) state.textContent = text;
}

function busy(region) {
  const selection = getSelection();
  return region.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(region, true));
}

function show(region, html) {
  if (busy(region)) {
    waiting.set(region, html);
    return;
  }
  waiting.delete(region);
  const at = [...region.querySelectorAll(".scroll")].map(s => s.scrollLeft);
  region.innerHTML = html;
  region.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = at[i] || 0; });
}

function catchUp() {
  for (const [region, html] of waiting) show(region, html);
}

function listen() {
  events?.close();
  events = undefined;
  if (!regions.length || document.hidden) return; // a browser opens only six streams to one host
  events = new EventSource(regions[0].dataset.live);
  events.addEventListener("state", e => say(e.data));
  for (const region of regions) events.addEventListener(region.id, e => show(region, e.data));
  events.onerror = () => {
    say("reconnecting");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 10000); // it was refused
  };
}

document.addEventListener("focusout", () => setTimeout(catchUp));
document.addEventListener("selectionchange", catchUp);
document.addEventListener("visibilitychange", listen);
listen();

for (const all of document.querySelectorAll("[data-ticks]")) {
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of document.getElementsByName(all.dataset.ticks)) box.checked = all.checked;
  });
}
