"use strict";
/* The two figures of the drawing can be chosen; a mark that is pointed at, or reached by key, says
   its row. All places were worked out beforehand: here marks only move. */
{
  const plot = document.getElementById("scatter");
  const ticks = JSON.parse(plot.dataset.ticks), labels = JSON.parse(plot.dataset.labels);
  const points = [...plot.querySelectorAll(".point")].map((mark) => ({
    mark, at: JSON.parse(mark.dataset.at), values: JSON.parse(mark.dataset.values),
  }));
  const by = (id) => document.getElementById(id);
  const told = by("told"), axes = by("axes");
  const rows = [...document.querySelectorAll("#table tbody tr")];
  const make = (name, values, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };
  const best = (x, y) => {
    const order = points.filter((one) => x in one.at && y in one.at).sort((a, b) => a.values[x] - b.values[x] || a.values[y] - b.values[y]);
    const kept = [];
    for (const one of order) {
      const last = kept[kept.length - 1];
      if (!last || one.values[y] < last.values[y] ||
          (one.values[y] === last.values[y] && one.values[x] === last.values[x])) kept.push(one);
    }
    return kept;
  };
  const draw = () => {
    const x = by("axis-x").value, y = by("axis-y").value, front = best(x, y);
    let drawn = 0;
    for (const one of points) {
      const shown = x in one.at && y in one.at;
      one.mark.toggleAttribute("hidden", !shown);
      one.mark.classList.toggle("best", front.includes(one));
      one.mark.tabIndex = shown && !drawn ? 0 : -1;
      if (!shown) continue;
      drawn += 1;
      one.mark.setAttribute("cx", `${one.at[x]}%`);
      one.mark.setAttribute("cy", `${100 - one.at[y]}%`);
      const tag = one.mark.nextElementSibling, right = one.at[x] > 60;
      tag.setAttribute("x", `${one.at[x]}%`);
      tag.setAttribute("y", `${100 - one.at[y]}%`);
      tag.setAttribute("dx", right ? -10 : 10);
      tag.setAttribute("dy", front.indexOf(one) % 2 ? 18 : -8);
      tag.setAttribute("text-anchor", right ? "end" : "start");
    }
    by("ticks-x").replaceChildren(...ticks[x].flatMap(([at, text]) => [
      make("line", { class: "tick", x1: `${at}%`, x2: `${at}%`, y1: 0, y2: "100%" }),
      make("text", { x: `${at}%`, y: "100%", dy: 18, "text-anchor": "middle" }, text),
    ]));
    by("ticks-y").replaceChildren(...ticks[y].flatMap(([at, text]) => [
      make("line", { class: "tick", x1: 0, x2: "100%", y1: `${100 - at}%`, y2: `${100 - at}%` }),
      make("text", { x: 0, y: `${100 - at}%`, dx: -6, dy: 4, "text-anchor": "end" }, text),
    ]));
    by("stairs").replaceChildren(...front.slice(1).flatMap((two, number) => {
      const one = front[number];
      const x1 = `${one.at[x]}%`, y1 = `${100 - one.at[y]}%`;
      const x2 = `${two.at[x]}%`, y2 = `${100 - two.at[y]}%`;
      return [make("line", { class: "stair", x1, y1, x2, y2: y1 }),
              make("line", { class: "stair", x1: x2, y1, x2, y2 })];
    }));
    by("label-x").textContent = `${labels[x]}, change in %`;
    by("label-y").textContent = `${labels[y]}, change in %`;
    by("caption-number").textContent = drawn;
    by("caption-x").textContent = labels[x];
    by("caption-y").textContent = labels[y];
  };
  const tell = (mark) => {
    told.textContent = mark.getAttribute("aria-label");
    for (const row of rows) row.classList.remove("told");
    const row = rows[Number(mark.dataset.row)];
    if (row) row.classList.add("told");
  };
  const along = () => {
    const x = by("axis-x").value;
    const shown = points.filter((one) => !one.mark.hasAttribute("hidden"));
    return shown.sort((a, b) => a.at[x] - b.at[x]).map((one) => one.mark);
  };
  points.forEach(({ mark }) => {
    mark.addEventListener("pointerenter", () => tell(mark));
    mark.addEventListener("focus", () => tell(mark));
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const marks = along();
      const next = marks[(marks.indexOf(mark) + step + marks.length) % marks.length];
      mark.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
  axes.hidden = false;
  axes.addEventListener("change", draw);
  axes.addEventListener("submit", (event) => event.preventDefault());
}
