// Keeps a page live and draws its plots. Without it every page can still be read.
"use strict";

(() => {
  const SHOWN_EVERY = 5_000;
  const HIDDEN_EVERY = 30_000;
  const NARROWEST_LABEL = 15;

  // --- live ------------------------------------------------------------------------------------

  const live = document.getElementById("live");
  const pulse = document.getElementById("pulse");
  const words = document.getElementById("pulse-words");
  let timer = 0;
  let readAt = words?.textContent.replace("as of ", "") ?? "";
  let number = document.getElementById("moved")?.dataset.number;

  function say(state, text) {
    pulse.dataset.state = state;
    words.textContent = text;
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(refresh, document.hidden ? HIDDEN_EVERY : SHOWN_EVERY);
  }

  function refresh() {
    live.dispatchEvent(new CustomEvent("refresh"));
    schedule(); // Goes on also when an answer never comes.
  }

  function afterAnswer(event) {
    const status = event.detail?.ctx?.response?.status;
    if (!status || status >= 400) {
      say("lost", `not live since ${readAt}, trying again`);
      return;
    }
    const stamp = document.getElementById("read-at");
    if (stamp) {
      readAt = stamp.dataset.at;
      document.title = `${stamp.dataset.heading} – Forewarn`;
    }
    say("live", `live, as of ${readAt}`);
    const moved = document.getElementById("moved")?.dataset.number;
    if (moved !== number) {
      number = moved;
      document.getElementById("pictures")?.dispatchEvent(new CustomEvent("moved"));
    }
    markUnseen();
  }

  // --- what is new since the last visit ----------------------------------------------------------

  const SEEN = "forewarn.seen";

  function stored() {
    try {
      return Number(localStorage.getItem(SEEN) ?? Number.NaN);
    } catch {
      return Number.NaN; // Storage may be forbidden; then nothing is marked.
    }
  }

  const seen = stored();

  function newestChange() {
    const numbers = [...document.querySelectorAll(".changes li")].map((li) => Number(li.dataset.number));
    return numbers.length ? Math.max(...numbers) : 0;
  }

  function markUnseen() {
    const note = document.getElementById("unseen");
    if (!note || Number.isNaN(seen)) return;
    let count = 0;
    for (const li of document.querySelectorAll(".changes li")) {
      const unseen = Number(li.dataset.number) > seen;
      li.classList.toggle("unseen", unseen);
      count += unseen;
    }
    note.textContent = count ? `${count} since your last visit` : "";
  }

  function remember() {
    if (!document.querySelector(".changes")) return;
    try {
      localStorage.setItem(SEEN, String(newestChange()));
    } catch {
      // Storage may be forbidden; then nothing is marked next time either.
    }
  }

  if (live && pulse) {
    live.addEventListener("htmx:finally:request", afterAnswer);
    document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : refresh()));
    addEventListener("pagehide", remember);
    say("live", `live, as of ${readAt}`);
    markUnseen();
    schedule();
  }

  // --- a form that takes long is sent once ---------------------------------------------------------

  for (const form of document.querySelectorAll("form[data-slow]")) {
    const button = form.querySelector("button[type=submit]");
    const usual = button.textContent;
    form.addEventListener("submit", () => {
      button.disabled = true;
      button.textContent = form.dataset.slow;
    });
    addEventListener("pageshow", () => {
      button.disabled = false; // Also when the browser brings the page back as it was left.
      button.textContent = usual;
    });
  }

  // --- plots: drawn from their tables --------------------------------------------------------------

  const drawn = new Map();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function column(rows, kind) {
    return rows.map((row) => {
      const cell = row.querySelector(`data.${kind}`);
      return cell ? Number(cell.value) : null;
    });
  }

  function day(seconds, short) {
    const text = new Date(seconds * 1000).toISOString();
    return short ? text.slice(0, 7) : text.slice(0, 10);
  }

  function draw(figure) {
    const box = figure.querySelector(".canvas");
    const rows = [...figure.querySelectorAll("tbody tr")];
    if (!rows.length || !box.clientWidth) return;
    const observed = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    const span = observed[observed.length - 1] - observed[0] || 86_400;
    // One step beyond the newest value, so that the lines it is held against can be seen.
    const times = [...observed, observed[observed.length - 1] + span * 0.07];
    const values = [...column(rows, "value"), null];
    const means = [...column(rows, "mean"), null];
    const known = column(rows, "baseline");
    const baseline = [...known, known[known.length - 1]];
    const relative = "relative" in figure.dataset;
    const lines = JSON.parse(figure.dataset.lines);
    const marks = JSON.parse(figure.dataset.marks).sort((a, b) => a.at - b.at);
    const averaged = means.some((mean) => mean !== null);
    const ink = css("--ink");
    const faint = css("--faint");
    const at = (fraction) =>
      relative ? baseline.map((b) => (b === null ? null : b + Math.abs(b) * fraction)) : times.map(() => fraction);

    const stepped = uPlot.paths.stepped({ align: 1 });
    const data = [times];
    const series = [{}];
    const add = (numbers, look) => {
      data.push(numbers);
      series.push({ points: { show: false }, spanGaps: true, ...look });
    };
    for (const line of lines) {
      const stroke = css(`--sev-${line.severity}`);
      add(at(line.clear), { stroke, width: 1, dash: [5, 4], alpha: 0.75, paths: stepped });
      add(at(line.raise), { stroke, width: 1.4, paths: stepped, severity: line.severity });
    }
    if (relative) add(baseline, { stroke: faint, width: 1.4, dash: [1.5, 3], paths: stepped });
    const few = observed.length <= 80;
    if (averaged) {
      add(values, { stroke: faint, width: 1, alpha: 0.55 });
      add(means, { stroke: ink, width: 2 });
    } else {
      add(values, { stroke: ink, width: 2, points: { show: few, size: 6, fill: ink } });
    }

    const readout = figure.querySelector(".readout");
    const plot = new uPlot(
      {
        width: box.clientWidth,
        height: 190,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false } },
        scales: { x: { range: (_, low, high) => [low - span * 0.01, high] } },
        axes: [
          {
            stroke: faint,
            grid: { stroke: css("--line"), width: 1 },
            ticks: { show: false },
            size: 26,
            font: "11px system-ui",
            values: (_, splits, __, ___, step) => splits.map((s) => day(s, step >= 28 * 86_400)),
            space: 84,
          },
          {
            stroke: faint,
            grid: { stroke: css("--line"), width: 1 },
            ticks: { show: false },
            size: 52,
            font: "11px system-ui",
            values: (_, splits) => splits.map((v) => v.toLocaleString("en", { maximumFractionDigits: 6 })),
          },
        ],
        series,
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        hooks: {
          drawClear: [(u) => drawMarks(u, marks)],
          draw: [(u) => nameLines(u)],
          setCursor: [(u) => tell(readout, rows[u.cursor.idx], figure.dataset.unit)],
        },
      },
      data,
      box,
    );
    drawn.set(figure, plot);
  }

  /** Numbered vertical lines where the alert changed, as in its timeline. */
  function drawMarks(u, marks) {
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    const ctx = u.ctx;
    ctx.save();
    ctx.font = `600 ${10.5 * ratio}px system-ui`;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    let labelled = -Infinity;
    for (const mark of marks) {
      const x = Math.round(u.valToPos(mark.at, "x", true));
      if (x < left || x > left + width) continue;
      ctx.strokeStyle = ctx.fillStyle = css(`--sev-${mark.severity}`);
      ctx.globalAlpha = 0.35;
      ctx.lineWidth = ratio;
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      if (x - labelled < NARROWEST_LABEL * ratio) continue;
      labelled = x;
      ctx.globalAlpha = 1;
      ctx.fillText(String(mark.number), x, top - 13 * ratio);
    }
    ctx.restore();
  }

  /** The severity's word at the right end of the line that raises it. */
  function nameLines(u) {
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    const ctx = u.ctx;
    ctx.save();
    ctx.font = `600 ${10.5 * ratio}px system-ui`;
    ctx.textAlign = "right";
    ctx.textBaseline = "bottom";
    u.series.forEach((series, index) => {
      if (!series.severity) return;
      const last = u.data[index].findLast((value) => value !== null);
      if (last === undefined) return;
      const y = u.valToPos(last, "y", true);
      if (y < top || y > top + height) return;
      ctx.strokeStyle = css("--paper");
      ctx.lineWidth = 3 * ratio;
      ctx.strokeText(series.severity, left + width - 3 * ratio, y - 2 * ratio);
      ctx.fillStyle = css(`--sev-${series.severity}`);
      ctx.fillText(series.severity, left + width - 3 * ratio, y - 2 * ratio);
    });
    ctx.restore();
  }

  function tell(readout, row, unit) {
    if (!readout) return;
    const cells = row ? [...row.cells].map((cell) => cell.textContent.trim()) : [];
    const heads = row ? [...row.closest("table").tHead.rows[0].cells].map((cell) => cell.textContent.trim()) : [];
    readout.textContent = cells
      .map((cell, n) => (n === 0 ? cell : n === 1 ? `${cell} ${unit}` : cell && cell !== "–" ? `${heads[n].toLowerCase()} ${cell}` : ""))
      .filter(Boolean)
      .join(" · ");
  }

  function drawAll() {
    for (const plot of drawn.values()) plot.destroy();
    drawn.clear();
    if (typeof uPlot === "undefined") return;
    for (const figure of document.querySelectorAll("figure.plot")) draw(figure);
  }

  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const plot = drawn.get(entry.target.closest("figure"));
      const width = Math.floor(entry.contentRect.width);
      if (plot && width && plot.width !== width) plot.setSize({ width, height: plot.height });
    }
  });

  function begin() {
    resized.disconnect();
    drawAll();
    for (const box of document.querySelectorAll("figure.plot .canvas")) resized.observe(box);
  }

  begin();
  dark.addEventListener("change", begin);
  document.getElementById("pictures")?.addEventListener("htmx:after:settle", begin);
})();
