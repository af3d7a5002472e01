// The page: sliders that move the bars, charts of what the run left, tables that sort.
"use strict";

const {words, runs} = JSON.parse(document.getElementById("data").textContent);
const many = runs.length > 1;
const toneOf = index => `var(--c${index % 6})`;
const percent = value => digits(100 * value, 4) + "%";
const sayScore = (run, value) => run.share ? sayShare(value) : digits(value, 4);
const sayScale = runs.every(run => run.share) ? percent : value => digits(value, 4);
const same = (a, b) => a.length === b.length && a.every((value, index) => value === b[index]);
const capital = text => text === text.toLowerCase() ? text[0].toUpperCase() + text.slice(1) : text;
const places = kind => [...document.querySelectorAll(`figure.${kind}`)];

// Positions of the slider ---------------------------------------------------------------------------------------------

/** The search's steps; what was found beside them stands where its MACs belong. `budgets`: for which it was found. */
function positionsOf(run) {
  const positions = run.steps.map((step, number) => ({...step, number, budgets: []}));
  run.found.forEach((found, budget) => {
    let place = positions.find(position => same(position.widths, found.widths));
    if (!place) {
      place = {number: null, group: -1, score: found.score, costs: found.costs, widths: found.widths, budgets: []};
      const after = positions.findIndex(position => position.costs.macs < place.costs.macs);
      positions.splice(after < 0 ? positions.length : after, 0, place);
    }
    place.budgets.push(budget);
    place.score = place.score ?? found.score;
  });
  return positions;
}

function tellPosition(run, position) {
  const {number, group, from, widths, budgets} = position;
  const last = run.steps.length - 1;
  const moved = group < 0 ? "" : `: ${run.groups[group].name} from ${from} to ${widths[group]} channels`;
  const where = number === null ? "Found beside the search's path" : number === 0
    ? `Before the first of ${last} steps: the widest network` : `Step ${number} of ${last}${moved}`;
  const found = budgets.map(budget => {
    const test = run.found[budget].slim.test;
    return ` Found for ${run.found[budget].budget}${test === null ? "" : `; ${sayScore(run, test)} on test images after retraining`}.`;
  });
  return `${where}.${found.join("")}`;
}

// Slider and bars -----------------------------------------------------------------------------------------------------

class Slim {
  constructor(host, run, onMove) {
    Object.assign(this, {host, run, onMove, share: false, beside: -1, positions: positionsOf(run)});
    const last = this.positions.length - 1;
    this.range = make("input", {
      type: "range", min: 0, max: last, step: 1, value: 0, oninput: () => { this.stop(); this.move(Number(this.range.value)); },
      "aria-label": `Position on the search's path${many ? ` of ${run.name}` : ""}, from the widest network to the narrowest`,
    });
    this.facts = make("dl", {class: "dials"});
    this.told = make("p", {class: "told"});
    this.svg = draw("svg", {role: "img"});
    this.tip = make("div", {class: "tip", hidden: ""});
    this.bars = make("div", {class: "bars", onpointermove: e => this.hover(e), onpointerdown: e => this.hover(e),
      onpointerleave: () => { this.tip.hidden = true; }}, this.svg, this.tip);
    this.play = make("button", {type: "button", class: "play", text: "Play", onclick: () => this.toggle()});
    if (many) host.style.setProperty("--bar", this.toneOf());
    host.prepend(this.facts, this.tools(), this.bars,
      make("div", {class: "slide"}, this.play, make("div", {class: "track"}, this.range, this.flags(last))), this.jumps(), this.told);
    new ResizeObserver(() => { if (this.bars.clientWidth !== this.width) this.render(); }).observe(this.bars);
    const first = this.positions.findIndex(position => position.budgets.length);
    this.move(Math.max(first, 0), true);
  }

  /** The colour of a budget, or of the run where several runs share the page. */
  toneOf(budget) {
    return toneOf(many ? runs.indexOf(this.run) : budget);
  }

