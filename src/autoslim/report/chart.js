// Charts: series of points in an SVG that fits its place, with values on hover, on touch and by arrow keys.
"use strict";

const SVG = "http://www.w3.org/2000/svg"; // a name, nothing is fetched

/** A new element: `props` are attributes, listeners (functions named on...) or a text. */
function make(tag, props = {}, ...kids) {
  return fill(document.createElement(tag), props, kids);
}

function draw(tag, props = {}, ...kids) {
  return fill(document.createElementNS(SVG, tag), props, kids);
}

function fill(node, props, kids) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value);
  }
  node.append(...kids);
  return node;
}

/** Reads a text aloud to screen readers, once it has not changed for a moment. */
const speak = (() => {
  let waiting;
  return text => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { document.getElementById("live").textContent = text; }, 250);
  };
})();

// Numbers -------------------------------------------------------------------------------------------------------------

const digits = (value, count) => String(Number(value.toPrecision(count)));

function sayCount(value, count = 3) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * size) return digits(value / size, count) + unit;
  }
  return digits(value, count);
}

const sayShare = (value, places = 1) => (100 * value).toFixed(places) + "%";

function sayCost(metric, value) {
  if (value === undefined || value === null) return "not known";
  if (metric === "latency") return digits(value, 3) + " ms";
  return sayCount(value) + (metric === "peak_memory" ? "B" : "");
}

/** About `count` round numbers from `low` to `high`; on a logarithmic axis 1, 2 and 5 times the powers of ten. */
function ticksOf(low, high, count, log) {
  const ticks = [];
  if (log) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const times of [1, 2, 5]) ticks.push(times * 10 ** power);
    }
    const inside = ticks.filter(tick => tick >= low && tick <= high);
    const powers = inside.filter(tick => Math.abs(Math.log10(tick) % 1) < 1e-9);
    return inside.length > 1.6 * count && powers.length > 1 ? powers : inside;
  }
  const rough = (high - low) / count, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 2.5, 5, 10].find(times => times * size >= 0.75 * rough);
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

/** The range of some numbers with a little room; from 0, where they come near it. */
function rangeOf(values, {fromZero = false, log = false} = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) return [low / 1.15, high * 1.15];
  const room = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [fromZero && low < 0.5 * high ? 0 : low - room, high + room];
}

// Marks ---------------------------------------------------------------------------------------------------------------

const MARKS = {
  circle: r => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  diamond: r => `M0,${-1.25 * r}L${1.25 * r},0L0,${1.25 * r}L${-1.25 * r},0Z`,
  square: r => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  triangle: r => `M0,${-1.2 * r}L${1.15 * r},${0.9 * r}H${-1.15 * r}Z`,
  cross: r => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
  star: r => "M" + Array.from({length: 10}, (_, k) => {
    const far = k % 2 ? 0.58 * r : 1.4 * r, turn = Math.PI * k / 5;
    return `${(far * Math.sin(turn)).toFixed(2)},${(-far * Math.cos(turn)).toFixed(2)}`;
  }).join("L") + "Z",
};

function drawMark(series, x, y, tone = series.tone) {
  return draw("path", {
    d: MARKS[series.mark](series.size ?? 5), transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    class: `mark ${series.mark === "cross" ? "faint" : series.hollow ? "hollow" : "full"}`, style: `--tone:${tone}`,
  });
}

// The chart -----------------------------------------------------------------------------------------------------------

/**
 * A chart in `host`.
 *
 * spec.series: [{name, tone, mark, size, hollow, line, dash, points: [{x, y, text, tone?}]}], those without points are left out;
 * spec.x, spec.y: {title, say, fromZero, log}; spec.alt: the chart in words; spec.diagonal: a line where x = y.
 */
class Chart {
  constructor(host, spec) {
    this.hidden = new Set();
    this.legend = make("ul", {class: "legend", "aria-label": "Series of the chart"});
    this.svg = draw("svg", {"aria-hidden": "true"});
    this.tip = make("div", {class: "tip", hidden: ""});
    this.plot = make("div", {
      class: "plot", tabindex: "0", role: "img",
      onpointermove: event => this.hover(event), onpointerdown: event => this.hover(event),
      onpointerleave: () => this.point(null), onblur: () => this.point(null), onkeydown: event => this.walk(event),
    }, this.svg, this.tip);
    host.prepend(this.legend, this.plot);
    this.show(spec);
    new ResizeObserver(() => { if (this.plot.clientWidth !== this.width) this.render(); }).observe(this.plot);
  }

  show(spec) {
    this.spec = {...spec, series: spec.series.filter(series => series.points.length)};
    this.plot.setAttribute("aria-label", `${spec.alt} Arrow keys read the points.`);
    this.legend.replaceChildren(...this.spec.series.map(series => make("li", {}, this.switchOf(series))));
    this.render();
  }

  switchOf(series) {
    const swatch = draw("svg", {width: 22, height: 14, viewBox: "-11 -7 22 14", "aria-hidden": "true"});
    if (series.line) swatch.append(this.lineOf(series, "M-10,0H10"));
    if (series.mark) swatch.append(drawMark({...series, size: Math.min(series.size ?? 5, 4.5)}, 0, 0));
    const toggle = make("button", {
      type: "button", "aria-pressed": String(!this.hidden.has(series.name)),
      onclick: () => {
        if (!this.hidden.delete(series.name)) this.hidden.add(series.name);
        toggle.setAttribute("aria-pressed", String(!this.hidden.has(series.name)));
        this.render();
      },
    }, swatch, series.name);
    return toggle;
  }

