// The operator's charts: readings come by server-sent events and are drawn by uPlot.
(() => {
  "use strict";
  const KEPT = 300;
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--soft").trim();
  const colours = ["#14453d", "#b5420f", "#416a93", "#8d76ad", "#ad8a2c"];
  const points = [];
  const value = (point, path) => path.split(".").reduce((at, name) => at?.[name], point) ?? null;
  const CHARTS = {
    freshness: [["canary p50", "canary_p50"], ["canary p99", "canary_p99"], ["stored p50", "freshness_p50"], ["stored p99", "freshness_p99"]],
    throughput: [["answers", "answers_per_s"], ["clicks", "clicks_per_s"], ["events by HTTP", "events_per_s"]],
    answers: [["p50", "answers_p50"], ["p99", "answers_p99"]],
    lag: [["the job", "lag.last_n"], ["user tower", "lag.user_tower"], ["item tower", "lag.item_tower"], ["retrieval", "lag.retrieval"]],
  };
  const short = (n) => n === null || n === undefined ? "-" : n >= 100 ? Math.round(n).toLocaleString("en") : n >= 10 ? n.toFixed(0) : n >= 1 ? n.toFixed(1) : n.toFixed(2);

  const charts = [...document.querySelectorAll("[data-chart]")].map((place) => {
    const lines = CHARTS[place.dataset.chart];
    const axis = { stroke: ink, grid: { stroke: "#e9e3d7", width: 1 }, ticks: { stroke: "#e9e3d7" }, font: "12px system-ui, sans-serif" };
    const plot = new uPlot({
      width: place.clientWidth, height: 178, cursor: { points: { size: 6 } }, legend: { live: false },
      scales: { y: { range: (u, low, high) => [0, Math.max(1, high * 1.15 || 1)] } },
      axes: [{ ...axis, values: (u, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" })), space: 90 },
             { ...axis, size: 46, values: (u, ticks) => ticks.map((t) => t >= 1000 ? t / 1000 + "k" : t) }],
      series: [{ value: (u, t) => t ? new Date(t * 1000).toLocaleTimeString("en-GB") : "-" },
               ...lines.map(([label], at) => ({ label, stroke: colours[at], width: 2, points: { show: false }, spanGaps: true, value: (u, v) => short(v) }))],
    }, [[], ...lines.map(() => [])], place);
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: 178 })).observe(place);
    return { plot, lines };
  });

  function draw() {
    const times = points.map((point) => point.at_ms / 1000);
    for (const { plot, lines } of charts) plot.setData([times, ...lines.map(([, path]) => points.map((point) => value(point, path)))]);
    const last = points.at(-1);
    if (last) tell(last);
  }

  const ms = (n) => n === null ? "-" : n >= 1000 ? (n / 1000).toFixed(1) + " s" : short(n) + " ms";
  const share = (n) => n === null ? "-" : (n * 100).toFixed(1) + " %";
  const SAYS = { fallback_share: share, cache_hit_rate: share, recall_10: (n) => n === null ? "-" : n.toFixed(3), delta_rows: (n) => n === null ? "-" : n.toLocaleString("en"), index_items: (n) => n === null ? "-" : n.toLocaleString("en") };

  function tell(point) {
    const letters = Object.values(point.dead_letters).reduce((sum, count) => sum + count, 0);
    for (const place of document.querySelectorAll("[data-figure]")) {
      const name = place.dataset.figure;
      const figure = name === "letters" ? letters : name === "recall_10" ? value(point, "recall.10") : point[name] ?? null;
      const say = SAYS[name] || (/_p\d\d$/.test(name) ? ms : short);
      place.textContent = name === "letters" ? letters.toLocaleString("en") : say(figure);
    }
    const state = document.getElementById("state");
    const down = point.down.filter((part) => part !== "canary");
    const words = down.length ? "No metrics from " + down.join(", ") : "Every part answers" + (point.canary_up === false ? "; the canary’s clicks are not used in time" : "");
    if (state.textContent !== words) state.textContent = words;
    state.classList.toggle("bad", down.length > 0 || point.canary_up === false);
    const stages = Object.entries(point.stages);
    if (stages.length) document.getElementById("stages").replaceChildren(...stages.map(([name, took]) => {
      const names = { append: "to the log", sequence: "the job: to the history", vector: "the tower: to the stored vector" };
      const stage = document.createElement("div");
      stage.className = "stage";
      const number = document.createElement("b");
      number.textContent = ms(took);
      stage.append(number, names[name] || name);
      return stage;
    }));
  }

  const stream = new EventSource("/operator/stream");
  stream.addEventListener("history", (event) => { points.splice(0, points.length, ...JSON.parse(event.data)); draw(); });
  stream.addEventListener("point", (event) => { points.push(JSON.parse(event.data)); if (points.length > KEPT) points.shift(); draw(); });
})();