  tools() {
    const unit = (share, text) => make("button", {type: "button", "aria-pressed": String(share === this.share), text,
      onclick: event => {
        this.share = share;
        for (const other of event.target.parentNode.children) other.setAttribute("aria-pressed", String(other === event.target));
        this.render();
      }});
    const tools = make("div", {class: "tools"},
      make("div", {class: "switch", role: "group", "aria-label": "Unit of the bars"}, unit(false, "channels"), unit(true, "share of full width")));
    if (this.run.marks.length) {
      const choice = make("select", {onchange: () => { this.beside = Number(choice.value); this.place(); }},
        make("option", {value: -1, text: "nothing"}),
        ...this.run.marks.map((mark, index) => make("option", {value: index, text: mark.name})));
      tools.append(make("label", {}, "compare with ", choice));
    }
    return tools;
  }

  /** Coloured ticks below the slider, where a budget's network lies. */
  flags(last) {
    const flags = make("div", {class: "flags", "aria-hidden": "true"});
    this.positions.forEach((position, index) => {
      position.budgets.forEach((budget, nth) => {
        flags.append(make("span", {style: `--at:${last ? index / last : 0};--nth:${nth};--tone:${this.toneOf(budget)}`}));
      });
    });
    return flags;
  }

  jumps() {
    this.jumpers = this.run.found.map((found, budget) => make("button", {
      type: "button", style: `--tone:${this.toneOf(budget)}`,
      onclick: () => { this.stop(); this.move(this.positions.findIndex(position => position.budgets.includes(budget))); },
    }, make("span", {class: "dot"}), found.budget));
    return make("div", {class: "jumps", role: "group", "aria-label": "Go to the network of a budget"}, ...this.jumpers);
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.at === this.positions.length - 1) this.move(0);
    this.play.textContent = "Stop";
    const pause = Math.min(Math.max(6000 / this.positions.length, 60), 500);
    this.timer = setInterval(() => {
      if (this.at >= this.positions.length - 1) return this.stop();
      this.move(this.at + 1);
    }, pause);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }

  move(at, quiet = false) {
    const position = this.positions[this.at = at], {run} = this;
    const told = tellPosition(run, position);
    const kept = position.widths.reduce((a, b) => a + b, 0) / run.groups.reduce((sum, group) => sum + group.size, 0);
    this.range.value = at;
    this.range.setAttribute("aria-valuetext",
      `${told} ${sayCost("macs", position.costs.macs)} MACs, ${run.metric} ${position.score === null ? "not known" : sayScore(run, position.score)}`);
    this.told.textContent = `${told} ${sayShare(kept, 0)} of all channels are kept.`;
    this.facts.replaceChildren(...this.dials(position));
    this.jumpers.forEach((button, budget) => button.setAttribute("aria-pressed", String(position.budgets.includes(budget))));
    this.place();
    this.onMove(position);
    if (!quiet) speak(this.told.textContent);
  }

  dials({score, costs}) {
    const dial = (name, value, note) => make("div", {}, make("dt", {text: name}), make("dd", {}, value, make("small", {text: note})));
    return [
      dial(`supernet ${this.run.metric}`, score === null ? "not known" : sayScore(this.run, score), "search images"),
      ...this.run.metrics.map(metric => dial(words[metric], sayCost(metric, costs[metric]),
        costs[metric] === undefined ? "" : `${sayShare(costs[metric] / this.run.base[metric], 0)} of yours`)),
    ];
  }

  /** Draws axes, outlines and empty bars; `place` gives the bars their heights. */
  render() {
    const width = this.width = this.bars.clientWidth, {groups} = this.run;
    this.svg.replaceChildren();
    this.filled = [];
    if (!width || !groups.length) return;
    const most = this.share ? 1 : Math.max(...groups.map(group => group.size));
    const say = value => this.share ? sayShare(value, 0) : sayCount(value), ticks = ticksOf(0, most, 4);
    const left = 12 + 7.2 * Math.max(...ticks.map(tick => say(tick).length)), slot = (width - left - 4) / groups.length;
    const each = Math.ceil(13 / slot), names = groups.map(group => group.name.length > 22 ? `…${group.name.slice(-21)}` : group.name);
    const longest = 6.4 * Math.max(...names.map(name => name.length)), flat = longest < slot - 6;
    const foot = flat ? 24 : 14 + longest, height = 250 + foot;
    Object.assign(this, {slot, left, base: height - foot, scale: (height - foot - 16) / most});
    fill(this.svg, {width, height, viewBox: `0 0 ${width} ${height}`}, []);
    for (const tick of ticks) {
      const y = this.base - tick * this.scale;
      this.svg.append(draw("line", {class: "grid", x1: left, x2: width, y1: y, y2: y}),
        draw("text", {class: "tick", x: left - 6, y: y + 4, "text-anchor": "end", text: say(tick)}));
    }
    const bar = Math.max(slot * 0.78, Math.min(slot, 1.5));
    this.marked = [];
    groups.forEach((group, index) => {
      const x = left + slot * (index + 0.5) - bar / 2, whole = (this.share ? 1 : group.size) * this.scale;
      this.svg.append(draw("rect", {class: group.frozen === null ? "whole" : "whole frozen", x, y: this.base - whole, width: bar, height: whole, rx: 2}));
      const filled = draw("rect", {class: "kept", x, width: bar, y: this.base, height: 0, rx: 2});
      const mark = draw("line", {class: "beside", x1: x - 1, x2: x + bar + 1, visibility: "hidden"});
      this.filled.push(filled);
      this.marked.push(mark);
      this.svg.append(filled, mark);
      if (index % each === 0) {
        const middle = (x + bar / 2).toFixed(1);
        this.svg.append(draw("text", {class: "name", "text-anchor": flat ? "middle" : "end", text: names[index],
          transform: flat ? `translate(${middle},${this.base + 17})` : `translate(${middle},${this.base + 9}) rotate(-90) translate(0,4)`}));
      }
    });
    this.place();
  }

  place() {
    const {groups, marks} = this.run, {widths, group: moved, budgets} = this.positions[this.at ?? 0];
    const of = (index, channels) => channels * this.scale / (this.share ? groups[index].size : 1);
    const beside = marks[this.beside];
    this.svg.setAttribute("aria-label", `${this.host.dataset.alt} Now: ` + groups.map((group, index) => `${group.name} ${widths[index]} of ${group.size}`).join(", "));
    this.filled?.forEach((bar, index) => {
      const height = groups[index].frozen === null ? of(index, widths[index]) : 0;
      bar.style.setProperty("--tone", budgets.length ? this.toneOf(budgets[0]) : "var(--bar)");
      bar.classList.toggle("moved", index === moved);
      bar.setAttribute("y", this.base - height);
      bar.setAttribute("height", height);
      const mark = this.marked[index];
      mark.setAttribute("visibility", beside ? "visible" : "hidden");
      if (beside) fill(mark, {y1: this.base - of(index, beside.widths[index]), y2: this.base - of(index, beside.widths[index])}, []);
    });
  }

  hover(event) {
    const box = this.bars.getBoundingClientRect(), index = Math.floor((event.clientX - box.left - this.left) / this.slot);
    const group = this.run.groups[index];
    this.tip.hidden = !group;
    if (!group) return;
    const kept = this.positions[this.at].widths[index], beside = this.run.marks[this.beside];
    this.tip.textContent = `${group.name}: ${kept} of ${group.size} channels, ${sayShare(kept / group.size, 0)}`
      + (group.frozen === null ? "" : `; frozen: ${group.frozen}`) + (beside ? `; ${beside.name}: ${beside.widths[index]}` : "");
    const half = this.tip.offsetWidth / 2, middle = this.left + this.slot * (index + 0.5);
    this.tip.style.left = `${Math.min(Math.max(middle, half + 2), this.width - half - 2) - half}px`;
    this.tip.style.top = "0";
  }
}