  lineOf(series, d) {
    return draw("path", {d, class: "line", style: `--tone:${series.tone}`, "stroke-dasharray": series.dash ? "5 4" : null});
  }

  render() {
    const width = this.width = this.plot.clientWidth, height = this.spec.height ?? 380;
    this.svg.replaceChildren();
    this.places = [];
    this.at = -1;
    if (!width) return;
    const shown = this.spec.series.filter(series => !this.hidden.has(series.name));
    const points = shown.flatMap(series => series.points);
    fill(this.svg, {width, height, viewBox: `0 0 ${width} ${height}`}, []);
    if (!points.length) return;
    const axes = this.axesOf(points, width, height);
    this.frame(axes, width, height);
    if (this.spec.diagonal) this.diagonal(axes);
    for (const series of shown.filter(one => one.line)) {
      this.svg.append(this.lineOf(series, "M" + series.points.map(p => `${axes.x(p.x).toFixed(1)},${axes.y(p.y).toFixed(1)}`).join("L")));
    }
    for (const series of shown) {
      for (const point of series.points) {
        const x = axes.x(point.x), y = axes.y(point.y);
        if (series.mark) this.svg.append(drawMark(series, x, y, point.tone));
        this.places.push({x, y, text: point.text});
      }
    }
    this.places.sort((a, b) => a.x - b.x);
    this.axes = axes;
    this.ring = this.svg.appendChild(draw("circle", {r: 9, class: "ring", visibility: "hidden"}));
    this.here = this.svg.appendChild(draw("circle", {r: 8, class: "here", visibility: "hidden"}));
    this.locate(this.now);
  }

  axesOf(points, width, height) {
    const {x, y, diagonal} = this.spec;
    let rangeX = rangeOf(points.map(p => p.x), x), rangeY = rangeOf(points.map(p => p.y), y);
    if (diagonal) rangeX = rangeY = [Math.min(rangeX[0], rangeY[0]), Math.max(rangeX[1], rangeY[1])];
    const ticksY = ticksOf(...rangeY, Math.max(2, Math.floor(height / 55)), y.log);
    const longest = Math.max(...ticksY.map(tick => y.say(tick).length));
    const box = {left: 14 + 7.2 * longest, right: width - 14, top: 26, bottom: height - 44};
    const ticksX = ticksOf(...rangeX, Math.max(2, Math.floor((box.right - box.left) / 80)), x.log);
    const along = (range, from, to, log) => {
      const of = log ? Math.log : value => value;
      return value => from + (to - from) * (of(value) - of(range[0])) / (of(range[1]) - of(range[0]));
    };
    return {
      x: along(rangeX, box.left, box.right, x.log), y: along(rangeY, box.bottom, box.top, y.log),
      box, ticksX, ticksY, rangeX,
    };
  }

  frame({x, y, box, ticksX, ticksY}, width, height) {
    const write = (text, props) => this.svg.append(draw("text", {...props, text}));
    for (const tick of ticksY) {
      this.svg.append(draw("line", {class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick)}));
      write(this.spec.y.say(tick), {class: "tick", x: box.left - 8, y: y(tick) + 4, "text-anchor": "end"});
    }
    for (const tick of ticksX) {
      this.svg.append(draw("line", {class: "grid", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom}));
      write(this.spec.x.say(tick), {class: "tick", x: x(tick), y: box.bottom + 18, "text-anchor": "middle"});
    }
    write(this.spec.y.title, {class: "title", x: 2, y: 12});
    write(this.spec.x.title, {class: "title", x: box.right, y: height - 6, "text-anchor": "end"});
  }

  diagonal({x, y, rangeX: [low, high]}) {
    this.svg.append(draw("line", {class: "diagonal", x1: x(low), x2: x(high), y1: y(low), y2: y(high)}));
  }

  /** Marks the place of the slider; null takes the mark away. */
  locate(now) {
    this.now = now;
    if (!this.here) return;
    const seen = now && Number.isFinite(now.x) && now.y !== null && this.places.length;
    this.here.setAttribute("visibility", seen ? "visible" : "hidden");
    if (seen) fill(this.here, {cx: this.axes.x(now.x), cy: this.axes.y(now.y)}, []);
  }

  hover(event) {
    const box = this.plot.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 28;
    this.places.forEach((place, index) => {
      const far = Math.hypot(place.x - x, place.y - y);
      if (far < least) [best, least] = [index, far];
    });
    this.point(best);
  }

  walk(event) {
    const moves = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1};
    const count = this.places.length;
    const next = event.key === "Home" ? 0 : event.key === "End" ? count - 1 : this.at + (moves[event.key] ?? NaN);
    if (event.key === "Escape") this.point(null);
    if (Number.isNaN(next) || !count) return;
    event.preventDefault();
    this.point(Math.min(Math.max(next, 0), count - 1));
    speak(this.places[this.at].text);
  }

  point(index) {
    const place = index === null ? null : this.places[index];
    this.tip.hidden = !place;
    this.ring?.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    this.at = index;
    fill(this.ring, {cx: place.x, cy: place.y}, []);
    this.tip.textContent = place.text;
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.min(Math.max(place.x, half + 2), this.width - half - 2) - half}px`;
    const above = place.y - this.tip.offsetHeight - 14;
    this.tip.style.top = `${above > 0 ? above : place.y + 14}px`;
  }
}
