"use strict";
function button(parent, text, act) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", () => act(element));
  parent.append(element);
}

// Sorting the table of classes

const table = document.getElementById("class-table");
const heads = [...table.tHead.rows[0].cells];
function key(row, column, kind) {
  const cell = row.cells[column];
  return kind === "text" ? cell.textContent.trim() : cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
}
function compareNumbers(a, b, order) { // unknown values last, whichever the order
  return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : order * (a - b);
}
function sort(column) {
  const head = heads[column], kind = head.dataset.sort, old = head.getAttribute("aria-sort");
  const order = old ? (old === "ascending" ? -1 : 1) : kind === "text" ? 1 : -1;
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map(row => [key(row, column, kind), row]);
  rows.sort(([a], [b]) => kind === "text" ? order * a.localeCompare(b) : compareNumbers(a, b, order));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
heads.forEach((head, column) => {
  const text = head.textContent;
  head.textContent = "";
  button(head, text, () => sort(column));
});

// Copying the command

document.querySelectorAll(".command").forEach(box => button(box, "Copy", async element => {
  const text = box.querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    element.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    element.textContent = "Selected";
  }
}));

// The images: which are shown, and in which order

const cards = document.getElementById("cards");
if (cards) {
  const find = id => document.getElementById(id);
  const STEP = { rows: 6, grid: 24 }; // images shown at first, and more at each click
  const all = [...cards.children].map((element, place) => ({
    element, place,
    name: element.querySelector("bdi").textContent,
    caption: element.querySelector(".score").textContent,
    score: element.dataset.score === "" ? NaN : Number(element.dataset.score),
    classes: new Map(element.dataset.classes.split(" ").filter(Boolean).map(pair => pair.split(":"))),
    views: [...element.querySelectorAll(".view")],
  }));
  let shown = all, limit = STEP.rows;

  const scoreOf = card => find("only").value === "" ? card.score : Number(card.classes.get(find("only").value));
  const orders = {
    worst: (a, b) => compareNumbers(scoreOf(a), scoreOf(b), 1) || a.place - b.place,
    best: (a, b) => compareNumbers(scoreOf(a), scoreOf(b), -1) || a.place - b.place,
    name: (a, b) => a.name.localeCompare(b.name),
  };

  function label(card) {
    const only = find("only");
    const ofClass = only.value === "" ? "" : `${only.selectedOptions[0].text}: ${cards.dataset.column} ${scoreOf(card).toFixed(3)}, `;
    card.element.querySelector(".score").textContent = ofClass + card.caption;
  }

  function update() {
    const only = find("only").value, panel = find("panel").value;
    shown = all.filter(card => only === "" || card.classes.has(only)).sort(orders[find("order").value]);
    cards.classList.toggle("grid", panel !== "");
    all.forEach(card => {
      card.element.hidden = true;
      card.views.forEach((view, index) => { view.hidden = panel !== "" && index !== Number(panel); });
    });
    shown.slice(0, limit).forEach(card => { card.element.hidden = false; label(card); });
    cards.append(...shown.map(card => card.element));
    const number = Math.min(limit, shown.length);
    find("number").textContent = shown.length ? `${number} of ${shown.length}` : "no image shows this class";
    find("more").hidden = number === shown.length;
  }
  const step = () => find("panel").value === "" ? STEP.rows : STEP.grid;
  ["panel", "only", "order"].forEach(id => find(id).addEventListener("change", () => { limit = step(); update(); }));
  find("more").addEventListener("click", () => { limit += 2 * step(); update(); });
  const counts = new Map();
  all.forEach(card => card.classes.forEach((_, number) => counts.set(number, (counts.get(number) || 0) + 1)));
  [...find("only").options].slice(1).forEach(option => {
    if (counts.has(option.value)) option.label = `${option.text} (${counts.get(option.value)})`;
    else option.remove();
  });
  find("tools").hidden = false;
  update();

  // The enlarged picture: two panels, one of them wiped over the other

  const box = find("lightbox"), stage = find("stage"), wipe = find("wipe");
  const sides = { left: box.dataset.left, right: box.dataset.right }; // captions
  const isWipe = sides.left !== "";
  let current = 0;

  function imageOf(card, caption) {
    const view = card.views.find(one => one.querySelector(".caption").textContent === caption) || card.views[0];
    return view.querySelector("img");
  }
  function place(value) {
    wipe.value = value;
    stage.style.setProperty("--wipe", `${wipe.value}%`);
  }
  function fill(select, card, side) {
    select.replaceChildren(...card.views.map(view => {
      const caption = view.querySelector(".caption").textContent;
      return new Option(caption, caption, false, caption === sides[side]);
    }));
    sides[side] = select.value;
  }
  function draw() {
    const card = shown[current];
    for (const side of ["left", "right"]) {
      fill(find(side), card, side);
      const image = imageOf(card, sides[side]), target = stage.querySelector(`img.${side}`);
      target.src = image.src;
      target.alt = image.alt;
      if (side === "right") stage.style.setProperty("--ratio", image.getAttribute("width") / image.getAttribute("height"));
    }
    box.querySelector("h3 bdi").textContent = card.name;
    label(card);
    box.querySelector(".score").textContent = `${card.element.querySelector(".score").textContent} · ${current + 1} of ${shown.length}`;
  }
  function move(by) {
    current = (current + by + shown.length) % shown.length;
    draw();
  }
  function drag(event) {
    const area = stage.getBoundingClientRect();
    place(100 * (event.clientX - area.left) / area.width);
  }
  box.classList.toggle("single", !isWipe);
  all.forEach(card => card.element.querySelector("button").addEventListener("click", () => {
    current = shown.indexOf(card);
    place(50);
    draw();
    box.showModal();
    (isWipe ? wipe : find("next")).focus();
  }));
  wipe.addEventListener("input", () => place(wipe.value));
  stage.addEventListener("pointerdown", event => {
    if (!isWipe || event.button) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    wipe.focus();
    drag(event);
  });
  stage.addEventListener("pointermove", event => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  ["left", "right"].forEach(side => find(side).addEventListener("change", event => { sides[side] = event.target.value; draw(); }));
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("close").addEventListener("click", () => box.close());
  box.addEventListener("click", event => { if (event.target === box) box.close(); }); // beside the picture
  box.addEventListener("keydown", event => {
    const by = { n: 1, p: -1 }[event.key];
    if (by && event.target.tagName !== "SELECT" && !event.ctrlKey && !event.metaKey) move(by);
  });
}