// Accuracy against cost -----------------------------------------------------------------------------------------------

function tradeoffSeries(metric, share) {
  const said = (run, name, value, costs) => `${name}: ${sayScore(run, value)} at ${sayCost(metric, costs[metric])}${metric === "latency" ? "" : ` ${words[metric]}`}`;
  const has = costs => costs[metric] !== undefined;
  return runs.flatMap((run, index) => {
    const point = (name, y, costs) => ({x: costs[metric] / (share ? run.base[metric] : 1), y, text: said(run, name, y, costs)});
    const head = many ? `${run.name}: ` : "", tone = many ? toneOf(index) : "var(--path)";
    const small = run.steps.map((step, number) => ({...step, number})).filter(step => step.score !== null && has(step.costs));
    const known = network => network && network.test !== null && has(network.costs);
    const retrained = (kind, name) => run.found.flatMap((found, budget) => known(found[kind])
      ? [{...point(`${head}${name}, ${found.budget}`, found[kind].test, found[kind].costs), tone: many ? tone : toneOf(budget)}] : []);
    const own = many ? tone : "var(--own)";
    return [
      {name: `${head}also scored`, tone: "var(--path)", mark: "cross", size: 2.5,
        points: run.scored.filter(one => has(one.costs)).map(one => point(`${head}scored in the supernet`, one.score, one.costs))},
      {name: `${head}steps of the search`, tone, mark: "circle", size: 3, line: run.path,
        points: small.map(step => point(`${head}step ${step.number}`, step.score, step.costs))},
      {name: `${head}searched again`, tone: many ? tone : "var(--ink)", mark: "triangle", size: 5, hollow: true,
        points: run.again.filter(one => has(one.costs)).map(one => point(head + one.name, one.score, one.costs))},
      {name: `${head}AutoSlim`, tone: own, mark: "circle", size: 7, points: retrained("slim", "AutoSlim")},
      {name: `${head}uniform`, tone: own, mark: "diamond", size: 7, hollow: true, points: retrained("uniform", "uniform")},
      {name: `${head}your network`, tone: own, mark: "star", size: 7,
        points: known(run.own) ? [point(`${head}your network`, run.own.test, run.own.costs)] : []},
    ];
  });
}

