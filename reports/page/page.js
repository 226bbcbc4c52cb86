// The page's behaviour. One state, kept in the address; every view is drawn from it by `update`.
// The data stands as columns in #data; plotly is unpacked after the first paint and may be late.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { trials, metrics, figures } = data;
  const all = trials.number.map((_, i) => i);
  const names = Object.keys(metrics);
  const places = new Map(trials.number.map((number, i) => [number, i]));
  const Z95 = 1.959964; // standard errors on either side that hold 95 %
  const [baseline, recommended] = [data.baseline, data.recommended].map((number) => places.get(number));

  const value = (name, i) => figures[name].value[i];
  const shown = (name, i) => (value(name, i) === null ? null : value(name, i) / metrics[name].size);
  const half = (name, i) => (Z95 * (figures[name].stderr[i] ?? 0)) / metrics[name].size;
  const source = (name, i) => data.sources[figures[name].source[i]] ?? "";
  const note = (name, i) => data.texts[figures[name].note[i]] ?? "not taken for this trial";
  const loss = (name, i) => value(name, i) * metrics[name].sign;
  const titled = (name) => data.titles[name] ?? name.replaceAll("_", " ");
  const tail = (name) => (metrics[name].label ? ` ${metrics[name].label}` : "");

  const withUnit = (name) => metrics[name].title + (metrics[name].label ? ` (${metrics[name].label})` : "");
  const inWords = (name, i) => (value(name, i) === null ? "–" : told(name, shown(name, i), half(name, i)));
  const told = (name, number, width) => significant(number) + spreadOf(number, width) + tail(name);

  // ---------------------------------------------------------------- state
  const first = data.objectives.find((name) => metrics[name].resource !== "quality") ?? data.objectives[0] ?? names[0];
  const others = [...data.objectives, ...names].filter((name) => name !== first);
  const initial = {
    x: first, y: others.find((name) => metrics[name].resource === "quality") ?? others[0] ?? first, lx: metrics[first]?.wide ? "1" : "", ly: "", o: data.objectives.join(","), s: String(data.recommended ?? data.baseline ?? ""),
    q: "", f: "", a: "", k: "objectives", by: "", d: "1", b: "",
  };
  initial.c = data.objectives.find((name) => name !== initial.x && name !== initial.y) ?? "";
  const state = { ...initial, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  for (const axis of ["x", "y"]) if (!metrics[state[axis]]) state[axis] = initial[axis];
  if (!metrics[state.c]) state.c = "";
  if (!state.o.split(",").some((name) => metrics[name])) state.o = initial.o;
  // axis key -> [low, high] as places on that axis, 0 to 1; in the address as key|low|high;...
  const filters = new Map(state.b.split(";").filter(Boolean).map((part) => part.split("|")).map(([key, ...range]) => [key, range.map(Number)]).filter(([, range]) => range.length === 2 && range.every(Number.isFinite)));
  let rows = 200;
  const chosen = () => state.o.split(",").filter((name) => metrics[name]);
  const selected = () => places.get(Number(state.s || NaN));

  /** Changes the state, remembers it in the address, and draws what depends on it. */
  function set(changes, draw = update) {
    Object.assign(state, changes);
    const changed = Object.entries(state).filter(([key, text]) => text !== initial[key]);
    history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
    draw();
  }

  const select = (i) => i !== undefined && set({ s: String(trials.number[i]) }, drawSelection);
  // ---------------------------------------------------------------- the front
  const kept = (i) => axes.every((axis) => {
    const range = filters.get(axis.key);
    const place = range && axis.place(i);
    return !range || (place !== null && place >= range[0] && place <= range[1]);
  });
  const measured = new Set(names.filter((name) => all.some((i) => trials.state[i] === "final" && !trials.broken[i].length && source(name, i) === "measured")));
  // a modelled figure is not ranked beside measured ones
  const comparable = (name, i) => value(name, i) !== null && !(measured.has(name) && source(name, i) === "modelled");
  const judged = (i, objectives) => trials.state[i] === "final" && !trials.broken[i].length && objectives.every((name) => comparable(name, i));

  /** Trials that no other trial dominates; equal ones stay together. */
  function frontOf(candidates, objectives) {
    const losses = new Map(candidates.map((i) => [i, objectives.map((name) => loss(name, i))]));
    // In lexicographic order no row is dominated by a later one, so the front so far is enough.
    const order = [...candidates].sort((a, b) => {
      const [p, q] = [losses.get(a), losses.get(b)];
      const j = p.findIndex((number, k) => number !== q[k]);
      return j < 0 ? 0 : p[j] - q[j];
    });
    const front = [];
    for (const i of order) {
      const mine = losses.get(i);
      const beaten = front.some((f) => {
        const theirs = losses.get(f);
        return theirs.every((number, k) => number <= mine[k]) && theirs.some((number, k) => number < mine[k]);
      });
      if (!beaten) front.push(i);
    }
    return front;
  }

  /** The smallest sum of objectives, each scaled to [0, 1] over the front (Das 1999). */
  function kneeOf(all, objectives) {
    const front = all.filter((i) => i !== baseline); // no choice to be made
    if (front.length < 3) return undefined;
    const sums = new Map(front.map((i) => [i, 0]));
    for (const name of objectives) {
      const column = front.map((i) => loss(name, i));
      const [low, high] = [Math.min(...column), Math.max(...column)];
      front.forEach((i, k) => sums.set(i, sums.get(i) + (column[k] - low) / (high > low ? high - low : 1)));
    }
    return [...front].sort((a, b) => sums.get(a) - sums.get(b) || a - b)[0];
  }

  let front = [], onFront = new Set(), knee;
  function recompute() {
    const objectives = chosen();
    front = objectives.length ? frontOf(all.filter((i) => judged(i, objectives) && kept(i)), objectives) : [];
    knee = kneeOf(front, objectives);
    onFront = new Set(front);
  }

  const alongX = (rows) => rows.filter((i) => value(state.x, i) !== null).sort((a, b) => value(state.x, a) - value(state.x, b));

  function walk(step) {
    const [path, at] = [alongX(front), alongX(front).indexOf(selected())];
    select(path[at < 0 ? 0 : Math.min(path.length - 1, Math.max(0, at + step))]);
  }

  // ---------------------------------------------------------------- the front plot
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const scale = () => (dark.matches
    ? [[0, "#7cb8ff"], [0.5, "#3cc9a7"], [1, "#f0e442"]]
    : [[0, "#14417b"], [0.5, "#0d8a86"], [1, "#a5b52c"]]);
  const config = {
    displaylogo: false,
    responsive: true,
    // a list of what is wanted: newer buttons (sharing a chart uploads it) never appear by themselves
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  };

  function hover(i) {
    const lines = [...new Set([state.x, state.y, ...chosen()])].map(
      (name) => `${plain(metrics[name].title)}  <b>${inWords(name, i)}</b>${source(name, i) === "modelled" ? " (modelled)" : ""}`);
    return [`<b>Trial ${trials.number[i]}</b>  ${plain(trials.short[i])}`, ...lines].join("<br>");
  }

  function points(name, rows, marker, extra = {}) {
    return {
      type: "scatter", mode: "markers", name,
      x: rows.map((i) => shown(state.x, i)), y: rows.map((i) => shown(state.y, i)), customdata: rows,
      hovertext: rows.map(hover), hoverinfo: "text", marker, ...extra,
    };
  }

  const bars = (name, rows) => ({ type: "data", array: rows.map((i) => half(name, i)), thickness: 1, width: 0, color: colour("line-strong") });

  /** The steps of the front of the two shown metrics alone. */
  function staircase(rows) {
    const path = alongX(frontOf(rows, [state.x, state.y]));
    const shape = metrics[state.x].sign > 0 ? "hv" : "vh";
    return {
      type: "scatter", mode: "lines", name: "front of these two alone", hoverinfo: "skip",
      x: path.map((i) => shown(state.x, i)), y: path.map((i) => shown(state.y, i)),
      line: { color: colour("blue"), width: 1.5, dash: "dot", shape },
    };
  }

  function frontTrace(rows) {
    const modelled = (i) => source(state.x, i) === "modelled" || source(state.y, i) === "modelled";
    const third = state.c && {
      color: rows.map((i) => shown(state.c, i)), colorscale: scale(), showscale: true,
      colorbar: { title: { text: plain(withUnit(state.c)), side: "right", font: { size: 13 } }, thickness: 8, outlinewidth: 0, len: 0.9 },
    };
    const marker = { size: 11, color: colour("blue"), symbol: rows.map((i) => (modelled(i) ? "circle-open" : "circle")), ...third };
    // hollow points take their colour from the marker, only full ones have an edge
    const line = { width: rows.map((i) => (modelled(i) ? 2 : 1)), color: colour("surface") };
    return points("on the front", rows, { ...marker, line }, { error_x: bars(state.x, rows), error_y: bars(state.y, rows) });
  }

  function marks(rows) {
    // the text stands on the side where there is room
    const xs = rows.map((i) => shown(state.x, i));
    const middle = (Math.min(...xs) + Math.max(...xs)) / 2;
    const side = (i) => (shown(state.x, i) < middle ? "right" : "left");
    const label = (i, text, symbol, name, level) => i !== undefined && rows.includes(i)
      ? points(text, [i], { symbol, size: 15, color: colour(name), line: { color: colour("surface"), width: 1.5 } },
        { mode: "markers+text", text: [text], textposition: `${level} ${side(i)}`, cliponaxis: false, textfont: { color: colour("ink") } })
      : null;
    const start = [state.x, state.y].map((name) => (data.reference?.[name] === undefined ? null : data.reference[name] / metrics[name].size));
    const cross = {
      type: "scatter", mode: "markers", hovertext: ["reference point of the hypervolume"], hoverinfo: "text", x: [start[0]], y: [start[1]],
      marker: { symbol: "cross-thin", size: 10, line: { width: 1.5, color: colour("muted") } },
    };
    return [
      points("knee", rows.filter((i) => i === knee), { symbol: "square-open", size: 18, color: colour("purple"), line: { width: 2 } }),
      label(baseline, "baseline", "diamond", "vermillion", "top"),
      label(recommended, "recommended", "star", "green", "bottom"),
      cross,
    ].filter(Boolean);
  }

  function chosenRing() {
    const i = selected();
    return points("selected", i === undefined ? [] : [i], { symbol: "circle-open", size: 22, color: colour("orange"), line: { width: 2.5 } });
  }

  function limitLines() {
    return data.limits.filter((limit) => [state.x, state.y].includes(limit.metric)).map((limit) => {
      const across = limit.metric === state.x;
      const at = limit.bound / metrics[limit.metric].size;
      const ends = across ? { x0: at, x1: at, yref: "paper", y0: 0, y1: 1 } : { y0: at, y1: at, xref: "paper", x0: 0, x1: 1 };
      return {
        type: "line", ...ends, line: { color: colour("vermillion"), width: 1, dash: "dash" },
        label: { text: plain(limit.text), textposition: "end", font: { size: 11, color: colour("muted") }, yanchor: "bottom" },
      };
    });
  }

  function axis(name, log) {
    const better = metrics[name].sign > 0 ? "lower is better" : "higher is better";
    const modelled = front.some((i) => source(name, i) === "modelled") ? ", modelled" : "";
    return {
      title: { text: plain(`${withUnit(name)}${modelled}, ${better}`), standoff: 10, font: { size: 13 } }, type: log ? "log" : "linear",
      gridcolor: colour("line"), zeroline: false, linecolor: colour("line-strong"), automargin: true,
      ticks: "outside", tickcolor: colour("line-strong"), ...(log ? { dtick: "D2", tickformat: "~r" } : {}),
    };
  }

  const layout = (changes) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
    margin: { l: 72, r: 24, t: 24, b: 64 }, autosize: true, dragmode: innerWidth < 700 ? false : "zoom", // a finger scrolls
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("ink") },
    hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line-strong"), font: { color: colour("ink"), family: "inherit" }, align: "left" },
    ...changes,
  });

  /** Says what a drawing shows to those who do not see it. */
  const describe = (node, text) => ["role", "aria-label"].forEach((name, k) => node.querySelector("svg.main-svg").setAttribute(name, ["img", text][k]));

  function drawPlot() {
    if (!window.Plotly || !names.length) return;
    const there = all.filter((i) => trials.state[i] === "final" && kept(i) && value(state.x, i) !== null && value(state.y, i) !== null);
    const within = there.filter((i) => !trials.broken[i].length);
    const traces = [
      points("beyond a limit", there.filter((i) => trials.broken[i].length), { symbol: "x-thin", size: 7, line: { width: 1.2, color: colour("faint") } }),
      points("beaten", within.filter((i) => !onFront.has(i)), { size: 7, color: colour("faint"), opacity: 0.7 }),
      staircase(within), frontTrace(there.filter((i) => onFront.has(i))), ...marks(there), chosenRing(),
    ];
    const shape = { xaxis: axis(state.x, state.lx), yaxis: axis(state.y, state.ly), shapes: limitLines(), height: innerWidth < 700 ? 380 : 520 };
    window.Plotly.react($("plot"), traces, layout(shape), config).then(() => {
      $("plot").removeAllListeners("plotly_click");
      $("plot").on("plotly_click", (event) => select(event.points[0].customdata));
      describe($("plot"), `${metrics[state.y].title} against ${metrics[state.x].title} of ${there.length} trials; ${front.length} on the front. The table below holds the same figures.`);
    });
  }

  function drawGrowth() {
    const { trials: counts, seconds: times, share, reason } = data.growth;
    if (reason) return;
    const long = times[times.length - 1] > 7200;
    const plots = [["by-trials", counts, "trials judged"], ["by-seconds", times.map((s) => s / (long ? 3600 : 60)), long ? "hours" : "minutes"]];
    for (const [id, x, text] of plots.filter(([, x]) => x.length)) {
      const line = { type: "scatter", mode: "lines", x, y: share, line: { shape: "hv", color: colour("blue"), width: 2 }, hovertemplate: "%{y:.3f} at %{x:.3s}<extra></extra>" };
      const plain = { gridcolor: colour("line"), zeroline: false, rangemode: "tozero" };
      window.Plotly.react($(id), [line], layout({
        height: 240, xaxis: { ...plain, title: { text, font: { size: 13 } } }, yaxis: { ...plain, title: { text: "hypervolume", font: { size: 13 } } },
      }), { ...config, displayModeBar: false }).then(() => describe($(id), `Hypervolume over ${text}, ${significant(share[share.length - 1])} at the end.`));
    }
  }

  // ---------------------------------------------------------------- lines over choices and figures
  function choiceAxis(slot) {
    const names = all.map((i) => titled(trials.configuration[i][slot]?.method ?? "as it is"));
    const options = [...new Set(names)].sort();
    const at = (k) => (options.length > 1 ? k / (options.length - 1) : 0.5);
    return { key: slot, title: titled(slot), options, place: (i) => at(options.indexOf(names[i])), ticks: options.map((text, k) => [text, at(k)]) };
  }

  function numberAxis(key, title, read, show, flip) {
    const numbers = all.map(read).filter((number) => typeof number === "number");
    const [low, high] = [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))];
    const log = low > 0 && high / low > 8;
    const f = log ? Math.log : (number) => number;
    const place = (i) => {
      const number = read(i);
      if (typeof number !== "number") return null;
      const at = high > low ? (f(number) - f(low)) / (f(high) - f(low)) : 0.5;
      return flip ? 1 - at : at;
    };
    const middle = log ? Math.sqrt(low * high) : (low + high) / 2;
    const ticks = [[show(low), flip ? 1 : 0], [show(middle), 0.5], [show(high), flip ? 0 : 1]];
    return { key, title, place, ticks: high > low ? ticks : [ticks[1]] };
  }

  function makeAxes() {
    const slots = [...new Set(all.flatMap((i) => Object.keys(trials.configuration[i])))];
    const choices = slots.map(choiceAxis).filter((axis) => axis.options.length > 1);
    const read = ([slot, knob]) => (i) => trials.configuration[i][slot]?.[knob];
    const numeric = (path) => all.map(read(path)).filter((number) => typeof number === "number");
    const knobs = slots.flatMap((slot) => [...new Set(all.flatMap((i) => Object.keys(trials.configuration[i][slot] ?? {})))].map((knob) => [slot, knob]));
    const varied = knobs.filter((path) => new Set(numeric(path)).size > 1).sort((a, b) => numeric(b).length - numeric(a).length)
      .map((path) => ({ ...numberAxis(path.join("."), titled(path[1]), read(path), (number) => significant(number, 2)), slot: titled(path[0]) }));
    const goals = data.objectives.map((name) =>
      // the better end is up, whatever the direction
      numberAxis(name, metrics[name].title, (i) => value(name, i), (v) => significant(v / metrics[name].size) + tail(name), metrics[name].sign > 0));
    return [...choices, ...varied.slice(0, Math.max(0, 10 - choices.length - goals.length)), ...goals];
  }
  const axes = makeAxes();

  const canvas = { width: Math.max(760, axes.length * 128), height: 340, top: 46, bottom: 318 };
  const across = (k) => 80 + (k * (canvas.width - 160)) / Math.max(1, axes.length - 1);
  const down = (place) => canvas.bottom - place * (canvas.bottom - canvas.top);

  function lineOf(i) {
    const places = axes.map((axis, k) => [k, axis.place(i)]).filter(([, place]) => place !== null);
    return `M${places.map(([k, place]) => `${across(k).toFixed(1)},${down(place).toFixed(1)}`).join("L")}`;
  }

  function drawLines() {
    const front = [...onFront];
    const others = state.a ? all.filter((i) => trials.state[i] === "final" && kept(i) && !onFront.has(i)) : [];
    const path = (i, kind) => el("path", { d: lineOf(i), class: kind, onclick: () => select(i) }, el("title", {}, `Trial ${trials.number[i]}: ${trials.short[i]}`));
    const drawing = el("svg", {
      viewBox: `0 0 ${canvas.width} ${canvas.height}`, role: "img", style: `min-width:${Math.min(canvas.width, axes.length * 96)}px`,
      "aria-label": `Parallel coordinates of ${front.length + others.length} trials over ${axes.map((axis) => axis.title).join(", ")}.`,
    }, others.map((i) => path(i, "other")), front.map((i) => path(i, "front")), el("g", { id: "line-selected" }), axes.map(drawAxis));
    $("lines").replaceChildren(drawing);
    $("clear").hidden = !filters.size;
  }

  function drawAxis(axis, k) {
    const x = across(k);
    const group = el("g", { class: "axis" },
      el("text", { x, y: 14, class: "axis-slot", "text-anchor": "middle" }, axis.slot ?? ""),
      el("text", { x, y: 30, class: "axis-title", "text-anchor": "middle" }, axis.title),
      el("line", { x1: x, x2: x, y1: canvas.top, y2: canvas.bottom }),
      axis.ticks.map(([text, place]) => el("text", { x: x + 7, y: down(place) + 4, class: "tick" }, text)));
    const range = filters.get(axis.key);
    if (range) group.append(el("rect", { x: x - 6, width: 12, y: down(range[1]), height: Math.max(2, down(range[0]) - down(range[1])), class: "brush" }));
    group.append(el("rect", { x: x - 14, width: 28, y: canvas.top - 8, height: canvas.bottom - canvas.top + 16, class: "grip", onpointerdown: (event) => brush(event, axis), ondblclick: () => narrow(axis.key) }));
    return group;
  }

  /** Keeps what lies in a range of an axis; without a range, everything. */
  function narrow(key, range) {
    if (range) filters.set(key, range);
    else filters.delete(key);
    set({ b: [...filters].map(([name, [low, high]]) => `${name}|${low.toFixed(4)}|${high.toFixed(4)}`).join(";") });
  }

  function brush(event, axis) {
    const box = $("lines").firstChild;
    const place = (e) => {
      const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(box.getScreenCTM().inverse());
      return (canvas.bottom - at.y) / (canvas.bottom - canvas.top);
    };
    const from = place(event);
    let to = from;
    const move = (e) => { to = place(e); };
    const end = () => {
      removeEventListener("pointermove", move);
      if (Math.abs(to - from) < 0.02) return; // a click
      narrow(axis.key, [Math.min(from, to), Math.max(from, to)]);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end, { once: true });
    event.preventDefault();
  }

  // ---------------------------------------------------------------- the table
  const label = (i) => {
    if (i === baseline) return onFront.has(i) ? "baseline, front" : "baseline";
    if (trials.state[i] !== "final") return trials.failure[i]?.split(":")[0] ?? trials.state[i];
    if (trials.broken[i].length) return "beyond a limit";
    return [i === recommended && "recommended", i === knee && "knee", onFront.has(i) && "front"].filter(Boolean).join(", ") || "beaten";
  };

  function listed() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (i) => `${trials.number[i]} ${trials.short[i]} ${trials.state[i]} ${label(i)}`.toLowerCase();
    const found = all.filter((i) => kept(i) && (!state.f || onFront.has(i)) && words.every((word) => text(i).includes(word)));
    const own = { number: (i) => trials.number[i], short: (i) => trials.short[i], mark: label, seconds: (i) => trials.seconds[i] };
    const read = own[state.by] ?? (metrics[state.by] ? (i) => value(state.by, i) : (i) => (onFront.has(i) ? 0 : 1));
    return found.sort((a, b) => {
      const [p, q] = [read(a), read(b)];
      if (p === null || q === null) return (p === null) - (q === null);
      return (p < q ? -1 : p > q ? 1 : 0) * Number(state.d);
    });
  }

  function header(id, text, numeric) {
    const sorted = state.by === id;
    const turn = () => set({ by: id, d: sorted && state.d === "1" ? "-1" : "1" });
    const order = sorted ? (state.d === "1" ? "ascending" : "descending") : "none";
    return el("th", { scope: "col", class: numeric ? "number" : null, "aria-sort": order }, el("button", { type: "button", onclick: turn }, text));
  }

  function drawTable() {
    const found = listed();
    const columns = state.k === "all" ? names : data.objectives;
    document.querySelector("#trials thead").replaceChildren(el("tr", {},
      header("number", "Trial"), header("short", "Configuration"), header("mark", "Standing"),
      columns.map((name) => header(name, withUnit(name), true)), header("seconds", "Work", true)));
    const cell = (name, i) => {
      if (value(name, i) === null) return el("td", { class: "number quiet", title: note(name, i) }, "–");
      const spread = el("span", { class: "quiet" }, spreadOf(shown(name, i), half(name, i)));
      return el("td", { class: `number ${source(name, i)}`, title: `${source(name, i)}; ${note(name, i)}` }, significant(shown(name, i)), spread);
    };
    const row = (i) => el("tr", {
      tabindex: 0, "data-trial": trials.number[i], "data-front": onFront.has(i), class: trials.state[i] === "final" && !trials.broken[i].length ? null : "dim",
      onclick: () => select(i),
    }, el("td", {}, String(trials.number[i])), el("td", { class: "short" }, trials.short[i]), el("td", {}, el("span", { class: "tag" }, label(i))),
    columns.map((name) => cell(name, i)), el("td", { class: "number" }, seconds(trials.seconds[i])));
    document.querySelector("#trials tbody").replaceChildren(...found.slice(0, rows).map(row));
    $("count").textContent = `${found.length} of ${all.length} shown, ${front.length} on the front.${trials.state.includes("paused") ? " Paused trials show figures of a lower fidelity." : ""}`;
    $("more").hidden = found.length <= rows;
    $("more").textContent = `Show all ${found.length}`;
    markRow();
  }

  function markRow() {
    for (const row of document.querySelectorAll("#trials tbody tr")) row.setAttribute("aria-selected", row.dataset.trial === state.s);
  }

  function keys(event) {
    const row = event.target.closest?.("#trials tbody tr");
    const choose = () => select(places.get(Number(row.dataset.trial)));
    const inRow = {
      ArrowDown: () => row.nextElementSibling?.focus(), ArrowUp: () => row.previousElementSibling?.focus(), Enter: choose, " ": choose,
    };
    const along = { ArrowRight: () => walk(1), ArrowLeft: () => walk(-1) };
    const act = (row && inRow[event.key]) || ((row || event.target === $("plot")) && along[event.key]);
    if (!act) return;
    event.preventDefault(), act();
  }

  // ---------------------------------------------------------------- cards
  function figureRow(name, i) {
    const [mine, theirs] = [value(name, i), baseline === undefined ? null : value(name, baseline)];
    const apart = mine !== null && theirs && i !== baseline ? mine / theirs - 1 : null;
    const text = apart === null ? "" : apart === 0 ? "same" : metrics[name].label === "%"
      ? `${signed((mine - theirs) / metrics[name].size)} points` : Math.abs(apart) >= 1 ? `${significant(mine / theirs, 2)} ×` : `${signed(100 * apart)} %`;
    const counts = apart !== null && Math.abs(mine - theirs) / metrics[name].size > Math.hypot(half(name, i), half(name, baseline));
    const unpaired = !counts ? "quiet" : (apart < 0) === (metrics[name].sign > 0) ? "better" : "worse";
    const verdict = (apart === null ? null : figures[name].verdict[i]) ?? unpaired;
    return el("tr", { title: note(name, i) }, el("th", { scope: "row" }, metrics[name].title, el("span", {}, source(name, i) || "not known")),
      el("td", { class: "number" }, inWords(name, i)), el("td", { class: `number change ${verdict}` }, text));
  }
  const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(Math.abs(number) >= 10 ? 0 : 1)}`;

  function tested(i) {
    const found = trials.test[trials.number[i]];
    if (!found) return null;
    return el("p", { class: "note" }, `Confirmed: ${found.join("; ")}.`);
  }

  function stagesOf(i) {
    const cost = (time, found) => el("span", { class: "quiet" }, found ? `found made (${seconds(time)} saved)` : seconds(time));
    const rows = trials.stages[i].map(([step, time, found]) => el("li", {}, el("code", {}, step), " ", cost(time, found)));
    return rows.length ? el("details", {}, el("summary", {}, "How it was made"), el("ol", { class: "stages" }, rows)) : null;
  }

  function command(i) {
    const to = el("span", { class: "together" }, `--to exported/${trials.number[i]}`);
    const code = el("code", {}, `${data.command} ${trials.number[i]} `, to), text = code.textContent;
    const copy = async (event) => {
      getSelection().selectAllChildren(code);
      // from file:// some browsers have no clipboard: then the text is selected, ready to be copied
      const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
      event.target.textContent = done ? "Copied" : "Selected";
    };
    return trials.state[i] === "final" ? el("div", { class: "command" }, code, el("button", { type: "button", onclick: copy }, "Copy")) : null;
  }

  function card(i, heading) {
    const slots = trials.slots[i].length ? trials.slots[i] : [["everything", "as it is"]];
    const others = names.filter((name) => !data.objectives.includes(name));
    const chance = trials.chance[i] !== null && state.o === initial.o && !filters.size
      ? el("p", { class: "note" }, `Given the figures' errors it is on the front with probability ${trials.chance[i].toFixed(2)}.`) : null;
    const more = el("details", {}, el("summary", {}, `${others.length} further figures`), el("table", { class: "figures-table" }, others.map((name) => figureRow(name, i))));
    const troubles = [trials.failure[i], ...trials.broken[i].map((text) => `does not keep ${text}`)].filter(Boolean);
    return [
      el("header", {}, el("p", { class: "label" }, heading), el("h3", {}, `Trial ${trials.number[i]}`), el("span", { class: "tag" }, label(i))),
      troubles.map((text) => el("p", { class: "trouble" }, text)),
      el("dl", { class: "slots" }, slots.map(([slot, words]) => el("div", {}, el("dt", {}, slot), el("dd", {}, words)))),
      el("table", { class: "figures-table" }, data.objectives.map((name) => figureRow(name, i))), tested(i), chance,
      others.length ? more : null, stagesOf(i), command(i),
    ].flat().filter(Boolean);
  }

  function drawCards() {
    const shownCards = [[baseline, "Baseline"], [recommended, "Recommended"]].filter(([i], k) => i !== undefined && !(k && i === baseline));
    $("cards").replaceChildren(...shownCards.map(([i, heading]) => el("article", { class: "card" }, card(i, heading))));
  }

  function drawSelection() {
    const i = selected();
    $("selected").replaceChildren(...(i === undefined ? [el("p", { class: "quiet" }, "Select a trial in the plot or the table.")] : card(i, "Selected")));
    markRow();
    $("line-selected").replaceChildren(...(i === undefined || trials.state[i] !== "final" ? [] : [el("path", { d: lineOf(i), class: "selected" })]));
    if (!window.Plotly || !$("plot").data) return;
    const ring = chosenRing();
    window.Plotly.restyle($("plot"), { x: [ring.x], y: [ring.y], customdata: [ring.customdata], hovertext: [ring.hovertext] }, [$("plot").data.length - 1]);
  }

  // ---------------------------------------------------------------- controls
  function control(id, key, entries = []) {
    const box = $(id).type === "checkbox";
    $(id).append(...entries.map(([name, text]) => el("option", { value: name, selected: state[key] === name }, text)));
    $(id).checked = Boolean(state[key]);
    $(id).onchange = () => set({ [key]: box ? ($(id).checked ? "1" : "") : $(id).value });
  }

  function objectiveBoxes() {
    const toggle = (name) => (event) => {
      const now = names.filter((other) => (other === name ? event.target.checked : chosen().includes(other)));
      if (!now.length) { event.target.checked = true; return; } // a front needs an objective
      set({ o: now.length === data.objectives.length && now.every((n) => data.objectives.includes(n)) ? initial.o : now.join(",") });
    };
    const box = (name) => el("input", { type: "checkbox", value: name, checked: chosen().includes(name), onchange: toggle(name) });
    const chip = (name) => el("label", { class: "chip" }, box(name), metrics[name].title);
    const rest = names.filter((name) => !data.objectives.includes(name));
    const more = el("details", { open: rest.some((name) => chosen().includes(name)) }, el("summary", {}, "other figures"), rest.map(chip));
    $("objectives").append(...data.objectives.map(chip), ...(rest.length ? [more] : []));
  }

  const download = (name, type, text) => el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name }).click();
  /** A figure as the command line's JSON writes it, without conditions. */
  const figure = (name, i) => (value(name, i) === null ? { value: null, reason: note(name, i) }
    : { value: value(name, i), source: source(name, i), ...(figures[name].stderr[i] === null ? {} : { stderr: figures[name].stderr[i] }) });

  const asJson = () => JSON.stringify({ objectives: chosen(), trials: listed().map((i) => ({
    number: trials.number[i], state: trials.state[i], on_front: onFront.has(i), knee: i === knee, configuration: trials.configuration[i],
    metrics: Object.fromEntries(names.map((name) => [name, figure(name, i)])),
  })) }, null, 2);

  function asCsv() {
    const knobs = [...new Set(all.flatMap((i) => Object.entries(trials.configuration[i]).flatMap(([slot, body]) => Object.keys(body).map((knob) => `${slot}.${knob}`))))];
    const knob = (i, path) => { const [slot, name] = path.split("."); return trials.configuration[i][slot]?.[name] ?? ""; };
    const quote = (text) => (/[",\n]/.test(String(text)) ? `"${String(text).replaceAll('"', '""')}"` : String(text));
    const head = ["trial", "state", "on_front", ...names.flatMap((name) => [name, `${name}_stderr`]), ...knobs];
    const lines = listed().map((i) => [trials.number[i], trials.state[i], onFront.has(i),
      ...names.flatMap((name) => [value(name, i) ?? "", figures[name].stderr[i] ?? ""]), ...knobs.map((path) => knob(i, path))]);
    return `${[head, ...lines].map((line) => line.map(quote).join(",")).join("\n")}\n`;
  }

  function connect() {
    const entries = names.map((name) => [name, metrics[name].title]);
    for (const axis of ["x", "y"]) control(`axis-${axis}`, axis, entries);
    control("axis-c", "c", [["", "none"], ...entries]);
    control("columns", "k", [["objectives", "objectives"], ["all", "all figures"]]);
    for (const [id, key] of [["log-x", "lx"], ["log-y", "ly"], ["only-front", "f"], ["lines-all", "a"]]) control(id, key);
    objectiveBoxes();
    $("find").value = state.q;
    $("find").oninput = (event) => set({ q: event.target.value }, drawTable);
    $("more").onclick = () => { rows = Infinity; drawTable(); };
    $("clear").onclick = () => { filters.clear(); set({ b: "" }); };
    $("csv").onclick = () => download(`${data.study}.csv`, "text/csv", asCsv());
    $("json").onclick = () => download(`${data.study}.json`, "application/json", asJson());
    const show = (event) => { select(places.get(Number(event.target.dataset.select))); $("plot").scrollIntoView(); };
    for (const button of document.querySelectorAll("[data-select]")) button.onclick = show;
    addEventListener("keydown", keys);
    dark.addEventListener("change", () => window.Plotly && [drawPlot, drawGrowth].forEach((draw) => draw()));
  }

  function update() {
    for (const draw of [recompute, drawTable, drawLines, drawCards, drawPlot, drawSelection]) draw();
  }

  // ---------------------------------------------------------------- start
  async function unpack() {
    const packed = Uint8Array.from(atob($("plotly").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" });
    await new Promise((resolve, reject) => document.head.append(el("script", { src: URL.createObjectURL(script), onload: resolve, onerror: reject })));
    $("plot").replaceChildren();
    for (const draw of [drawPlot, drawGrowth]) draw();
    document.documentElement.dataset.ready = "yes";
  }

  connect();
  update();
  // after the first paint: unpacking takes a second, and everything but the plots is there already
  addEventListener("load", () => requestAnimationFrame(() => setTimeout(unpack)));
})();
