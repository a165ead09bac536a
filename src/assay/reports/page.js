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

  // One column alone, such as a text, needs no name before every cell.
  function cells(i) {
    return data.columns.length === 1 ? data.rows[i][0] : data.columns.map((name, at) => `${name} ${data.rows[i][at]}`).join(" · ");
  }

  const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);

  // ---------------------------------------------------------------- charts

  async function draw(place) {
    const name = place.dataset.spec;
    const spec = structuredClone(specs[name]);
    place.drawn?.finalize();
    const drawn = await vegaEmbed(place, spec, {
      mode: "vega-lite", actions: false, ast: true, config: theme(), renderer: /^(map|lines|embedding.*|comparison-.*)$/.test(name) ? "canvas" : "svg",
    });
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", spec.description);
    place.drawn = drawn;
    if (name.startsWith("embedding")) {
      wire(drawn.view, ["across", "up"], all.filter((i) => data.embedding.at.has(i)), (i) => data.embedding.at.get(i));
      await fill(name, "examples", mapped(found));
      await fill(name, "chosen", chosen.length <= RINGS ? mapped(chosen) : []);
    }
    if (name === "map") {
      wire(drawn.view, ["variability", "confidence"], all, (i) => ({ variability: data.map.variability[i], confidence: data.map.confidence[i] }));
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

  // A dragged box chooses what lies in it and is not filtered out, a click one example.
  function wire(view, [x, y], there, of) {
    let waiting;
    view.addSignalListener("brush", (_, box) => {
      clearTimeout(waiting);
      if (!box[x] || !box[y]) return;
      const inside = (value, [one, other]) => value >= Math.min(one, other) && value <= Math.max(one, other);
      const kept = new Set(there);
      waiting = setTimeout(() => {
        choose(found.filter((i) => kept.has(i) && inside(of(i)[x], box[x]) && inside(of(i)[y], box[y])));
      }, 120);
    });
    view.addSignalListener("pick", (_, picked) => {
      if (picked.position) choose(picked.position.map(Number));
    });
  }

  const colouring = () => document.querySelector("#embedding .chart")?.dataset.spec;

  // Points of the map of features; the colour is the place in the ranking of one score, from 1 for the first to 0 for the last.
  function mapped(list) {
    const by = data.methods[Number($("colour").value)];
    return list.filter((i) => data.embedding.at.has(i)).map((i) => ({
      position: i, id: data.ids[i], given: fact("given", i), predicted: fact("predicted", i) ?? "–", true: fact("true", i),
      image: data.pictures ? source(i) : undefined, label: wrong(i) ? "wrong label" : "right label", ...data.embedding.at.get(i),
      ...(by ? {
        first: by.ranks[i] === null ? null : 1 - (by.ranks[i] - 1) / Math.max(1, by.scored - 1),
        rank: by.ranks[i] === null ? "not scored" : `${number.format(by.ranks[i])} of ${number.format(by.scored)}`, score: spoken(by, i),
      } : {}),
    }));
  }

  async function recolour() {
    const place = document.querySelector("#embedding .chart");
    const wanted = $("colour").value === "class" ? "embedding-class" : "embedding";
    if (place.dataset.spec !== wanted) {
      place.dataset.spec = wanted;
      await draw(place);
    } else await fill(wanted, "examples", mapped(found));
  }

  const point = (i) => ({
    position: i, id: data.ids[i], given: fact("given", i), predicted: fact("predicted", i) ?? "–", true: fact("true", i),
    image: data.pictures ? source(i) : undefined, label: wrong(i) ? "wrong label" : "right label",
    confidence: data.map.confidence[i], variability: data.map.variability[i], correctness: data.map.correctness[i],
  });

  // More rings than this would hide the points that they mark; the brush shows where those are.
  const ringed = () => (chosen.length <= RINGS ? chosen.map(point) : []);

  // ---------------------------------------------------------------- the marks of a reviewer

  // By id, so that marks made on another page of the same decision, of examples that are not on this one, are kept and saved too.
  const marks = new Map();
  const place = data.review ? `assay review ${data.review.dataset} ${data.review.decision}` : "";
  const markOf = (i) => marks.get(data.ids[i]);

  // Says whether the marks outlive this page.
  function keep(write = true) {
    let kept = true;
    try {
      if (write) localStorage.setItem(place, JSON.stringify([...marks]));
      else for (const [id, one] of JSON.parse(localStorage.getItem(place) ?? "[]")) {
        if (["right", "wrong", "unsure"].includes(one.mark)) marks.set(String(id), { mark: one.mark, label: one.label in data.classes ? one.label : null });
      }
    } catch {
      kept = false;
    }
    $("kept").textContent = kept ? "Marks stay in this browser, also when the page is closed." : "This browser keeps no marks for this page: save them before you close it.";
    $("kept").className = kept ? "" : "caution";
  }

  function badge(i) {
    const one = markOf(i);
    const words = !one ? "" : one.mark === "wrong" && one.label !== null ? `wrong: ${label(one.label)}` : one.mark;
    return make("span", { className: `clamp mark ${one ? one.mark : ""}`, title: words }, words);
  }

  const KINDS = ["wrong", "unsure", "right"];
  const byMark = (i, j) => (KINDS.indexOf(markOf(i)?.mark) + 4) % 4 - (KINDS.indexOf(markOf(j)?.mark) + 4) % 4 || data.opening[i] - data.opening[j];

  const drawn = data.decision?.sample ? data.ids.map((_, i) => i).filter((i) => data.decision.sample[i] !== null).sort((a, b) => data.decision.sample[a] - data.decision.sample[b]) : [];

  function tally() {
    const all = [...marks.values()];
    const count = (kind) => all.filter((one) => one.mark === kind).length;
    let words = all.length ? `${number.format(all.length)} marked: ${count("wrong")} wrong, ${count("right")} right, ${count("unsure")} unsure.` : "Nothing is marked yet.";
    if (drawn.length && all.length) {
      const first = drawn.findIndex((i) => !markOf(i));
      const n = first < 0 ? drawn.length : first;
      if (n) words += ` The first ${number.format(n)} of the random sample are among them.`;
    }
    $("tally").textContent = words;
    $("save-marks").disabled = !all.length;
  }

  function setMark(i, kind, to = null) {
    if (kind === null) marks.delete(data.ids[i]);
    else marks.set(data.ids[i], { mark: kind, label: kind === "wrong" ? to : null });
    keep();
    tally();
    table.getRow(i)?.reformat();
    repaint();
  }

  // Returns whether the key is one that marks.
  function markBy(key, i) {
    const other = data.predicted && data.predicted[i] !== data.given[i] ? data.predicted[i] : null;
    if (key === "r") setMark(i, "right");
    else if (key === "w") setMark(i, "wrong");
    else if (key === "p" && other !== null) setMark(i, "wrong", other);
    else if (key === "u") setMark(i, "unsure");
    else if (key === "x") setMark(i, null);
    else return false;
    return true;
  }

  function reviewKeys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest?.("#examples") || event.target.closest("input, select, textarea, .tools")) return;
    const aside = Boolean(event.target.closest("#chosen"));
    const i = aside && focused !== null ? focused : active;
    if (i === null || !markBy(event.key, i)) return;
    event.preventDefault();
    next(i);
    $("table").focus({ preventScroll: true });
  }

  // The example after this one is shown, so that a reviewer need not reach for another key.
  function next(i) {
    if (!rows().length) return;
    active = i;
    move(at() + 1);
    choose([active]);
  }

  function saveMarks() {
    const listed = [...marks].map(([id, one]) => ({ id, mark: one.mark, ...(one.label === null ? {} : { label: one.label, name: data.classes[one.label] }) }));
    const body = { assay: "review", schema: data.review.schema, dataset: data.review.dataset, decision: data.review.decision, title: data.review.title, marks: listed };
    download("review.json", "application/json", `${JSON.stringify(body, null, 1)}\n`);
    done(`review.json holds ${number.format(listed.length)} marks; assay review takes it back.`);
  }

  // The marks of a file that a page saved, by id; what is no such file, or of another page, is refused with a sentence.
  function marksIn(text) {
    let said;
    try {
      said = JSON.parse(text);
    } catch {
      throw new Error("is no JSON");
    }
    if (said?.assay !== "review" || !Array.isArray(said.marks)) throw new Error("holds no marks that a page of assay saved");
    if (said.schema !== data.review.schema) throw new Error(`is of schema ${said.schema}, this page of ${data.review.schema}`);
    if (said.dataset !== data.review.dataset) throw new Error(`marks examples of dataset ${said.dataset}, this page shows ${data.review.dataset}`);
    if (said.decision !== data.review.decision) throw new Error(`is about ${said.decision ? "another decision" : "no decision"}, this page shows ${data.review.decision ? data.review.title : "none"}`);
    const found = new Map();
    for (const one of said.marks) {
      const id = one?.id;
      if (typeof id !== "string" || !KINDS.includes(one.mark)) throw new Error(`holds a mark that is none (${JSON.stringify(one)})`);
      if (found.has(id)) throw new Error(`marks ${id} twice`);
      const to = one.label ?? null;
      if (to !== null && (one.mark !== "wrong" || !Number.isInteger(to) || data.classes[to] === undefined || data.classes[to] !== one.name)) throw new Error(`gives ${id} a class that this page does not have (${one.name})`);
      found.set(id, { mark: one.mark, label: to });
    }
    return found;
  }

  // All marks of a file or none; where this page has another one of the same example, that of the file takes its place.
  async function loadMarks(file) {
    let words;
    try {
      const found = marksIn(await file.text());
      const places = new Map(data.ids.map((id, i) => [id, i]));
      let changed = 0;
      for (const [id, one] of found) {
        const before = marks.get(id);
        changed += before !== undefined && (before.mark !== one.mark || before.label !== one.label);
        marks.set(id, one);
      }
      keep();
      tally();
      for (const id of found.keys()) if (places.has(id)) table.getRow(places.get(id))?.reformat();
      filter();
      repaint();
      words = `${number.format(found.size)} marks are loaded from ${file.name}.${changed ? ` ${number.format(changed)} of them took the place of other marks of the same examples.` : ""}`;
      $("loaded").className = "quiet";
    } catch (error) {
      words = `No mark was loaded: ${file.name} ${error.message}. Choose a file that Save marks wrote on a page of this decision.`;
      $("loaded").className = "caution";
    }
    $("loaded").textContent = words;
    $("loaded").hidden = false;
  }

  // Buttons for the one example that is looked at.
  function markers(i) {
    if (!data.review) return [];
    const one = markOf(i);
    const button = (words, key, on) => {
      const made = make("button", { type: "button", "aria-pressed": String(on), title: `key ${key}` }, words);
      made.addEventListener("click", () => {
        markBy(on ? "x" : key, i);
        show();
        $("one").querySelector(`.markers [title="key ${key}"]`)?.focus({ preventScroll: true });
      });
      return made;
    };
    const other = data.predicted && data.predicted[i] !== data.given[i] ? data.predicted[i] : null;
    const list = make("select", { "aria-label": "The right class" }, make("option", { value: "" }, "another class …"));
    data.classes.forEach((name, at) => { if (at !== data.given[i]) list.append(make("option", { value: String(at) }, name)); });
    list.value = one?.mark === "wrong" && one.label !== null && one.label !== other ? String(one.label) : "";
    list.addEventListener("change", () => { setMark(i, "wrong", list.value === "" ? null : Number(list.value)); show(); });
    return [make("div", { className: "markers", role: "group", "aria-label": `The label ${label(data.given[i])} is` },
      button("right", "r", one?.mark === "right"),
      button("wrong", "w", one?.mark === "wrong" && one.label === null),
      ...(other === null ? [] : [button(`it is ${label(other)}`, "p", one?.mark === "wrong" && one.label === other)]),
      button("unsure", "u", one?.mark === "unsure"), list)];
  }

  // ---------------------------------------------------------------- what leaves the page

  function download(name, kind, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function done(words) {
    $("done").textContent = words;
    $("done").hidden = false;
  }

  async function copyIds(list) {
    const text = list.map((i) => data.ids[i]).join("\n");
    $("copied").hidden = true;
    try {
      await navigator.clipboard.writeText(text);
      done(`${number.format(list.length)} ids are copied, one a line.`);
    } catch {
      // Where a browser lets no page write to the clipboard the reader copies them.
      $("copied").value = text;
      $("copied").hidden = false;
      $("copied").select();
      done(`${number.format(list.length)} ids: this browser lets no page copy; press Ctrl C.`);
    }
  }

  // A cell that a spreadsheet would take for a formula gets a ' before it; plain numbers are none.
  const PLAIN = /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/;
  function csvCell(value) {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) && !PLAIN.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function saveRows(list) {
    const one = data.methods[method];
    const fields = [["id", (i) => data.ids[i]]];
    if (one) fields.push(["rank", (i) => one.ranks[i]], [`score ${one.title}`, (i) => one.values[i]]);
    if (data.given) fields.push(["given", (i) => fact("given", i)]);
    if (data.predicted) fields.push(["predicted", (i) => fact("predicted", i)]);
    if (data.probs) fields.push(["probability", (i) => data.probs[i]]);
    if (data.true) fields.push(["true", (i) => fact("true", i)]);
    if (data.damaged) fields.push(["damaged", (i) => (data.damaged[i] ? "yes" : "no")]);
    if (data.decision) fields.push(["decision", (i) => action(i)], ["reason", (i) => data.decision.reasons[data.decision.reason[i]]]);
    if (data.review) fields.push(["mark", (i) => markOf(i)?.mark], ["right class", (i) => (markOf(i) && markOf(i).label !== null ? label(markOf(i).label) : "")]);
    data.columns.forEach((name, at) => fields.push([name, (i) => data.rows[i][at]]));
    const lines = [fields.map(([name]) => csvCell(name)).join(","), ...list.map((i) => fields.map(([, value]) => csvCell(value(i))).join(","))];
    // With the mark by which spreadsheets know UTF-8.
    download("examples.csv", "text/csv", `\ufeff${lines.join("\r\n")}\r\n`);
    done(`examples.csv holds ${number.format(list.length)} rows.`);
  }

  // ---------------------------------------------------------------- the table

  const all = data.ids.map((_, i) => i);
  let method = 0;
  let table = null;
  let active = null;
  let chosen = [];
  let focused = null;
  let shownCards = CARDS;
  let found = all;
  let order = data.decision ? "opening" : "rank";
  const narrow = matchMedia("(max-width: 640px)");

  function row(i) {
    const one = data.methods[method];
    const made = {
      position: i, id: data.ids[i], given: fact("given", i), predicted: fact("predicted", i), true: fact("true", i),
      probability: data.probs ? data.probs[i] : undefined,
      decision: data.decision ? action(i) : undefined, reason: data.decision ? data.decision.reasons[data.decision.reason[i]] : undefined,
      rank: one ? one.ranks[i] : undefined, score: one ? one.values[i] : undefined,
    };
    if (data.rows) data.rows[i].forEach((cell, at) => { made[`cell${at}`] = cell; });
    return made;
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
    return make("span", { className: odd ? "clamp bad" : "clamp", title: cell.getValue() }, cell.getValue());
  };
  const acted = (i) => make("span", { className: `act ${data.decision.actions[i]}`, title: action(i) }, action(i));

  // Numbers by size, whatever else by the alphabet.
  function byCell(a, b) {
    const [one, other] = [Number(a), Number(b)];
    return a.trim() !== "" && b.trim() !== "" && Number.isFinite(one) && Number.isFinite(other) ? one - other : a < b ? -1 : a > b ? 1 : 0;
  }

  // What the decision acts on stands first, in its order, or in the order of a random sample.
  function byOrder(_a, _b, one, other) {
    const [a, b] = [one.getData().position, other.getData().position];
    const turns = order === "sample" ? data.decision.sample : data.opening;
    return (turns[a] ?? Infinity) === (turns[b] ?? Infinity) ? data.opening[a] - data.opening[b] : (turns[a] ?? Infinity) - (turns[b] ?? Infinity);
  }

  // Where there is one column only, it sorts as the order says.
  function inTurn(a, b, one, other) {
    if (order !== "rank") return byOrder(a, b, one, other);
    return data.methods.length ? byNumber(one.getData().rank, other.getData().rank, one, other, null, "asc") : a - b;
  }

  // Two lines, or three, hold the longest name, or as much of it as there is room for; the rest is an ellipsis with the whole name behind it.
  const longest = Math.max(0, ...data.classes.map((name) => name.length));
  const word = Math.max(0, ...data.classes.flatMap((name) => name.split(/[\s-]+/)).map((part) => part.length));
  function named(least, room) {
    return Math.max(least, Math.min(200, room, 18 + Math.max((tall ? 3.4 : 4.1) * longest, 7.6 * word)));
  }

  // Beside the cells of a table, which may be scrolled to, names need not share what room there is.
  function roomForNames() {
    const others = (data.pictures ? 62 : 0) + (data.numeric ? 64 : 110) + (data.probs ? 78 : 0) + (data.decision ? 224 : 0) + (data.review ? 72 : 0) + (data.methods.length ? 146 : 0);
    return data.rows ? 150 : ($("table").clientWidth - 64 - others) / (1 + Boolean(data.predicted) + Boolean(data.true));
  }

  // As many lines as the longest name takes in the narrowest of its columns, words not cut, and three for texts.
  function nameLines() {
    if (narrow.matches) return longest > 36 ? Math.min(8, Math.max(2, Math.ceil((longest + 10) / ((0.7 * ($("table").clientWidth - 90)) / 6.9)))) : 2;
    if (!tall) return 2;
    const fit = Math.max(8, (0.7 * (named(74, roomForNames()) - 18)) / 6.9);
    return Math.min(8, Math.max(3, data.given ? Math.ceil(longest / fit) : 0));
  }

  // On a phone a row is one cell: the suspect, its rank and its labels, so that nothing of it lies outside the screen.
  function suspect(cell) {
    const i = cell.getData().position;
    const one = data.methods[method];
    const rank = one && one.ranks[i] !== null ? `rank ${number.format(one.ranks[i])}` : "no rank";
    const line = (...parts) => make("span", { className: "line" }, ...parts);
    const odd = data.predicted && data.predicted[i] !== data.given[i];
    const sure = data.probs ? [`${percent(data.probs[i])} for the predicted`] : [];
    const state = [make("b", {}, data.ids[i]), ` · ${rank} `];
    if (data.decision && data.decision.actions[i] !== "keep") state.push(acted(i));
    if (markOf(i)) state.push(" ", badge(i));
    const lines = [line(...state)];
    if (data.given) lines.push(make("span", { className: "line label" }, `given ${fact("given", i)}`));
    if (data.predicted) lines.push(make("span", { className: `line label ${odd ? "bad" : ""}` }, `predicted ${fact("predicted", i)}`));
    const more = [...sure, ...(wrong(i) ? [`true ${fact("true", i)}`] : []), ...(data.damaged?.[i] ? ["image damaged"] : []), ...(data.rows ? [cells(i)] : [])];
    if (more.length) lines.push(line(more.join(" · ")));
    const body = make("span", { className: "suspect" }, ...lines);
    body.title = `${data.ids[i]}${data.given ? `: given ${fact("given", i)}` : ""}${data.predicted ? `, predicted ${fact("predicted", i)}` : ""}`;
    return data.pictures ? make("span", { className: "pictured" }, make("img", { src: source(i), alt: "" }), body) : body;
  }

  // Columns of texts, which need room.
  const long = data.rows ? data.columns.map((_, at) => at).filter((at) => {
    const few = data.rows.slice(0, 200);
    return few.reduce((sum, cells) => sum + cells[at].length, 0) > 30 * few.length;
  }) : [];
  const tall = longest > 36 || long.length > 0;

  function columns() {
    const heading = (cell) => document.createTextNode(cell.getValue());
    const column = (field, title, width, more = {}) => ({
      field, title, minWidth: width, widthGrow: 1, formatter: text, titleFormatter: heading, sorter: "string", headerSortTristate: false, resizable: "header", ...more,
    });
    const list = [];
    if (narrow.matches) return [column("position", "example", 200, { headerSort: false, formatter: suspect, sorter: inTurn })];
    const frozen = Boolean(data.rows && !long.length);
    const room = roomForNames();
    if (data.pictures) {
      list.push(column("position", "picture", 62, {
        width: 62, headerSort: false, resizable: false,
        formatter: (cell) => make("img", { src: source(cell.getValue()), alt: `example ${data.ids[cell.getValue()]}` }),
      }));
    }
    list.push(column("id", "id", data.numeric ? 64 : 110, { sorter: byId, formatter: clamp, widthGrow: data.numeric ? 1 : 2, frozen }));
    if (data.methods.length) {
      list.push(column("rank", "rank", 66, { sorter: byNumber, cssClass: "n", headerHozAlign: "right", formatter: (cell) => (cell.getValue() === null ? "–" : number.format(cell.getValue())) }));
    }
    if (data.given) list.push(column("given", "given", named(78, room), { formatter: clamp }));
    if (data.predicted) list.push(column("predicted", "predicted", named(108, room), { formatter: against }));
    if (data.probs) list.push(column("probability", "prob.", 78, { sorter: byNumber, cssClass: "n", headerHozAlign: "right", headerTooltip: "Probability of the predicted class", formatter: (cell) => percent(cell.getValue()) }));
    if (data.true) list.push(column("true", "true", named(74, room), { formatter: against }));
    const cellColumn = (at, width, grow) => list.push(column(`cell${at}`, data.columns[at], width, { sorter: byCell, formatter: clamp, widthGrow: grow }));
    for (const at of long) cellColumn(at, 240, 5);
    if (data.decision) list.push(column("decision", "decision", 104, { sorter: byOrder, formatter: (cell) => acted(cell.getData().position) }));
    if (data.review) list.push(column("mark", "mark", 72, { sorter: (_a, _b, one, other) => byMark(one.getData().position, other.getData().position), formatter: (cell) => badge(cell.getData().position) }));
    if (data.methods.length) {
      list.push(column("score", "score", data.methods.some((one) => one.halves) ? 128 : 80, { sorter: byNumber, cssClass: "n", headerHozAlign: "right", formatter: (cell) => spoken(data.methods[method], cell.getData().position) }));
    }
    data.columns.forEach((_, at) => { if (data.rows && !long.includes(at)) cellColumn(at, 84, 1); });
    if (data.decision) list.push(column("reason", "reason", 120, { formatter: clamp, widthGrow: 2 }));
    return list;
  }

  function passes(i) {
    const is = (id) => $(id)?.value ?? "";
    const within = Number(is("within"));
    const rank = data.methods[method]?.ranks[i];
    if (within >= 1 && (rank === null || rank > within)) return false;
    if (is("class") !== "" && data.given[i] !== Number(is("class"))) return false;
    if (is("action") === "touched" ? data.decision.actions[i] === "keep" : is("action") !== "" && data.decision.actions[i] !== is("action")) return false;
    const kind = markOf(i)?.mark;
    if (is("marked") === "none" ? kind : is("marked") === "any" ? !kind : is("marked") !== "" && kind !== is("marked")) return false;
    if (is("label") === "against" && data.predicted[i] === data.given[i]) return false;
    if (is("label") === "with" && data.predicted[i] !== data.given[i]) return false;
    if (is("label") === "wrong" && !wrong(i)) return false;
    if (is("label") === "right" && wrong(i)) return false;
    if (is("damage") !== "" && (is("damage") === "damaged") !== data.damaged[i]) return false;
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
    if (colouring() && chart(colouring())) fill(colouring(), "examples", mapped(found));
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
  let built = false;
  let fitted = false;

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
    inOrder(order === "opening" && index === 0 ? "opening" : "rank");
    filter();
  }

  function inOrder(wanted) {
    order = data.decision ? wanted : "rank";
    if ($("order")) $("order").value = order;
    const column = { opening: "decision", sample: "decision", rank: "rank" }[order];
    if (narrow.matches) table.setSort([{ column: "position", dir: "asc" }]);
    else if (order !== "rank" || data.methods.length) table.setSort(column, "asc");
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
    repaint();
  }

  const at = () => rows().findIndex((row) => row.getData().position === active);

  // Every row that is drawn, also those that the table holds ready above and below what is seen.
  function repaint() {
    const picked = new Set(chosen);
    for (const element of $("table").querySelectorAll(".tabulator-row")) look(element, Number(element.dataset.position), picked);
  }

  function paint(row) {
    const element = row.getElement();
    const i = row.getData().position;
    element.id = `row-${i}`;
    element.dataset.position = i;
    look(element, i, new Set(chosen));
  }

  function look(element, i, picked) {
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
      if (built) table.redraw(true);
    }).observe($("table").parentElement);
  }

  function build() {
    built = false;
    return new Promise((ready) => {
      table = new Tabulator("#table", {
        data: all.map(row), columns: columns(), index: "position", layout: "fitColumns", height: Math.min(640, Math.max(320, window.innerHeight * 0.75)),
        rowHeight: narrow.matches ? (longest > 36 ? Math.ceil(59 + 37.5 * nameLines()) : 98) : Math.ceil(15 + 14.4 * nameLines()), keybindings: false, autoResize: false, rowFormatter: paint,
        initialSort: narrow.matches ? [{ column: "position", dir: "asc" }] : data.decision ? [{ column: "decision", dir: "asc" }] : data.methods.length ? [{ column: "rank", dir: "asc" }] : [],
        placeholder: all.length === data.total ? "No example matches." : `No example on this page matches; it holds ${number.format(all.length)} of ${number.format(data.total)}.`,
      });
      table.on("tableBuilt", () => {
        const box = $("table");
        box.style.setProperty("--lines", nameLines());
        box.tabIndex = 0;
        box.setAttribute("aria-label", "Examples");
        box.setAttribute("aria-multiselectable", "true");
        box.querySelector(".tabulator-tableholder").tabIndex = -1;
        box.addEventListener("keydown", keys);
        headings();
        if (!fitted) fit();
        built = fitted = true;
        ready();
      });
      // A row that comes back into the window still looks as it did when it left.
      let asked = false;
      const later = () => {
        if (!asked) requestAnimationFrame(() => {
          asked = false;
          repaint();
        });
        asked = true;
      };
      table.on("scrollVertical", later);
      table.on("renderComplete", later);
      table.on("headerClick", () => { if ($("order")) $("order").value = ""; });
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
    if (data.predicted) lines.push(make("span", { className: data.predicted[i] === data.given[i] ? "" : "bad" }, `predicted ${fact("predicted", i)}${data.probs ? ` ${percent(data.probs[i])}` : ""}`));
    if (wrong(i)) lines.push(make("span", { className: "bad" }, `true ${fact("true", i)}`));
    if (data.damaged?.[i]) lines.push(make("span", { className: "bad" }, "image damaged"));
    const element = make("button", { type: "button", className: "card", "aria-pressed": String(i === focused) });
    if (data.pictures) element.append(make("img", { src: source(i), alt: `example ${data.ids[i]}` }));
    element.append(...lines);
    if (data.rows) element.append(make("span", { className: "cells" }, cells(i)));
    if (markOf(i)) element.append(badge(i));
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
    if (i === null || !(data.methods.length || data.decision || data.review)) return [];
    const parts = [make("h3", {}, `Example ${data.ids[i]}`), ...markers(i)];
    if (data.decision) parts.push(make("p", { className: "quiet" }, `${action(i)}: ${data.decision.reasons[data.decision.reason[i]]}`));
    if (data.rows) {
      const body = make("tbody", {}, ...data.columns.map((name, at) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, data.rows[i][at]))));
      parts.push(data.columns.length === 1 ? make("p", { className: "whole" }, data.rows[i][0]) : make("table", {}, body));
    }
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
    $("chosen-hint").textContent = n ? "" : `Nothing is chosen. ${specs.map || colouring() ? "Drag over a map, or choose" : "Choose"} rows of the table.`;
    $("chosen-hint").hidden = n > 0;
    $("cards").classList.toggle("text", !data.pictures);
    $("cards").classList.toggle("alone", n === 1);
    $("cards").replaceChildren(...chosen.slice(0, shownCards).map(card));
    $("more").hidden = n <= shownCards;
    $("more").textContent = `Show ${Math.min(CARDS, n - shownCards)} more of ${number.format(n - shownCards)}`;
    $("one").replaceChildren(...detail(focused));
    jump();
    reflect();
    $("jump").textContent = n === 1 ? "1 chosen example ↑" : `${number.format(n)} chosen examples ↑`;
    repaint();
    if (data.lines && $("lines-count")) {
      $("lines-count").textContent = focused === null && n > LINES ? `The first ${LINES} of ${number.format(n)} are drawn.` : "";
    }
    if (chart("map")) await fill("map", "chosen", ringed());
    if (colouring() && chart(colouring())) await fill(colouring(), "chosen", n <= RINGS ? mapped(chosen) : []);
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
      if (data.embedding) {
        const { positions, across, up } = data.embedding;
        data.embedding.at = new Map(positions.map((i, at) => [i, { across: across[at], up: up[at] }]));
        $("colour").addEventListener("change", recolour);
      }
      if (data.review) keep(false);
      await build();
      $("tools").addEventListener("submit", (event) => event.preventDefault());
      for (const id of ["within", "search"]) $(id)?.addEventListener("input", filter);
      for (const id of ["class", "action", "label", "damage", "marked"]) $(id)?.addEventListener("change", filter);
      $("method")?.addEventListener("change", () => busy(() => useMethod(Number($("method").value))));
      $("tools").addEventListener("reset", () => busy(async () => {
        await new Promise((done) => setTimeout(done)); // the fields are empty only after this event
        order = data.decision ? "opening" : "rank";
        await (data.methods.length ? useMethod(0) : (inOrder(order), filter()));
      }));
      $("search").addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        const exact = rows().findIndex((row) => row.getData().id === $("search").value.trim());
        $("table").focus();
        move(Math.max(0, exact));
        if (active !== null) choose([active]);
      });
      $("order")?.addEventListener("change", () => {
        if ($("order").value === "sample") $("action").value = "touched";
        inOrder($("order").value);
        filter();
      });
      $("clear").addEventListener("click", () => choose([]));
      $("copy-chosen").addEventListener("click", () => copyIds(chosen));
      $("copy-rows").addEventListener("click", () => copyIds(rows().map((row) => row.getData().position)));
      $("save-rows").addEventListener("click", () => saveRows(rows().map((row) => row.getData().position)));
      if (data.review) {
        $("save-marks").addEventListener("click", saveMarks);
        $("load-marks").addEventListener("click", () => $("marks-file").click());
        $("marks-file").addEventListener("change", () => {
          const [file] = $("marks-file").files;
          // Emptied, so that the same file can be chosen again.
          if (file) loadMarks(file).finally(() => { $("marks-file").value = ""; });
        });
        document.addEventListener("keydown", reviewKeys);
        tally();
      }
      // A phone that is turned, or a window made narrow, gets the other table.
      let building = Promise.resolve();
      // One after the other: a table that is not built yet cannot be taken down.
      narrow.addEventListener("change", () => {
        building = building.then(async () => {
          table.destroy();
          await build();
          inOrder(order);
          filter();
        });
      });
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
