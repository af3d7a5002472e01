"""The page's looks and its one script: constants, with nothing in them that comes from data."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1d2126; --soft: #5b636d; --line: #e1e4e8; --faint: #f1f3f5;
  --grid: #e6e8eb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e6e9ec; --soft: #a0a9b3; --line: #30363d; --faint: #23282d;
    --grid: #2c3238;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main, header { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; }
main { padding-bottom: 56px; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 2px 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 52px 0 10px; }
p { margin: 0 0 12px; max-width: 75ch; }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.eyebrow { color: var(--soft); margin: 0; font-size: 0.9rem; letter-spacing: 0.02em; }
.soft, figcaption, caption, .note { color: var(--soft); font-size: 0.9rem; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 24px; }
.facts div { display: flex; gap: 8px; min-width: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.outcomes { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px; }
.outcomes li {
  background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--budget);
  border-radius: 8px; padding: 12px 16px;
}
.outcomes strong { display: block; font-weight: 600; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.scroll:focus-visible, button:focus-visible, summary:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 10px 14px; position: sticky; left: 0; }
.scroll + .soft { margin-top: 10px; max-width: 90ch; }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
thead th.wrap { white-space: normal; min-width: 5.2em; }
thead th[colspan] { text-align: center; border-left: 1px solid var(--line); }
tr > th[scope^=row], thead tr:first-child th:first-child, td.words, th.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 14em; }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--card); }
tbody tr.group th { font-weight: 600; background: var(--faint); position: static; }
tbody tr.group th span { position: sticky; left: 10px; }
tbody tr.own th, tbody tr.own td { font-weight: 600; }
td.none { color: var(--soft); }
.dot {
  display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 50%;
  background: var(--budget);
}
figure { margin: 0; }
figure .scroll { padding: 8px 4px; }
figcaption { margin-top: 8px; max-width: 90ch; }
.switch { display: flex; gap: 6px; margin: 0 0 8px; }
button {
  font: inherit; font-size: 0.88rem; color: var(--soft); background: none; border: 1px solid var(--line);
  border-radius: 999px; padding: 5px 14px; cursor: pointer;
}
button[aria-pressed=true] { color: var(--ink); background: var(--faint); border-color: var(--soft); }
details { margin: 14px 0; }
summary { cursor: pointer; margin-bottom: 8px; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr));
  gap: 20px; align-items: start;
}
.note { border-left: 3px solid var(--line); padding-left: 12px; margin: 14px 0; }
@media (max-width: 600px) {
  main, header { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 24px; }
  h2 { margin-top: 40px; }
  .outcomes li { padding: 10px 12px; }
  tbody th { min-width: 6.6em; max-width: 42vw; white-space: normal; }
}
@media print { .switch { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT = """
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // plotly.js 4 offers to upload the chart unless told not to: a report stays where it is.
  const config = {displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: ""};
  const colours = () => {
    const css = getComputedStyle(document.documentElement);
    const of = name => css.getPropertyValue(name).trim();
    return {
      "font.color": of("--ink"), "xaxis.gridcolor": of("--grid"), "yaxis.gridcolor": of("--grid"),
    };
  };
  const paint = name => Plotly.relayout(name, colours());
  for (const [name, figure] of Object.entries(figures)) {
    Plotly.newPlot(name, figure.data, figure.layout, config).then(() => paint(name));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.keys(figures).forEach(paint));

  const channels = figures.widths ? figures.widths.data.map(trace => trace.y) : [];
  const buttons = [...document.querySelectorAll(".switch button")];
  for (const button of buttons) button.addEventListener("click", () => {
    const share = button.value === "share";
    const y = channels.map(row => row.map((v, i) => share && v !== null ? v / channels[0][i] : v));
    Plotly.update("widths", {y}, {"yaxis.title.text": button.textContent, "yaxis.tickformat": share ? ".0%" : ""});
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  });
})();
"""