function drawTradeoff(host) {
  const metrics = Object.keys(words).filter(metric => runs.some(run => run.metrics.includes(metric)));
  let now = null, metric = metrics[0], share = many;
  const unit = () => share ? ", share of your network's" : metric === "latency" ? ", milliseconds" : "";
  const say = value => share ? percent(value) : metric === "latency" ? digits(value, 3) : sayCost(metric, value);
  const spec = () => ({
    alt: host.dataset.alt, height: 400, series: tradeoffSeries(metric, share),
    x: {title: words[metric] + unit(), say, fromZero: true},
    y: {title: new Set(runs.map(run => run.metric)).size > 1 ? "score" : runs[0].metric, say: sayScale},
  });
  const chart = new Chart(host, spec());
  const locate = () => chart.locate(now && {x: now.costs[metric] / (share ? runs[0].base[metric] : 1), y: now.score});
  const buttons = metrics.map(name => make("button", {
    type: "button", "aria-pressed": String(name === metric), text: words[name],
    onclick: () => {
      metric = name;
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(metrics[index] === metric)));
      chart.show(spec());
      locate();
    },
  }));
  const relative = make("input", {type: "checkbox", onchange: () => { share = relative.checked; chart.show(spec()); locate(); }});
  relative.checked = share;
  host.prepend(make("div", {class: "tools"},
    make("div", {class: "switch", role: "group", "aria-label": "Cost on the horizontal axis"}, ...buttons),
    make("label", {}, relative, " as a share of your network's")));
  return position => { now = position; locate(); };
}

// Training, latency, trust --------------------------------------------------------------------------------------------

