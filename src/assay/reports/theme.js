"use strict";
// What Vega-Lite charts look like: the page's colours, light or dark.
function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const font = getComputedStyle(document.body).fontFamily;
  const axis = {
    labelColor: color("quiet"), titleColor: color("quiet"), gridColor: color("line"), domainColor: color("line"),
    tickColor: color("line"), labelFont: font, titleFont: font, titleFontWeight: 400, titleFontSize: 12, labelFontSize: 11,
    gridOpacity: 0.6,
  };
  return {
    background: "transparent",
    view: { stroke: "transparent" },
    font,
    axis,
    legend: {
      orient: "top", labelColor: color("quiet"), titleColor: color("quiet"), labelFont: font, titleFont: font,
      titleFontWeight: 400, titleFontSize: 12, symbolFillColor: color("quiet"), symbolStrokeColor: "transparent",
    },
    mark: { color: color("right") },
    bar: { color: color("right") },
    line: { color: color("right") },
    rule: { color: color("ink") },
    point: { color: color("right") },
    text: { color: color("ink"), font },
    style: {
      chosen: { color: color("ring"), stroke: color("ring") },
      guide: { color: color("quiet"), stroke: color("quiet"), opacity: 0.7 },
      muted: { color: color("quiet"), stroke: color("quiet"), opacity: 0.35 },
      range: { color: color("right"), fill: color("right"), opacity: 0.18 },
      effect: { color: color("ink"), fill: color("ink"), stroke: color("ink"), strokeWidth: 2 },
    },
    range: {
      category: [color("right"), color("wrong")],
      ordinal: [color("wrong"), color("right"), color("quiet")],
      ramp: [color("ramp-1"), color("ramp-2"), color("ramp-3"), color("ramp-4")],
      heatmap: [color("minus"), color("zero"), color("plus")],
      diverging: [color("minus"), color("zero"), color("plus")],
    },
    selection: { interval: { mark: { fill: color("accent"), fillOpacity: 0.12, stroke: color("accent") } } },
  };
}
