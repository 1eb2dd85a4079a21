// What axe would find, as far as these pages can get it wrong: an array of violations in words.
(() => {
  const found = [];
  const say = (what, e) => found.push(what + (e ? ": " + e.outerHTML.slice(0, 120) : ""));
  const visible = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility === "visible";

  if (!document.documentElement.lang) say("the page names no language");
  if (!document.title.trim()) say("the page has no title");
  if (document.querySelectorAll("h1").length !== 1) say("the page has not one h1");
  for (const role of ["main", "header"]) if (document.querySelectorAll(role).length !== 1) say("the page has not one " + role);

  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const n = +h.tagName[1];
    if (n > level + 1) say("a heading skips a level", h);
    if (!h.textContent.trim()) say("a heading is empty", h);
    level = n;
  }

  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) say("two elements have one id", e);
    ids.add(e.id);
  }
  for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby]"))
    for (const id of ((e.getAttribute("aria-describedby") || "") + " " + (e.getAttribute("aria-labelledby") || "")).trim().split(/\s+/))
      if (!document.getElementById(id)) say("what describes it is not there", e);

  const name = e => (e.getAttribute("aria-label") || [...(e.labels || [])].map(l => l.textContent).join(" ") || e.textContent || e.title || "").trim();
  for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary")) {
    if (visible(e) && !name(e)) say("a control has no name", e);
    if ((e.tagName === "SELECT" || e.tagName === "TEXTAREA" || e.tagName === "INPUT") && visible(e) && !e.labels.length && !e.getAttribute("aria-label")) say("a field has no label", e);
  }
  for (const e of document.querySelectorAll("progress, [role=region], [role=img], nav, form[aria-label]"))
    if (visible(e) && !name(e) && !e.querySelector("title")) say("it has no name", e);
  for (const e of document.querySelectorAll("img:not([alt])")) say("a picture has no alternative", e);
  for (const e of document.querySelectorAll("th:not([scope])")) say("a head cell has no scope", e);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) say("the focus order is forced", e);
  for (const e of document.querySelectorAll("[role=button], [onclick]")) say("something plays a button", e);

  // What scrolls can be reached by keyboard.
  for (const e of document.querySelectorAll("*")) {
    const style = getComputedStyle(e);
    if (e !== document.scrollingElement && visible(e) && /auto|scroll/.test(style.overflowX) && e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0 && !["TEXTAREA", "INPUT", "SELECT"].includes(e.tagName))
      say("it scrolls, and no key gets there", e);
  }

  // Contrast (WCAG 2.2, 1.4.3).
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const behind = e => {
    const layers = [];
    for (let p = e; p; p = p.parentElement) layers.push(rgba(getComputedStyle(p).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || seen.has(e) || !visible(e) || ["SCRIPT", "STYLE", "NOSCRIPT", "TITLE", "DESC", "OPTION"].includes(e.tagName.toUpperCase())) continue;
    seen.add(e);
    const style = getComputedStyle(e);
    if (e.closest("progress, .skip, .hidden, :disabled")) continue;
    const under = behind(e);
    const text = over(rgba(e.closest("svg") && e.tagName === "text" ? style.fill : style.color), under);
    const [a, b] = [light(text), light(under)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || size >= 18.66 && +style.fontWeight >= 700 ? 3 : 4.5;
    if ((a + 0.05) / (b + 0.05) < least) say("contrast " + ((a + 0.05) / (b + 0.05)).toFixed(2) + " is below " + least, e);
  }
  return found;
})()
