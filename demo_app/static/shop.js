// Keeps the list of servers up to date and says when another server has taken over.
// The page works without it.
"use strict";

const EVERY = 1000; // milliseconds between two questions
const page = document.body.dataset;

function show(server) {
  const row = document.querySelector(`[data-server="${CSS.escape(server.name)}"]`);
  if (!row || row.dataset.state === server.state) return;
  row.dataset.state = server.state;
  row.querySelector(".state").textContent = server.state;
}

async function ask() {
  if (document.hidden) return;
  const answer = await fetch(`${page.control}/servers`);
  const { servers } = await answer.json();
  servers.forEach(show);
}

function sayWhoTookOver() {
  const before = sessionStorage.getItem("served");
  if (before && page.served && before !== page.served) {
    const words = document.getElementById("moved");
    words.textContent = `${before} served you before, now ${page.served} does. Your cart came along.`;
    words.hidden = false;
  }
  if (page.served) sessionStorage.setItem("served", page.served);
}

sayWhoTookOver();
if (page.control) setInterval(() => ask().catch(() => {}), EVERY);
