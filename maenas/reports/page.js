"use strict";
// Draws every figure in the page's colours, and again when the reader changes between light and dark.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: matchMedia("(max-width: 640px)").matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, title: { standoff: 12 } };
    return {
      layout: {
        autosize: true,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
        colorway: colour("--series").split(/\s+/),
        margin: { l: 56, r: 16, t: 44, b: 48 },
        xaxis: axis,
        yaxis: axis,
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
      },
    };
  }

  function draw() {
    const look = template();
    for (const place of places) {
      const { data, layout } = figures[Number(place.dataset.figure)];
      Plotly.react(place, data, { ...layout, template: look }, config);
    }
  }

  draw();
  for (const button of document.querySelectorAll("[data-view]")) {
    const place = button.closest("figure").querySelector("[data-figure]");
    button.addEventListener("click", () => Plotly.relayout(place, JSON.parse(button.dataset.view)));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
