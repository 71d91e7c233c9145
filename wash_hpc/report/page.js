"use strict";
// Draws a figure when it comes near the window, all of them before printing, and keeps what is hidden the same in all.
const figures = new Map(JSON.parse(document.getElementById("figures").textContent).map(figure => [figure.key, figure]));
const hidden = new Set();
const drawn = new Set();
const config = {responsive: true, displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]};
const visibility = figure => figure.data.map(trace => !trace.keys.some(key => hidden.has(key)));

function draw(figure) {
  if (drawn.has(figure.key)) return;
  drawn.add(figure.key);
  for (const trace of figure.data)
    if (trace.names) trace.text = trace.names.flatMap(([name, count]) => Array(count).fill(name));
  const seen = visibility(figure);
  const place = document.getElementById(figure.key);
  Plotly.newPlot(place, figure.data.map((trace, number) => ({...trace, visible: seen[number]})), figure.layout, config)
    .then(() => { place.dataset.drawn = "yes"; });
}

function showAll() {
  for (const box of document.querySelectorAll(".legend input")) box.checked = !hidden.has(box.value);
  for (const key of drawn) Plotly.restyle(key, {visible: visibility(figures.get(key))});
}

document.addEventListener("change", event => {
  if (!event.target.matches(".legend input")) return;
  if (event.target.checked) hidden.delete(event.target.value); else hidden.add(event.target.value);
  showAll();
});
document.addEventListener("click", event => {
  if (!event.target.matches("button.reset")) return;
  hidden.clear();
  showAll();
  for (const key of drawn) Plotly.relayout(key, Object.fromEntries(["xaxis", "yaxis"].map(name => {
    const axis = figures.get(key).layout[name];
    return axis.range ? [name + ".range", [...axis.range]] : [name + ".autorange", axis.autorange || true];
  })));
});

// With the keyboard: on a figure that has the focus, left and right go from point to point and say its numbers.
document.addEventListener("keydown", event => {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!step || !event.target.matches(".plot") || !drawn.has(event.target.id)) return;
  const place = event.target;
  const curve = place.data.findIndex(trace => trace.visible !== false && trace.type === "scatter");
  if (curve < 0) return;
  event.preventDefault();
  const count = place.data[curve].x.length;
  place.point = Math.min(count - 1, Math.max(0, (place.point ?? (step > 0 ? -1 : count)) + step));
  Plotly.Fx.hover(place, [{curveNumber: curve, pointNumber: place.point}]);
  const {x, y, text} = place.data[curve], at = place.point;
  document.getElementById("said").textContent =
    y[at] == null ? "no number" : `${text?.[at] ?? ""}, ${figures.get(place.id).layout.xaxis.title.text} ${x[at]}: ${y[at]}`;
});

const near = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(figures.get(entry.target.id)); }
}, {rootMargin: "200px"});
for (const key of figures.keys()) near.observe(document.getElementById(key));

// On paper a figure is as wide as the page, which the window that it was drawn for need not be.
const PAPER_WIDTH = 690;
addEventListener("beforeprint", () => {
  for (const figure of figures.values()) draw(figure);
  for (const key of drawn) Plotly.relayout(key, {width: PAPER_WIDTH});
});
addEventListener("afterprint", () => { for (const key of drawn) Plotly.relayout(key, {width: null, autosize: true}); });
