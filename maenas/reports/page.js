"use strict";
// Draws every figure in the page's colours, and again when the reader changes between light and dark.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const narrow = matchMedia("(max-width: 640px)");
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow.matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, title: { standoff: 12 } };
    return {
      data: { heatmap: [{ textfont: { color: colour("--ink") } }] },
      layout: {
        autosize: true,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11 : 13, color: colour("--ink") },
        colorway: colour("--series").split(/\s+/),
        margin: narrow.matches ? { l: 40, r: 10, t: 40, b: 40 } : { l: 56, r: 16, t: 44, b: 48 },
        xaxis: axis,
        yaxis: axis,
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
      },
    };
  }

  // Some names stand elsewhere where there is less room.
  const arranged = (trace) =>
    narrow.matches && trace.meta?.narrow ? { ...trace, textposition: trace.meta.narrow } : trace;

  function draw() {
    const look = template();
    for (const place of places) {
      const { data, layout } = figures[Number(place.dataset.figure)];
      // A plot without a legend leaves no room for one.
      const margin = layout.showlegend === false ? { ...look.layout.margin, t: 22 } : look.layout.margin;
      Plotly.react(place, data.map(arranged), { margin, ...layout, template: look }, config);
    }
  }

  draw();
  for (const button of document.querySelectorAll("[data-view]")) {
    const place = button.closest("figure").querySelector("[data-figure]");
    button.addEventListener("click", () => Plotly.relayout(place, JSON.parse(button.dataset.view)));
  }
  for (const query of [narrow, matchMedia("(prefers-color-scheme: dark)")]) query.addEventListener("change", draw);
})();