function drawTraining(host, run) {
  const series = curves => curves.map(({name, kind, budget, losses}) => ({
    name, line: true, dash: kind === "uniform", mark: losses.length < 40 ? "circle" : null, size: 2.5,
    tone: kind === "supernet" ? "var(--bar)" : kind === "base" ? "var(--own)" : toneOf(budget),
    points: losses.map((loss, epoch) => ({x: epoch + 1, y: loss, text: `${name}, epoch ${epoch + 1}: loss ${loss === null ? "not finite" : digits(loss, 4)}`}))
      .filter(point => point.y !== null),
  }));
  const alone = run.curves.filter(curve => curve.kind !== "supernet"), supernet = run.curves.filter(curve => curve.kind === "supernet");
  const parts = [["loss of the supernet", supernet], ["loss of the networks", alone]].filter(([, curves]) => curves.length);
  const grid = make("div", {class: "pair"});
  host.prepend(grid);
  for (const [title, curves] of parts) {
    const place = grid.appendChild(make("div")), losses = curves.flatMap(curve => curve.losses).filter(loss => loss !== null);
    const log = Math.min(...losses) > 0 && Math.max(...losses) > 8 * Math.min(...losses);
    new Chart(place, {
      alt: `${capital(title)} by epoch. ${host.dataset.alt}`, height: 300, series: series(curves),
      x: {title: "epoch", say: value => Number.isInteger(value) && value > 0 ? String(value) : ""},
      y: {title: title + (log ? ", logarithmic" : ""), say: value => digits(value, 3), log},
    });
  }
}

function drawLatency(host, run) {
  const text = (name, x, y) => `${name}: predicted ${digits(x, 3)} ms, measured ${digits(y, 3)} ms`;
  const found = run.latency.found.map(({name, budget, predicted, measured}) => {
    return {name, tone: budget === null ? "var(--own)" : toneOf(budget), mark: "circle", size: 7,
      points: [{x: predicted, y: measured, text: text(name, predicted, measured)}]};
  });
  new Chart(host, {
    alt: host.dataset.alt, diagonal: true, height: 380,
    series: [{name: "measured networks", tone: "var(--path)", mark: "circle", size: 4, hollow: true,
      points: run.latency.pairs.map(([x, y]) => ({x, y, text: text("network", x, y)}))},
      ...new Map(found.map(series => [series.name, {...series, points: found.filter(one => one.name === series.name).flatMap(one => one.points)}])).values()],
    x: {title: "predicted, ms", say: value => digits(value, 4)}, y: {title: "measured, ms", say: value => digits(value, 4)},
  });
}

function drawTrust(host, run) {
  const {edges, points} = run.trust, marks = ["circle", "triangle", "square", "diamond"];
  new Chart(host, {
    alt: host.dataset.alt, height: 380,
    series: edges.slice(1).map((high, stratum) => ({
      name: `${sayCount(edges[stratum])} to ${sayCount(high)} MACs`, tone: toneOf([4, 0, 2, 3][stratum % 4]), mark: marks[stratum % 4], size: 6,
      points: points.filter(point => point.stratum === stratum).map(point => ({
        x: point.supernet, y: point.alone,
        text: `${sayCount(point.macs)} MACs: ${sayScore(run, point.supernet)} in the supernet, ${sayScore(run, point.alone)} alone`,
      })),
    })),
    x: {title: "in the supernet", say: sayScale}, y: {title: "trained alone", say: sayScale},
  });
}

// All of it -----------------------------------------------------------------------------------------------------------

const follow = places("tradeoff").map(drawTradeoff);
for (const host of places("slim")) new Slim(host, runs[host.dataset.run], position => { if (!many) follow.forEach(move => move(position)); });
for (const host of places("training")) drawTraining(host, runs[host.dataset.run]);
for (const host of places("latency")) drawLatency(host, runs[host.dataset.run]);
for (const host of places("trust")) drawTrust(host, runs[host.dataset.run]);
