"use strict";
// Joins the table, the data map and the chosen examples. Charts are Vega-Lite's, the table is Tabulator's; text goes in as text.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data");
  const specs = read("specs");
  const $ = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en");
  const chart = (name) => document.querySelector(`.chart[data-spec="${name}"]`)?.drawn;
  const CARDS = 48;
  const LINES = 40;
  const OPENING = 8;
  const RINGS = 100;

  // ---------------------------------------------------------------- small builders, text only

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== "role") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const label = (index) => (index === null || index < 0 ? "–" : data.classes[index]);
  const source = (i) => `data:image/webp;base64,${data.pictures[i]}`;
  const wrong = (i) => (data.true ? data.true[i] !== data.given[i] : false);
  const fact = (name, i) => (data[name] ? label(data[name][i]) : undefined);

  function short(value) {
    if (value === null) return "not scored";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value);
    return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : value.toPrecision(4);
  }

  // With half of its interval, where it rests on repetitions.
  function spoken(one, i) {
    const half = one.halves && one.halves[i] !== null ? ` ± ${one.halves[i].toPrecision(2)}` : "";
    return short(one.values[i]) + half;
  }

  function action(i) {
    const one = data.decision.actions[i];
    if (one === "relabel") return `relabel to ${label(data.decision.labels[i])}`;
    if (one === "weight") return `weight ${short(data.decision.weights[i])}`;
    return one;
  }

  function cells(i) {
    return data.columns.map((name, at) => `${name} ${data.rows[i][at]}`).join(" · ");
  }

  // ---------------------------------------------------------------- charts

  async function draw(place) {
    const name = place.dataset.spec;
    const spec = structuredClone(specs[name]);
    place.drawn?.finalize();
    const drawn = await vegaEmbed(place, spec, {
      mode: "vega-lite", actions: false, ast: true, config: theme(), renderer: /^(map|lines|comparison-.*)$/.test(name) ? "canvas" : "svg",
    });
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", spec.description);
    place.drawn = drawn;
    if (name === "map") {
      wireMap(drawn.view);
      await fill("map", "examples", found.map(point));
      await fill("map", "chosen", ringed());
    }
    if (name === "lines") await fill("lines", "lines", lines());
    if (name === "detection") lift($("lifted").textContent);
  }

  async function fill(name, dataset, rows) {
    const view = chart(name)?.view;
    if (view) await view.change(dataset, vega.changeset().remove(vega.truthy).insert(rows)).runAsync();
  }

  // What stands in a closed block has no width yet; it is drawn once the block is opened.
  const closed = (place) => Boolean(place.closest("details:not([open])"));

  async function drawAll(anew = false) {
    for (const place of document.querySelectorAll(".chart")) {
      if (closed(place)) {
        if (anew) place.drawn = place.drawn?.finalize();
      } else if (anew || !place.drawn) await draw(place);
    }
  }

  function wireMap(view) {
    let waiting;
    view.addSignalListener("brush", (_, box) => {
      clearTimeout(waiting);
      if (!box.variability || !box.confidence) return;
      const inside = (value, [one, other]) => value >= Math.min(one, other) && value <= Math.max(one, other);
      waiting = setTimeout(() => {
        choose(found.filter((i) => inside(data.map.variability[i], box.variability) && inside(data.map.confidence[i], box.confidence)));
      }, 120);
    });
    view.addSignalListener("pick", (_, picked) => {
      if (picked.position) choose(picked.position.map(Number));
    });
  }

  const point = (i) => ({
    position: i, id: data.ids[i], given: fact("given", i), predicted: fact("predicted", i) ?? "–", true: fact("true", i),
    image: data.pictures ? source(i) : undefined, label: wrong(i) ? "wrong label" : "right label",
    confidence: data.map.confidence[i], variability: data.map.variability[i], correctness: data.map.correctness[i],
  });

  // More rings than this would hide the points that they mark; the brush shows where those are.
  const ringed = () => (chosen.length <= RINGS ? chosen.map(point) : []);

  // ---------------------------------------------------------------- the table

  const all = data.ids.map((_, i) => i);
  let method = 0;
  let table = null;
  let active = null;
  let chosen = [];
  let focused = null;
  let shownCards = CARDS;
  let found = all;

  function row(i) {
    const one = data.methods[method];
    return {
      position: i, id: data.ids[i], given: fact("given", i), predicted: fact("predicted", i), true: fact("true", i),
      decision: data.decision ? action(i) : undefined, reason: data.decision ? data.decision.reasons[data.decision.reason[i]] : undefined,
      rank: one ? one.ranks[i] : undefined, score: one ? one.values[i] : undefined, row: data.rows ? cells(i) : undefined,
    };
  }

  const byId = data.numeric
    ? (a, b) => (BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0)
    : (a, b) => (a < b ? -1 : a > b ? 1 : 0);

  // Examples without a score stand last in either direction.
  function byNumber(a, b, _one, _other, _column, direction) {
    if (a === b) return 0;
    if (a === null) return direction === "asc" ? 1 : -1;
    if (b === null) return direction === "asc" ? -1 : 1;
    return a - b;
  }

  const text = (cell) => document.createTextNode(cell.getValue() ?? "–");
  const clamp = (cell) => make("span", { className: "clamp", title: cell.getValue() ?? "" }, cell.getValue() ?? "");
  const against = (cell) => {
    const i = cell.getData().position;
    const odd = cell.getField() === "true" ? wrong(i) : data.predicted[i] !== data.given[i];
    return make("span", { className: odd ? "bad" : "" }, cell.getValue());
  };

  function columns() {
    const heading = (cell) => document.createTextNode(cell.getValue());
    const column = (field, title, width, more = {}) => ({
      field, title, minWidth: width, widthGrow: 1, formatter: text, titleFormatter: heading, sorter: "string", headerSortTristate: false, ...more,
    });
    const list = [];
    if (data.pictures) {
      list.push(column("position", "picture", 62, {
        width: 62, headerSort: false, resizable: false,
        formatter: (cell) => make("img", { src: source(cell.getValue()), alt: `example ${data.ids[cell.getValue()]}` }),
      }));
    }
    list.push(column("id", "id", data.numeric ? 64 : 130, { sorter: byId, formatter: clamp, widthGrow: data.numeric ? 1 : 2 }));
    if (data.rows) list.push(column("row", "row", 260, { formatter: clamp, widthGrow: 4 }));
    if (data.methods.length) {
      list.push(column("rank", "rank", 68, { sorter: byNumber, cssClass: "n", headerHozAlign: "right", formatter: (cell) => (cell.getValue() === null ? "–" : number.format(cell.getValue())) }));
      list.push(column("score", "score", data.methods.some((one) => one.halves) ? 128 : 80, { sorter: byNumber, cssClass: "n", headerHozAlign: "right", formatter: (cell) => spoken(data.methods[method], cell.getData().position) }));
    }
    if (data.given) list.push(column("given", "given", 78));
    if (data.predicted) list.push(column("predicted", "predicted", 100, { formatter: against }));
    if (data.true) list.push(column("true", "true", 74, { formatter: against }));
    if (data.decision) {
      list.push(column("decision", "decision", 94, {
        formatter: (cell) => make("span", { className: `act ${data.decision.actions[cell.getData().position]}` }, cell.getValue()),
      }));
      list.push(column("reason", "reason", 140, { formatter: clamp, widthGrow: 2 }));
    }
    return list;
  }

  function passes(i) {
    const is = (id) => $(id)?.value ?? "";
    const within = Number(is("within"));
    const rank = data.methods[method]?.ranks[i];
    if (within >= 1 && (rank === null || rank > within)) return false;
    if (is("class") !== "" && data.given[i] !== Number(is("class"))) return false;
    if (is("action") !== "" && data.decision.actions[i] !== is("action")) return false;
    if (is("label") === "against" && data.predicted[i] === data.given[i]) return false;
    if (is("label") === "with" && data.predicted[i] !== data.given[i]) return false;
    if (is("label") === "wrong" && !wrong(i)) return false;
    if (is("label") === "right" && wrong(i)) return false;
    return data.ids[i].toLowerCase().includes(is("search").trim().toLowerCase());
  }

  function filter() {
    found = all.filter(passes);
    const kept = new Set(found);
    table.setFilter((row) => kept.has(row.position));
    $("matching").textContent = found.length === all.length ? number.format(all.length) : `${number.format(found.length)} of ${number.format(all.length)}`;
    $("table").setAttribute("aria-rowcount", found.length);
    move(0, true);
    if (chart("map")) fill("map", "examples", found.map(point));
  }

  function explain() {
    const one = data.methods[method];
    if (!one) return;
    const first = one.suspects ? "the most suspect" : "the hardest";
    const unit = one.unit === data.rankOnly ? "rank only: the order counts, not the size" : `in ${one.unit}`;
    $("meaning").textContent = `${one.title}: ${one.direction}, ${unit}. Rank 1 is ${first} of ${number.format(one.scored)} scored examples.`
      + (one.suspects ? "" : " It ranks difficulty, which is not dirt.")
      + (one.halves ? ` ± is half of the 95 % interval over its ${one.repeats} repetitions, models or draws`
        + (one.halves.some((half, i) => half === null && one.values[i] !== null) ? "; examples on which two of them agree exactly have none." : ".") : "");
    for (const warning of one.warnings) $("meaning").append(make("strong", { className: "caution" }, `⚠ ${warning}`));
  }

  let pending = 0;

  // Says while the rows are being replaced, so that readers and tests need not guess.
  async function busy(work) {
    pending += 1;
    $("table").setAttribute("aria-busy", "true");
    await work();
    pending -= 1;
    $("table").setAttribute("aria-busy", String(pending > 0));
  }

  async function useMethod(index) {
    method = index;
    explain();
    await table.replaceData(all.map(row));
    table.setSort("rank", "asc");
    filter();
  }

  const rows = () => table.getRows("active");

  // One row is active; the table keeps the focus and names that row, because rows outside the window do not exist.
  function move(to, quiet = false) {
    const list = rows();
    if (!list.length) {
      active = null;
      $("table").removeAttribute("aria-activedescendant");
      return;
    }
    const at = Math.max(0, Math.min(list.length - 1, to));
    active = list[at].getData().position;
    if (!quiet) list[at].scrollTo("nearest", false).catch(() => {});
    mark();
  }

  const at = () => rows().findIndex((row) => row.getData().position === active);

  function mark() {
    const picked = new Set(chosen);
    for (const row of table.getRows("visible")) paint(row, picked);
  }

  function paint(row, picked = new Set(chosen)) {
    const i = row.getData().position;
    const element = row.getElement();
    element.id = `row-${i}`;
    element.setAttribute("aria-selected", picked.has(i));
    element.classList.toggle("chosen", picked.has(i));
    element.classList.toggle("active", i === active);
    if (i === active) $("table").setAttribute("aria-activedescendant", element.id);
  }

  function keys(event) {
    if (event.target !== $("table") || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, table.getRows("visible").length - 2);
    const moves = { ArrowDown: at() + 1, ArrowUp: at() - 1, PageDown: at() + page, PageUp: at() - page, Home: 0, End: rows().length - 1 };
    if (event.key in moves) move(moves[event.key]);
    else if (event.key === "Enter" && active !== null) choose([active]);
    else if (event.key === " " && active !== null) toggle(active);
    else if (event.key === "Escape") choose([]);
    else return;
    event.preventDefault();
  }

  function headings() {
    for (const column of table.getColumns()) {
      const definition = column.getDefinition();
      if (definition.headerSort === false) continue;
      const element = column.getElement();
      element.tabIndex = 0;
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        table.setSort(definition.field, element.getAttribute("aria-sort") === "ascending" ? "desc" : "asc");
      });
    }
  }

  // Tabulator's own way redraws whenever the table scrolls into view, which swallows a click that is under way.
  function fit() {
    let width = $("table").clientWidth;
    new ResizeObserver(() => {
      if ($("table").clientWidth === width) return;
      width = $("table").clientWidth;
      table.redraw(true);
    }).observe($("table").parentElement);
  }

  function build() {
    return new Promise((ready) => {
      table = new Tabulator("#table", {
        data: all.map(row), columns: columns(), index: "position", layout: "fitColumns", height: Math.min(640, Math.max(320, window.innerHeight * 0.75)),
        rowHeight: 44, keybindings: false, autoResize: false, rowFormatter: (row) => paint(row),
        initialSort: data.methods.length ? [{ column: "rank", dir: "asc" }] : [],
        placeholder: all.length === data.total ? "No example matches." : `No example on this page matches; it holds ${number.format(all.length)} of ${number.format(data.total)}.`,
      });
      table.on("tableBuilt", () => {
        const box = $("table");
        box.tabIndex = 0;
        box.setAttribute("aria-label", "Examples");
        box.setAttribute("aria-multiselectable", "true");
        box.querySelector(".tabulator-tableholder").tabIndex = -1;
        box.addEventListener("keydown", keys);
        headings();
        fit();
        ready();
      });
      // A row that comes back into the window still looks as it did when it left.
      let asked = false;
      const later = () => {
        if (!asked) requestAnimationFrame(() => {
          asked = false;
          mark();
        });
        asked = true;
      };
      table.on("scrollVertical", later);
      table.on("renderComplete", later);
      table.on("rowClick", (event, row) => {
        const i = row.getData().position;
        active = i;
        if (event.ctrlKey || event.metaKey || event.shiftKey) toggle(i);
        else choose([i]);
        $("table").focus({ preventScroll: true });
      });
    });
  }

  // ---------------------------------------------------------------- the chosen examples

  function toggle(i) {
    choose(chosen.includes(i) ? chosen.filter((other) => other !== i) : [...chosen, i]);
  }

  function choose(list) {
    const rank = data.methods[method]?.ranks;
    chosen = rank ? [...list].sort((a, b) => (rank[a] ?? Infinity) - (rank[b] ?? Infinity)) : [...list];
    focused = chosen.length === 1 ? chosen[0] : null;
    shownCards = CARDS;
    show();
  }

  function card(i) {
    const lines = [make("b", {}, data.ids[i])];
    if (data.given) lines.push(make("span", {}, `given ${fact("given", i)}`));
    if (data.predicted) lines.push(make("span", {}, `predicted ${fact("predicted", i)}`));
    if (wrong(i)) lines.push(make("span", { className: "bad" }, `true ${fact("true", i)}`));
    const element = make("button", { type: "button", className: "card", "aria-pressed": String(i === focused) });
    if (data.pictures) element.append(make("img", { src: source(i), alt: `example ${data.ids[i]}` }));
    element.append(...lines);
    if (data.rows) element.append(make("span", {}, cells(i)));
    element.dataset.position = i;
    element.addEventListener("click", () => {
      focused = focused === i ? null : i;
      show();
      $("cards").querySelector(`[data-position="${i}"]`)?.focus({ preventScroll: true });
    });
    return element;
  }

  const caution = (one) => (one.warnings.length ? [make("span", { className: "caution", role: "img", title: one.warnings.join(" "), "aria-label": one.warnings.join(" ") }, " ⚠")] : []);

  function detail(i) {
    if (i === null || !(data.methods.length || data.decision)) return [];
    const parts = [make("h3", {}, `Example ${data.ids[i]}`)];
    if (data.decision) parts.push(make("p", { className: "quiet" }, `${action(i)}: ${data.decision.reasons[data.decision.reason[i]]}`));
    if (data.methods.length) {
      const body = make("tbody");
      for (const one of data.methods) {
        const rank = one.ranks[i] === null ? "–" : `${number.format(one.ranks[i])} of ${number.format(one.scored)}`;
        body.append(make("tr", {}, make("th", { scope: "row" }, one.title, ...caution(one)), make("td", { className: "n" }, rank), make("td", { className: "n" }, spoken(one, i))));
      }
      const head = make("tr", {}, make("th", { scope: "col" }, "method"), make("th", { scope: "col", className: "n" }, "rank"), make("th", { scope: "col", className: "n" }, "score"));
      parts.push(make("table", {}, make("thead", {}, head), body));
    }
    return parts;
  }

  function lines() {
    const { epochs, steps, gap, bytes } = data.lines;
    const drawn = (focused === null ? chosen : [focused]).slice(0, LINES);
    return drawn.flatMap((i) => epochs.map((epoch, at) => {
      const value = bytes[i * epochs.length + at];
      return { position: i, id: data.ids[i], given: fact("given", i), epoch, probability: value === gap ? null : value / steps, label: wrong(i) ? "wrong label" : "right label" };
    }));
  }

  async function show() {
    const n = chosen.length;
    $("chosen-count").textContent = n === 1 ? "1 example" : `${number.format(n)} examples`;
    $("chosen-hint").textContent = n ? "" : `Nothing is chosen. ${specs.map ? "Drag over the data map, or choose" : "Choose"} rows of the table.`;
    $("chosen-hint").hidden = n > 0;
    $("cards").classList.toggle("text", !data.pictures);
    $("cards").replaceChildren(...chosen.slice(0, shownCards).map(card));
    $("more").hidden = n <= shownCards;
    $("more").textContent = `Show ${Math.min(CARDS, n - shownCards)} more of ${number.format(n - shownCards)}`;
    $("one").replaceChildren(...detail(focused));
    jump();
    reflect();
    $("jump").textContent = n === 1 ? "1 chosen example ↑" : `${number.format(n)} chosen examples ↑`;
    mark();
    if (data.lines && $("lines-count")) {
      $("lines-count").textContent = focused === null && n > LINES ? `The first ${LINES} of ${number.format(n)} are drawn.` : "";
    }
    if (chart("map")) await fill("map", "chosen", ringed());
    if (chart("lines")) await fill("lines", "lines", lines());
  }

  // On a narrow screen the chosen stand above the table: a way there while they are out of sight.
  const seen = { table: false, cards: true };

  function jump() {
    $("jump").hidden = !(chosen.length && seen.table && !seen.cards);
  }

  function watch() {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) seen[entry.target.id] = entry.isIntersecting;
      jump();
    });
    for (const id of ["table", "cards"]) observer.observe($(id));
  }

  // ---------------------------------------------------------------- the most harmful and helpful

  const strips = document.querySelectorAll(".strip .card");

  function illustrate() {
    for (const button of strips) {
      const i = Number(button.dataset.position);
      if (data.pictures) button.prepend(make("img", { src: source(i), alt: `example ${data.ids[i]}` }));
      button.addEventListener("click", () => choose(chosen.length === 1 && chosen[0] === i ? [] : [i]));
    }
  }

  // One example may stand in several strips: all show that it is chosen, and a link leads to where the chosen stand.
  function reflect() {
    if (!strips.length) return;
    for (const button of strips) button.setAttribute("aria-pressed", String(chosen.length === 1 && chosen[0] === Number(button.dataset.position)));
    $("back").hidden = chosen.length !== 1;
    $("back").textContent = chosen.length === 1 ? `Example ${data.ids[chosen[0]]} is chosen ↑` : "";
  }

  // ---------------------------------------------------------------- detection

  function lift(title) {
    for (const button of document.querySelectorAll(".lift")) button.setAttribute("aria-pressed", String(button.dataset.title === title));
    $("lifted").textContent = title;
    chart("detection")?.view.signal("method", title).runAsync();
  }

  // ---------------------------------------------------------------- start

  async function start() {
    if ($("table")) {
      if (data.lines) data.lines.bytes = Uint8Array.from(atob(data.lines.values), (character) => character.charCodeAt(0));
      await build();
      $("tools").addEventListener("submit", (event) => event.preventDefault());
      for (const id of ["within", "search"]) $(id)?.addEventListener("input", filter);
      for (const id of ["class", "action", "label"]) $(id)?.addEventListener("change", filter);
      $("method")?.addEventListener("change", () => busy(() => useMethod(Number($("method").value))));
      $("tools").addEventListener("reset", () => busy(async () => {
        await new Promise((done) => setTimeout(done)); // the fields are empty only after this event
        await (data.methods.length ? useMethod(0) : filter());
      }));
      $("search").addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        const exact = rows().findIndex((row) => row.getData().id === $("search").value.trim());
        $("table").focus();
        move(Math.max(0, exact));
        if (active !== null) choose([active]);
      });
      $("clear").addEventListener("click", () => choose([]));
      $("more").addEventListener("click", () => {
        shownCards += CARDS;
        show();
      });
      document.addEventListener("keydown", (event) => {
        if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest?.("input, select, textarea")) return;
        event.preventDefault();
        $("search").focus();
        $("search").select();
      });
      explain();
    }
    for (const button of document.querySelectorAll(".lift")) button.addEventListener("click", () => lift(button.dataset.title));
    if (table) {
      illustrate();
      filter();
      choose(rows().slice(0, OPENING).map((row) => row.getData().position));
      watch();
    }
    for (const block of document.querySelectorAll("details")) block.addEventListener("toggle", () => drawAll());
    await drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
