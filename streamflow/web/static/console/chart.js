// An hour of one figure as a line. uPlot draws it; what it shows is also said in words.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { h, setText } from "./dom.js";

const WHOLE = [1, 2, 5].flatMap((one) => Array.from({ length: 12 }, (_, power) => one * 10 ** power)).sort((a, b) => a - b);
const BYTES = Array.from({ length: 34 }, (_, power) => 1024 * 2 ** power);
const SHORTEST_S = 600; // a worker that has just begun shows ten minutes, and not an hour of nothing

const charts = new Set();
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => redraw());

/** Colours have changed. */
export function redraw() {
  for (const chart of charts) chart.make();
}

export class Chart {
  /** `text(value)` writes a value as people read it. */
  constructor({ label, text, height = 110, isWhole = false, isBytes = false }) {
    this.steps = isBytes ? BYTES : isWhole ? WHOLE : null;
    this.label = label;
    this.text = text;
    this.height = height;
    this.data = [[], []];
    this.plot = null;
    this.canvas = h("div", { class: "plot", role: "img", "aria-label": label });
    this.readout = h("p", { class: "readout", "aria-hidden": "true" });
    this.root = h("div", { class: "chart", data: { own: `chart-${label}` } }, this.canvas, this.readout);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.canvas);
    charts.add(this);
  }

  close() {
    charts.delete(this);
    this.observer.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  /** `times` in seconds since the epoch, `values` beside them, null where nobody knows. */
  show(times, values) {
    const first = values.findIndex((value) => value !== null);
    const from = Math.max(0, Math.min(first < 0 ? values.length : first, times.findLastIndex((at) => at <= times.at(-1) - SHORTEST_S)));
    times = times.slice(from);
    values = values.slice(from);
    this.data = [times, values];
    const known = values.filter((value) => value !== null);
    const words = known.length
      ? `now ${values.at(-1) === null ? "not known" : this.text(values.at(-1))}, at most ${this.text(Math.max(...known))}`
      : "nothing measured yet";
    this.canvas.setAttribute("aria-label", `${this.label}, last hour: ${words}`);
    if (this.plot) this.plot.setData(this.data);
    else this.make();
    if (!this.isPointed) this.rest();
  }

  rest() {
    const known = this.data[1].filter((value) => value !== null);
    setText(this.readout, known.length ? `most in the last hour ${this.text(Math.max(...known))}` : "measured every 5 s; the first values come soon");
  }

  point(index) {
    this.isPointed = index !== null && index !== undefined;
    if (!this.isPointed) return this.rest();
    const when = new Date(this.data[0][index] * 1000).toLocaleTimeString("en-GB");
    const value = this.data[1][index];
    setText(this.readout, `${when}  ${value === null || value === undefined ? "not known" : this.text(value)}`);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: this.height });
    else if (!this.plot) this.make();
  }

  make() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.canvas.clientWidth;
    if (!width || !this.data[0].length) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = `11px ${style.getPropertyValue("--sans").trim() || "sans-serif"}`;
    const axis = { stroke: colour("--muted"), font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({
      width,
      height: this.height,
      padding: [6, 4, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high, 1e-9) > 1e-6 ? high * 1.12 : 1] } },
      axes: [
        { ...axis, size: 22, gap: 4, space: 70, grid: { show: false }, values: (_, ticks) => ticks.map(clock) },
        { ...axis, size: 54, gap: 6, space: 36, ...(this.steps && { incrs: this.steps }), values: (_, ticks) => ticks.map((tick) => this.text(tick)) },
      ],
      series: [{}, { stroke: colour("--accent"), fill: colour("--accent-wash"), width: 1.5, spanGaps: false, points: { show: false } }],
      hooks: { setCursor: [(plot) => this.point(plot.cursor.idx)] },
    }, this.data, this.canvas);
  }
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}
