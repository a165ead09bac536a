"use strict";
// Draws the charts of a study.
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);

  async function draw(place) {
    const spec = specs[place.dataset.spec];
    place.drawn?.finalize();
    place.drawn = await vegaEmbed(place, structuredClone(spec), {
      mode: "vega-lite", actions: false, ast: true, config: theme(), renderer: "svg",
    });
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", spec.description);
  }

  async function drawAll() {
    for (const place of document.querySelectorAll(".chart")) await draw(place);
  }

  async function start() {
    await drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
