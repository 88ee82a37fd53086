"use strict";
// Asks for the page itself and takes over what changed in its main part, so that scrolling, focus, a selection and what was
// unfolded stay. What comes with it is no script: the parser runs none.
const every = 5000;
const away = document.getElementById("away");
let title = document.title;
let since;

const move = (parent, node, before) => {
  // moveBefore keeps the focus, where a browser has it.
  if (node.parentNode === parent && parent.moveBefore) parent.moveBefore(node, before);
  else parent.insertBefore(node, before);
};

// What has an id is known by it: one that comes or goes moves no other.
const patch = (old, next) => {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = next.data;
    return;
  }
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    // What somebody unfolded stays so.
    if (name !== "open" && !next.hasAttribute(name)) old.removeAttribute(name);
  }
  const ids = new Set(Array.from(next.children, ({ id }) => id));
  const known = new Map(Array.from(old.children, (child) => [child.id, child]));
  for (const [id, child] of known) if (id && !ids.has(id)) child.remove();
  let at = old.firstChild;
  const pass = () => {
    const passed = at;
    at = at.nextSibling;
    return passed;
  };
  for (const child of [...next.childNodes]) {
    const same = child.id ? known.get(child.id) : at;
    if (same?.nodeName !== child.nodeName || (same.id ?? "") !== (child.id ?? "")) {
      old.insertBefore(document.adoptNode(child), at);
      continue;
    }
    while (at && at !== same && !at.id) pass().remove();
    if (at === same) pass();
    else move(old, same, at);
    patch(same, child);
  }
  while (at) pass().remove();
};

const refresh = async () => {
  const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`it says ${answer.status}, ${text.trim().slice(0, 200)}`);
  // Of the rest, the style has a nonce of its own: even where nothing is shown of it, the policy would complain.
  const part = text.slice(text.indexOf("<main"), text.indexOf("</main>"));
  const now = new DOMParser().parseFromString(part, "text/html").querySelector("main");
  const main = document.querySelector("main");
  if (!now) throw new Error("what answers is no page of pinfold");
  // Another pinfold has another style and script.
  if (now.dataset.version !== main.dataset.version) return location.reload();
  patch(main, now);
  document.title = title = now.dataset.title;
};

const again = async () => {
  if (document.hidden) {
    document.addEventListener("visibilitychange", again, { once: true });
    return;
  }
  try {
    await refresh();
    since = undefined;
    away.textContent = "";
  } catch (error) {
    since ??= new Date().toLocaleTimeString();
    const why = error.name === "TimeoutError" ? "it does not answer in time" : error.message;
    away.textContent = `The daemon is not there since ${since} (${why}). What stands here is from before.`;
    document.title = `(no answer) ${title}`;
  }
  setTimeout(again, every);
};
setTimeout(again, every);
