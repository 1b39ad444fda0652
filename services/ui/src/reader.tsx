import { useEffect, useRef, useState } from "preact/hooks";
import { documentPath, get, text as getText, type DocumentRow } from "./api";
import { unitAt } from "./points";
import { Trouble } from "./trouble";

/** A document, and the span of it that is wanted; without one its beginning. */
export interface Passage {
  collection: string;
  id: string;
  title: string;
  page: number | null;
  start?: number;
  end?: number;
}

const AROUND = 20_000; // characters that are shown on either side; more on demand

/** The document beside the chat, opened at the span, which is highlighted. */
export function Reader({ passage, close }: { passage: Passage; close: () => void }) {
  const [text, setText] = useState<string>();
  const [row, setRow] = useState<DocumentRow>();
  const [error, setError] = useState<unknown>();
  const [around, setAround] = useState(AROUND);
  const panel = useRef<HTMLElement>(null);
  const mark = useRef<HTMLElement>(null);

  useEffect(() => {
    setText(undefined);
    setError(undefined);
    setAround(AROUND);
    let current = true;
    const opener = document.activeElement as HTMLElement | null;
    panel.current?.focus();
    Promise.all([
      getText(documentPath(passage.id, passage.collection, "/text")),
      get<DocumentRow>(documentPath(passage.id, passage.collection)),
    ])
      .then(([found, about]) => {
        if (!current) return;
        setText(found);
        setRow(about);
      })
      .catch((why: unknown) => current && setError(why));
    return () => {
      current = false;
      opener?.focus();
    };
  }, [passage.id, passage.collection]);

  useEffect(() => {
    mark.current?.scrollIntoView({ block: "center" });
  }, [text, passage.start]);

  const from = text === undefined ? 0 : unitAt(text, passage.start ?? 0);
  const to = text === undefined ? 0 : from + unitAt(text.slice(from), span(passage));
  const begin = Math.max(0, from - around);
  const end = Math.min(text?.length ?? 0, to + around);
  return (
    <aside
      class="reader"
      aria-labelledby="reader-title"
      tabIndex={-1}
      ref={panel}
      onKeyDown={(event) => event.key === "Escape" && close()}
    >
      <div class="bar">
        <div>
          <h2 id="reader-title">{row?.title ?? passage.title}</h2>
          <p class="faint">
            {passage.page !== null && <span>Page {passage.page} · </span>}
            {row?.source || passage.id}
          </p>
        </div>
        <button type="button" class="quiet" onClick={close}>
          Close<span class="hidden"> the document</span>
        </button>
      </div>
      <Trouble error={error} />
      {text === undefined && !error && <p class="faint">Opening…</p>}
      {text !== undefined && (
        <div class="text" tabIndex={0} role="region" aria-label="The document's text">
          {begin > 0 && <More more={() => setAround(around * 4)} what="before" />}
          {text.slice(begin, from)}
          {to > from && <mark ref={mark}>{text.slice(from, to)}</mark>}
          {text.slice(to, end)}
          {end < text.length && <More more={() => setAround(around * 4)} what="after" />}
        </div>
      )}
    </aside>
  );
}

function More({ more, what }: { more: () => void; what: string }) {
  return (
    <button type="button" class="more" onClick={more}>
      Show more of what comes {what}
    </button>
  );
}

function span(passage: Passage): number {
  return (passage.end ?? 0) - (passage.start ?? 0);
}
