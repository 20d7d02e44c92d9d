"use strict";
(() => {
  const items = JSON.parse(document.getElementById("items").textContent);
  const find = (id) => document.getElementById(id);
  const list = find("list"), pane = find("pane"), reader = find("reader");
  const KINDS = {
    conversation: ["Conversations", "Policy"],
    futures: ["Simulated futures", "Stage"],
    samples: ["Training samples", "Stage"],
    replies: ["Replies beside the human's", "Stage"],
    crisis: ["Replies in a crisis", "Policy"],
  };
  const NUM_LATEST = 4;
  const kinds = Object.keys(KINDS).filter((kind) => items.some((item) => item.kind === kind));
  let shown = [];
  let current = -1;

  // Everything said reaches the page as text, never as markup.
  function make(tag, kind, ...children) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const signed = (value) =>
    (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(2);
  const plain = (value) => (value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(2);
  const mood = (message) => message.outcome || (message.value > 0.75 ? "solved"
    : message.value > 0 ? "better" : message.value > -0.75 ? "same" : "worse");
  const judged = (messages) => messages.filter((message) => message.value !== undefined);

  function fill(select, first, names) {
    const kept = select.value;
    select.replaceChildren(new Option(first, ""), ...names.map((name) => new Option(name, name)));
    if (names.includes(kept)) select.value = kept;
  }
  const kind = () => document.querySelector("[name=kind]:checked").value;
  const unique = (of, key) => [...new Set(of.map((item) => item[key]).filter(Boolean))];
  const hasEnd = (item) => item.success !== undefined;

  function setKind() {
    const own = items.filter((item) => item.kind === kind());
    find("group-label").textContent = KINDS[kind()][1];
    fill(find("group"), "all", unique(own, "group"));
    fill(find("problem"), "any problem", unique(own, "problem").sort());
    find("success").parentElement.hidden = !own.some(hasEnd);
    if (!own.some(hasEnd)) find("success").value = "";
    find("problem").parentElement.hidden = !unique(own, "problem").length;
    narrow();
  }

  function texts(item) {
    const branches = (item.branches || []).flatMap((branch) => [branch.text, branch.think,
      ...(branch.futures || []).flatMap((future) => future.messages.map((said) => said.text))]);
    return [item.id, ...item.messages.map((said) => said.text), ...branches].join("\n");
  }

  function narrow() {
    const group = find("group").value, success = find("success").value;
    const problem = find("problem").value, words = find("words").value.trim().toLowerCase();
    const own = items.map((item, index) => [item, index])
      .filter(([item]) => item.kind === kind());
    const left = own.filter(([item]) => (!group || item.group === group)
      && (!success || String(item.success) === success)
      && (!problem || item.problem === problem)
      && (!words || texts(item).toLowerCase().includes(words)));
    shown = left.map(([, index]) => index);
    find("count").textContent = `${shown.length} of ${own.length}`
      + (shown.length ? "" : ": nothing is left, widen the filters");
    list.replaceChildren(...left.map(([item, index]) => entry(item, index)));
    mark();
    if (!wide()) return;
    if (shown.length && !shown.includes(current)) show(shown[0]);
    if (!shown.length) { current = -1; pane.replaceChildren(); }
  }

  function entry(item, index) {
    const heard = item.messages.filter((said) => said.role === "seeker");
    // What candidates answer is the latest message; many contexts begin alike.
    const said = (item.branches ? heard.at(-1) : heard[0]) || item.messages[0];
    const button = make("button", "",
      make("strong", "", title(item), make("em", "", `${item.group}`)),
      make("span", "start", said ? said.text : ""));
    const marks = dots(item), end = ending(item);
    if (marks || end) button.append(make("span", "ending", marks, make("span", "", end)));
    button.type = "button";
    button.dataset.index = index;
    return make("li", "", button);
  }

  const title = (item) => item.problem
    || (item.iteration === undefined ? item.id : `iteration ${item.iteration}`);

  // How a conversation ended, or how far apart what was tried lies.
  function ending(item) {
    if (item.success !== undefined) return item.success ? "reached" : "not reached";
    const values = figures(item).filter((value) => value !== null);
    if (!values.length) return "";
    return `${item.branches.length} tried, ${signed(Math.min(...values))} to `
      + signed(Math.max(...values));
  }
  const figures = (item) =>
    (item.branches || []).map((one) => one.value ?? one.advantage ?? null);

  function dots(item) {
    const turns = judged(item.messages);
    if (!turns.length) return null;
    return make("span", "dots", ...turns.map((said) => make("i", `o-${mood(said)}`)));
  }

  function mark() {
    for (const button of list.querySelectorAll("button")) {
      const isCurrent = Number(button.dataset.index) === current;
      button.setAttribute("aria-current", isCurrent);
      button.tabIndex = isCurrent ? 0 : -1;
    }
    if (!list.querySelector("[tabindex='0']") && list.querySelector("button")) {
      list.querySelector("button").tabIndex = 0;
    }
  }

  function turn(said) {
    const node = make("li", said.role);
    node.append(make("span", "hidden", `${said.role}: `));
    if (said.think) node.append(make("p", "thought", said.think));
    node.append(make("p", "said", said.text || said.failure || "(nothing)"));
    if (said.value !== undefined) {
      const word = said.outcome ? `${said.outcome} ` : "";
      node.append(make("p", "verdict", make("i", `o-${mood(said)}`), word + signed(said.value)));
    }
    return node;
  }

  // Where something was tried, the latest messages are what it answers.
  function talk(item) {
    const cut = item.branches ? Math.max(item.messages.length - NUM_LATEST, 0) : 0;
    const said = item.messages.map(turn);
    const latest = make("ol", "talk", ...said.slice(cut));
    if (!cut) return [latest];
    const fold = make("details", "", make("summary", "", `${cut} earlier messages`),
      make("ol", "talk", ...said.slice(0, cut)));
    return [fold, latest];
  }

  function branch(one, isBest) {
    const figure = one.value ?? one.advantage;
    const error = one.error ? `\u00a0\u00b1\u00a0${one.error.toFixed(2)}` : "";
    const name = one.value !== undefined ? `reward${error}`
      : one.advantage !== undefined ? "advantage" : "";
    const node = make("section", isBest ? "branch best" : "branch", make("header", "",
      make("span", "", [one.label, name].filter(Boolean).join(" \u00b7 ")),
      figure === undefined || figure === null ? null : make("b", "", signed(figure))));
    if (one.think) node.append(make("p", "thought", one.think));
    node.append(make("p", "said", one.text || one.failure || "(nothing)"));
    const terms = Object.entries(one.rewards || {});
    if (terms.length) {
      const text = terms.map(([term, value]) => `${term} ${plain(value)}`).join(", ");
      node.append(make("p", "terms", text));
    }
    (one.futures || []).forEach((future, number) => {
      const end = future.success ? "goal reached" : "goal not reached";
      node.append(make("h5", "", `Future ${number + 1}: ${end}`),
        make("ol", "talk", ...future.messages.map(turn)));
    });
    return node;
  }

  function same(item) {
    const others = items.map((other, index) => [other, index]).filter(([other]) =>
      other.kind === item.kind && other.id === item.id && item.kind !== "samples");
    if (others.length < 2) return null;
    const buttons = others.map(([other, index]) => {
      const button = make("button", "button", other.group);
      button.type = "button";
      button.setAttribute("aria-pressed", other === item);
      button.addEventListener("click", () => go(index));
      return button;
    });
    return make("p", "others", item.kind === "conversation" ? "The same person with" : "The same in",
      ...buttons);
  }

  function show(index) {
    const item = items[index];
    if (!item) return;
    current = index;
    const back = make("button", "button back", "\u2190 all");
    back.type = "button";
    back.addEventListener("click", close);
    const ends = item.success === undefined ? [] : [item.success ? "goal reached" : "goal not reached"];
    if (item.failure) ends.push(`broken off: ${item.failure}`);
    const about = [item.group, ...ends, item.id].join(" \u00b7 ");
    pane.replaceChildren(back, make("h3", "", title(item)), make("p", "note", about));
    if (item.situation) pane.append(make("p", "note", item.situation));
    const others = same(item);
    if (others) pane.append(others);
    pane.append(...talk(item));
    if (item.branches) {
      const values = figures(item);
      const best = Math.max(...values.filter((value) => value !== null));
      const head = { futures: "Candidates and their futures", samples: "Completions, best first",
        replies: "What each replies" }[item.kind];
      const nodes = item.branches.map((one, number) =>
        branch(one, values[number] !== null && values[number] === best));
      pane.append(make("h4", "", head), make("div", "branches", ...nodes));
    }
    pane.scrollTop = 0;
    mark();
  }

  const wide = () => matchMedia("(min-width: 761px)").matches;
  function go(index) {
    // An address for every conversation, and the browser's way back on a phone.
    if (location.hash === `#item-${index}`) follow();
    else location.hash = `item-${index}`;
  }
  function follow() {
    const match = /^#item-(\d+)$/.exec(location.hash);
    reader.classList.toggle("open", Boolean(match));
    if (!match) return;
    const item = items[Number(match[1])];
    if (!item) return;
    if (item.kind !== kind()) {
      document.querySelector(`[name=kind][value=${item.kind}]`).checked = true;
      setKind();
    }
    show(Number(match[1]));
    if (!wide()) { reader.scrollIntoView(); pane.focus({ preventScroll: true }); }
  }
  function close() {
    location.hash = "read";
    reader.classList.remove("open");
    const button = list.querySelector(`[data-index='${current}']`);
    if (button) button.focus();
  }

  for (const name of kinds) {
    const input = make("input");
    Object.assign(input, { type: "radio", name: "kind", value: name, checked: name === kinds[0] });
    input.addEventListener("change", setKind);
    find("kinds").append(make("label", "", input, make("span", "", KINDS[name][0])));
  }
  for (const id of ["group", "success", "problem", "words"]) {
    find(id).addEventListener("input", narrow);
  }
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("thoughts").addEventListener("change", (event) => {
    reader.classList.toggle("no-thoughts", !event.target.checked);
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) go(Number(button.dataset.index));
  });
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || !buttons[to]) return;
    event.preventDefault();
    buttons[to].focus();
    if (wide()) show(Number(buttons[to].dataset.index));
  });
  pane.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("hashchange", follow);
  setKind();
  follow();
})();
