// Answers are Markdown of unknown origin: documents may have written any of it. What is rendered
// has been through DOMPurify, loads nothing, and links only to the web.

import DOMPurify from "dompurify";
import { marked } from "marked";
import type { Sentence } from "./api";
import { unitAt } from "./points";

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i",
  "li", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
// Around sentences that nothing supports: private characters survive Markdown, and no text needs
// them (any in the answer itself are taken out first).
const OPEN = "\ue000";
const CLOSE = "\ue001";
const PIECES = /(\ue000|\ue001|\[\d{1,3}\])/;

/** The answer as nodes: `[n]` are buttons with `data-marker`, unsupported sentences are marked. */
export function rendered(answer: string, sentences: Sentence[], markers: Set<number>): Node {
  const html = marked.parse(marked_up(answer, sentences), { async: false, gfm: true, breaks: false });
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "align", "start"],
    ALLOWED_URI_REGEXP: /^https?:/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const texts: Text[] = [];
  while (walker.nextNode()) texts.push(walker.currentNode as Text);
  let unsupported = false;
  for (const node of texts) {
    const pieces = node.data.split(PIECES);
    if (pieces.length === 1 && !unsupported) continue;
    const parts: Node[] = [];
    for (const piece of pieces) {
      if (piece === OPEN || piece === CLOSE) unsupported = piece === OPEN;
      else if (/^\[\d+\]$/.test(piece) && markers.has(Number(piece.slice(1, -1)))) {
        parts.push(marker(piece.slice(1, -1)));
      } else if (piece) parts.push(unsupported ? doubted(piece) : document.createTextNode(piece));
    }
    node.replaceWith(...parts);
  }
  return fragment;
}

function marked_up(answer: string, sentences: Sentence[]): string {
  let text = "";
  let at = 0;
  for (const sentence of sentences) {
    if (sentence.supported !== false) continue;
    const start = unitAt(answer, sentence.start);
    const end = unitAt(answer, sentence.end);
    text += clean(answer.slice(at, start)) + OPEN + clean(answer.slice(start, end)) + CLOSE;
    at = end;
  }
  return text + clean(answer.slice(at));
}

function clean(text: string): string {
  return text.replaceAll(OPEN, "").replaceAll(CLOSE, "");
}

function marker(number: string): HTMLElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "marker";
  button.dataset.marker = number;
  button.textContent = number;
  button.setAttribute("aria-label", `Source ${number}: open the document at the quote`);
  return button;
}

function doubted(text: string): HTMLElement {
  const mark = document.createElement("span");
  mark.className = "unsupported";
  mark.title = "No passage that is cited supports this.";
  mark.textContent = text;
  return mark;
}
